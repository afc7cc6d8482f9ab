"""Pages of the site that are made when it is built: the API reference, the changelog and files that pages link to.

A hook of mkdocs. Documents link to files of the repository as GitHub wants it (``../llmsim/hardware/network.py``); the
site has these files as pages of its own, so that nothing is loaded from elsewhere and every link can be checked. A link
whose text is the name of a function leads to its line.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
TO_SOURCE = re.compile(r'href="(?P<url>[^"]*?source/(?P<file>[^"]+\.py)\.html)"><code>(?P<name>[\w.]+)</code>')
SOURCES = "source"
"""Folder of the site for pages of files outside ``docs``."""
LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>(?!\w+:)[^)#\s]+)(?P<anchor>#[^)]*)?\)")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".csv": "text", "": "text"}
GROUPS = {
    "verbs": ("Verbs", "Functions that answer a question. A verb takes what the command line takes, texts included."),
    "objects": ("Objects", "What questions are asked about: models, clusters, plans and spaces of plans."),
    "results": ("Results", "What verbs return: plain records. Most have `to_dict`, which `--json` prints."),
    "errors": ("Errors", "What is raised where a question has no answer, and what it says."),
}


def groups() -> dict[str, list[str]]:
    """The public names by kind of page."""
    import llmsim

    found: dict[str, list[str]] = {group: [] for group in GROUPS}
    values = {name: getattr(llmsim, name) for name in llmsim.__all__ if not name.startswith("__")}
    returned = {kind for value in values.values() if inspect.isfunction(value) for kind in _returned(value)}
    for name, value in values.items():
        if not inspect.isclass(value):
            found["verbs"].append(name)
        elif issubclass(value, Exception):
            found["errors"].append(name)
        else:
            found["results" if name in returned else "objects"].append(name)
    return found


def _returned(function: Any) -> set[str]:
    return set(re.findall(r"\w+", str(inspect.signature(function).return_annotation)))


def reference(group: str) -> str:
    """The page of a group of public names."""
    title, text = GROUPS[group]
    return f"# {title}\n\n{text}\n\n" + "\n\n".join(f"::: llmsim.{name}" for name in groups()[group]) + "\n"


def targets(path: Path, text: str) -> Iterator[tuple[re.Match[str], Path]]:
    """Links of a document, and the files of the repository that they lead to."""
    for match in LINK.finditer(text):
        target = Path(os.path.normpath(path.parent / match["target"]))
        if target.is_file() and target.is_relative_to(ROOT):
            yield match, target


def place(path: Path) -> str:
    """Where the site has a file of the repository."""
    if path == ROOT / "CHANGELOG.md":
        return "changelog.md"
    if path.is_relative_to(DOCS):
        return str(path.relative_to(DOCS))
    relative = str(path.relative_to(ROOT))
    return f"{SOURCES}/{relative}" if path.suffix in (".md", ".svg", ".png") else f"{SOURCES}/{relative}.md"


def rewritten(path: Path, text: str) -> str:
    """A document whose links lead to places of the site."""
    here = os.path.dirname(place(path))
    parts, end = [], 0
    for match, target in targets(path, text):
        anchor = match["anchor"] or ""
        parts += [text[end : match.start()], f"[{match['text']}]({os.path.relpath(place(target), here)}{anchor})"]
        end = match.end()
    return "".join((*parts, text[end:]))


@cache
def _lines(path: Path) -> dict[str, int]:
    """Line of each function, class and method of a file."""
    found: dict[str, int] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node.lineno
            for part in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(part, ast.FunctionDef):
                    found[f"{node.name}.{part.name}"] = part.lineno
    return found


def linked() -> dict[Path, str]:
    """Files outside ``docs`` that its pages lead to, directly or by way of others, and their pages."""
    found: dict[Path, str] = {}
    open_ = [*DOCS.rglob("*.md"), ROOT / "CHANGELOG.md"]
    seen: set[Path] = set()
    while open_:
        path = open_.pop()
        if path in seen:
            continue
        seen.add(path)
        inside = path.is_relative_to(DOCS)
        text = path.read_text(encoding="utf-8") if path.suffix not in (".png", ".svg") else ""
        if path.suffix == ".md":
            open_ += [target for _, target in targets(path, text)]
            if not inside:
                found[path] = rewritten(path, text)
        elif not inside:
            found[path] = f"# {path.relative_to(ROOT)}\n\n" + _fenced(path, text) if text else ""
    return found


def _fenced(path: Path, text: str) -> str:
    return f'~~~~{LANGUAGES.get(path.suffix, "text")} linenums="1"\n{text}\n~~~~\n'


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made."""
    from mkdocs.structure.files import File, InclusionLevel

    for group in GROUPS:
        files.append(File.generated(config, f"api/{group}.md", content=reference(group)))
    for path, content in linked().items():
        made = {"content": content} if content else {"abs_src_path": str(path)}
        own = typing.cast(Any, made)
        page = File.generated(config, place(path), inclusion=InclusionLevel.NOT_IN_NAV, **own)
        if page.src_uri == "changelog.md":
            page.inclusion = InclusionLevel.INCLUDED
        files.append(page)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of documents lead to places of the site."""
    path = DOCS / page.file.src_uri
    return rewritten(path, markdown) if path.is_file() else markdown


def on_page_content(html: str, **_: Any) -> str:
    """Links to functions lead to their lines, which mkdocs does not know to be anchors."""
    return TO_SOURCE.sub(_to_line, html)


def _to_line(match: re.Match[str]) -> str:
    line = _lines(ROOT / match["file"]).get(match["name"])
    anchor = f"#__codelineno-0-{line}" if line else ""
    return f'href="{match["url"]}{anchor}"><code>{match["name"]}</code>'
