"""The index of formulas: which function holds which published formula, and where it comes from.

    python tools/formulas.py           # whether docs/formulas.md is what the docstrings say
    python tools/formulas.py --write   # write it

A function, method or class is listed where its docstring cites a source: a *References* section, an arXiv number or a
DOI. So are public functions that compute something in a module whose docstring cites one.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "formulas.md"
PACKAGE = ROOT / "llmsim"
LEFT_OUT = ("huggingface", "measure", "cli", "report")
"""Packages that read, print or hold what formulas are compared with."""
NO_FORMULA = ("get_", "default_", "checked_", "parse_", "read_", "is_", "to_")
CITED = re.compile(r"(?:[A-Z][\w-]+(?: \d{4})?, )?arXiv:\s*\d{4}\.\d{4,5}|doi:\S+")
BRACKETS = re.compile(r"\s*\(([^()]*(?:arXiv|doi):[^()]*)\)")
REFERENCES = re.compile(r"^References\n-+\n(.*?)(?=\n\n\S[^\n]*\n-+\n|\Z)", re.MULTILINE | re.DOTALL)
INTRODUCTION = """# Formulas and their sources

Every published formula or method in llmsim, the function that holds it and where it comes from. The page is written
from the docstrings by `python tools/formulas.py --write`. Where a row has no source of its own, that of its module
holds.
"""

Named: TypeAlias = ast.FunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Formula:
    """A function or class that holds a published formula.

    Attributes
    ----------
    title
        First sentence of its docstring.
    source
        What its own docstring cites; empty where that of the module holds.
    """

    name: str
    title: str
    source: str


@dataclass(frozen=True)
class Module:
    """Formulas of one file."""

    path: Path
    title: str
    source: str
    formulas: tuple[Formula, ...]


def modules() -> Iterator[Module]:
    """Files that hold published formulas, in the order of their names."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] in LEFT_OUT:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        text = ast.get_docstring(tree) or ""
        source = references(text)
        formulas = tuple(_formulas(tree, bool(source))) or (tuple(_public(tree)) if source else ())
        if formulas:
            yield Module(path, _first_sentence(text), source, formulas)


def _formulas(tree: ast.Module, module_cites: bool) -> Iterator[Formula]:
    for node in tree.body:
        if not isinstance(node, Named):
            continue
        yield from _formula(node, node.name, module_cites)
        for method in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(method, ast.FunctionDef):
                yield from _formula(method, f"{node.name}.{method.name}", False)


def _formula(node: Named, name: str, module_cites: bool) -> Iterator[Formula]:
    """One that cites a source itself, or that computes something in a module that does."""
    text = ast.get_docstring(node) or ""
    own = references(text)
    if own or (module_cites and text and _computes(node) and not name.startswith("_")):
        yield Formula(name, _first_sentence(text), own)


def _public(tree: ast.Module) -> Iterator[Formula]:
    """All that a module has which cites a source for its tables and rules."""
    for node in tree.body:
        if isinstance(node, Named) and not node.name.startswith("_") and (text := ast.get_docstring(node)):
            yield Formula(node.name, _first_sentence(text), "")


def _computes(node: Named) -> bool:
    """Whether a function returns more than a text, a truth value or what a name stands for."""
    if not isinstance(node, ast.FunctionDef) or node.name.startswith(NO_FORMULA) or node.returns is None:
        return False
    return not re.fullmatch(r"(str|bool|None|(tuple|list|dict|set|frozenset)\[str\b.*\])", ast.unparse(node.returns))


def references(docstring: str) -> str:
    """What a docstring cites: its section of references, else the sentences with a number of a paper."""
    if section := REFERENCES.search(docstring):
        return _in_one_line(section[1])
    found: list[str] = []
    for text in map(_in_one_line, re.split(r"\n\s*\n|\n(?=\S[^\n]*\n {4})", docstring)):
        inside = [match[1].split(": ``")[0] for match in BRACKETS.finditer(text)]
        rest = BRACKETS.sub("", text)
        found += [*inside, *(match[0] for match in CITED.finditer(rest))]
    return "; ".join(dict.fromkeys(found))


def _in_one_line(text: str) -> str:
    return " ".join(text.split())


def _first_sentence(docstring: str) -> str:
    text = BRACKETS.sub("", _in_one_line(docstring.split("\n\n", maxsplit=1)[0]))
    return re.split(r"(?<=[\w`)\]])\. (?=[A-Z`])", text)[0].rstrip(".")


def page() -> str:
    """The page, from the docstrings."""
    parts = [INTRODUCTION]
    package = ""
    for module in modules():
        relative = module.path.relative_to(ROOT)
        if relative.parts[1] != package:
            package = relative.parts[1]
            parts.append(f"## {package.removesuffix('.py').replace('_', ' ').capitalize()}\n")
        parts.append(f"### {_title(module)}\n")
        parts.append(f"[`{relative}`](../{relative})\n")
        if module.source:
            parts.append(f"Source: {_linked(module.source)}\n")
        own = any(formula.source for formula in module.formulas)
        head = ("| formula | function | source |", "|---|---|---|") if own else ("| formula | function |", "|---|---|")
        parts.append("\n".join((*head, *(_row(formula, relative, own) for formula in module.formulas))) + "\n")
    return "\n".join(parts)


def _title(module: Module) -> str:
    title = module.title.split(":")[0] if len(module.title) > 70 else module.title
    return title[:1].upper() + title[1:]


def _row(formula: Formula, relative: Path, own: bool) -> str:
    cells = [_cell(formula.title), f"[`{formula.name}`](../{relative})"]
    if own:
        cells.append(_cell(_linked(formula.source)))
    return "| " + " | ".join(cells) + " |"


def _cell(text: str) -> str:
    text = re.sub(r":\w+:`~?([^`]+)`", lambda m: f"`{m[1].rsplit('.', 1)[-1]}`", text).replace("``", "`")
    return text.replace("|", "\\|")


def _linked(text: str) -> str:
    text = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", _cell(text))
    return re.sub(r"\bdoi:([^\s,;]+[^\s,;.)])", r"[doi:\1](https://doi.org/\1)", text).replace("\\|", "|")


def main() -> int:
    """Report or write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true")
    text = page()
    if parser.parse_args().write:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    same = PAGE.exists() and PAGE.read_text(encoding="utf-8") == text
    print("as the docstrings say" if same else "not as the docstrings say: python tools/formulas.py --write")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
