"""Small faults of the counting code: where they can be made, under which names, and how.

Every number, truth value, text and operator of ``llmsim/core`` and ``llmsim/layers`` is a candidate: numbers grow by
one, texts lose their last word, operators become their neighbours. Left out is what counts nothing: documentation,
annotations, errors that are raised, flags of dataclasses and caches.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("llmsim/core", "llmsim/layers")
NOT_COUNTING = {"errors.py", "files.py", "progress.py", "provenance.py", "__init__.py"}
"""Texts of errors, writing of files, bars of progress, origins of rates."""

OPERATORS: dict[type[ast.AST], type[Any]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE,
    ast.GtE: ast.Gt, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or,
    ast.Or: ast.And, ast.USub: ast.UAdd, ast.LShift: ast.RShift, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Attributes
    ----------
    file, scope, change, ordinal
        Where and what: the function or class around it, the change, and the how-many-th such change in there. None of
        them moves when something else is edited.
    kind
        ``number``, ``text`` or ``operator``.
    lines
        Of the statement around it, first and last.
    index
        Among the candidates of its file.
    """

    file: str
    scope: str
    change: str
    ordinal: int
    kind: str
    lines: tuple[int, int]
    index: int

    @property
    def name(self) -> str:
        """By which it is known in any version of the file."""
        return f"{self.file} {self.scope}: {self.change}" + (f" #{self.ordinal}" if self.ordinal > 1 else "")

    def __str__(self) -> str:
        return f"{self.name} (line {self.lines[0]})"


@dataclass(frozen=True)
class Candidate:
    """A node that can be changed in its tree."""

    scope: str
    change: str
    kind: str
    lines: tuple[int, int]
    apply: Callable[[], None]


def candidates(tree: ast.Module) -> list[Candidate]:
    """Everything in a file that can be changed, in the order of the source."""
    return list(_inside(tree, "module", (1, 1), _left_out(tree)))


def _inside(node: ast.AST, scope: str, lines: tuple[int, int], left_out: set[int]) -> Iterator[Candidate]:
    for child in ast.iter_child_nodes(node):
        if id(child) in left_out:
            continue
        at, inner = lines, scope
        if isinstance(child, ast.stmt):
            body = getattr(child, "body", None)
            at = child.lineno, body[0].lineno - 1 if body else child.end_lineno or child.lineno
            at = at[0], max(at)
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            inner = child.name if scope == "module" else f"{scope}.{child.name}"
        yield from (Candidate(inner, change, kind, at, apply) for change, kind, apply in _changes(child))
        yield from _inside(child, inner, at, left_out)


def _changes(node: ast.AST) -> Iterator[tuple[str, str, Callable[[], None]]]:
    """Text of each change of a node, its kind, and what makes it."""

    def put(value: object, field: str) -> Callable[[], None]:
        return lambda: setattr(node, field, value)

    if isinstance(node, ast.Constant):
        if isinstance(node.value, (bool, int, float)):
            other = not node.value if isinstance(node.value, bool) else node.value + 1
            yield f"{node.value} -> {other}", "number", put(other, "value")
        elif isinstance(node.value, str):
            text = _shorter(node.value)
            yield f"{node.value!r} -> {text!r}", "text", put(text, "value")
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "not x -> x", "operator", put(ast.UnaryOp(ast.Not(), node.operand), "operand")
    elif isinstance(node, (ast.BinOp, ast.BoolOp, ast.UnaryOp, ast.AugAssign)) and type(node.op) in OPERATORS:
        other = OPERATORS[type(node.op)]
        yield f"{type(node.op).__name__} -> {other.__name__}", "operator", put(other(), "op")
    elif isinstance(node, ast.Compare):
        for k, op in enumerate(node.ops):
            other = OPERATORS[type(op)]
            yield (
                f"{type(op).__name__} -> {other.__name__}",
                "operator",
                lambda k=k, o=other: node.ops.__setitem__(k, o()),
            )


def _shorter(text: str) -> str:
    """A text without its last word; a blank one gets or loses something."""
    shorter = re.sub(r"\s*\S+(\s*)$", r"\1", text)
    return shorter if shorter != text else "" if text else "other"


def _left_out(tree: ast.AST) -> set[int]:
    """Nodes that count nothing."""
    found: set[int] = set()
    for node in ast.walk(tree):
        parts: list[ast.AST | None] = []
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                parts = [*node.decorator_list, getattr(node, "returns", None)]
            case ast.AnnAssign(annotation=ast.Name("TypeAlias")):
                parts = [node]
            case ast.AnnAssign() | ast.arg():
                parts = [node.annotation]
            case ast.Assign(value=ast.Subscript(value=ast.Name("Literal"))) | ast.Raise():
                parts = [node]
            case ast.Assign(targets=[ast.Name("__slots__")]) | ast.Expr(value=ast.Constant()):
                parts = [node]
            case ast.Call(func=ast.Name("field" | "TypeVar" | "ContextVar")):
                parts = [node]
            case ast.keyword(arg="strict"):
                parts = [node]
        found.update(id(part) for part in parts if part is not None)
    return found


def mutants() -> list[Mutant]:
    """All candidates of the counting code."""
    found = []
    for room in ROOMS:
        for path in sorted((ROOT / room).glob("*.py")):
            if path.name in NOT_COUNTING:
                continue
            seen: Counter[tuple[str, str]] = Counter()
            for index, c in enumerate(candidates(ast.parse(path.read_text(encoding="utf-8")))):
                seen[c.scope, c.change] += 1
                ordinal = seen[c.scope, c.change]
                found.append(Mutant(f"{room}/{path.name}", c.scope, c.change, ordinal, c.kind, c.lines, index))
    return found


def draw(count: int, seed: int) -> list[Mutant]:
    """As many candidates as asked for, at random by the seed; which ones does not depend on what else there is."""
    return sorted(mutants(), key=lambda m: hashlib.sha256(f"{seed} {m.name}".encode()).digest())[:count]


def mutated(source: str, mutant: Mutant) -> str:
    """A file with one candidate changed."""
    tree = ast.parse(source)
    candidates(tree)[mutant.index].apply()
    return ast.unparse(ast.fix_missing_locations(tree))
