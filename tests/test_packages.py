"""The layout of the code: no import circles, no module that has grown too long, no cache without end."""

from __future__ import annotations

import re
from pathlib import Path

import networkx
import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "llmsim"
LONGEST = 420
LAZY = {"llmsim.architecture", "llmsim.huggingface"}
"""``Architecture.from_config`` loads its readers when it is called: the one circle that is meant."""


def test_nothing_imports_itself_by_way_of_others() -> None:
    grimp = pytest.importorskip("grimp")
    graph = grimp.build_graph("llmsim")
    imports = networkx.DiGraph(
        (module, other) for module in graph.modules for other in graph.find_modules_directly_imported_by(module)
    )
    circles = [sorted(c) for c in networkx.strongly_connected_components(imports) if len(c) > 1]
    assert len(circles) == 1
    assert set(circles[0]) >= LAZY
    imports.remove_edges_from([("llmsim.architecture", "llmsim.huggingface")])
    assert networkx.is_directed_acyclic_graph(imports)


def test_no_module_is_too_long() -> None:
    lengths = {p.relative_to(PACKAGE): len(p.read_text(encoding="utf-8").splitlines()) for p in PACKAGE.rglob("*.py")}
    assert {str(p): n for p, n in lengths.items() if n > LONGEST} == {}


def test_no_cache_is_without_end() -> None:
    planner = [p for p in PACKAGE.rglob("*.py") if "measure" not in p.parts]
    texts = {p.name: p.read_text(encoding="utf-8") for p in planner}
    assert [name for name, text in texts.items() if re.search(r"maxsize=None|^@cache$|^_CACHE\b", text, re.M)] == []
