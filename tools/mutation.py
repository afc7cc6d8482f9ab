"""Mutation of the counting code: how many small faults does the suite catch?

Every literal, operator, comparison and connective of ``llmsim/core`` and ``llmsim/layers`` is a candidate. A number of
them is drawn by a fixed seed; each is changed alone in a copy of the checkout, and the tests run against it until
one fails. ``python tools/mutation.py --count 200`` prints the survivors and the share that was caught.

Survivors that no test can catch (the change means the same) are listed with their reason in ``EQUIVALENT``.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("llmsim/core", "llmsim/layers")
NOT_COUNTING = {"errors.py", "units.py", "files.py", "provenance.py", "__init__.py", "symbolic.py"}
FIRST = ("tests/test_core_properties.py", "tests/test_core_closed_forms.py", "tests/test_core_inventory.py",
         "tests/test_core_data_parallel.py", "tests/test_architecture.py", "tests/test_conformance_messages.py",
         "tests/test_conformance_blocks.py")  # fmt: skip
"""Run first: what most faults are caught by, in the order of their speed."""
TIMEOUT_S = 600

OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE,
    ast.GtE: ast.Gt, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or,
    ast.Or: ast.And, ast.USub: ast.UAdd,
}  # fmt: skip

EQUIVALENT: dict[str, str] = {}
"""``file:line change`` -> why nothing can tell it from the original."""


@dataclass(frozen=True)
class Mutant:
    """One change: the how-many-th candidate of a file."""

    file: str
    index: int
    line: int
    change: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.change}"


def _skipped(tree: ast.AST) -> set[int]:
    """Nodes that are no counting: decorators, annotations, docstrings, default factories of dataclasses."""
    found: set[int] = set()
    for node in ast.walk(tree):
        parts: list[ast.AST] = []
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            parts += node.decorator_list
        if isinstance(node, ast.FunctionDef) and node.returns:
            parts.append(node.returns)
        if isinstance(node, (ast.AnnAssign, ast.arg)) and node.annotation:
            parts.append(node.annotation)
        if isinstance(node, ast.Assign) and any(
            getattr(t, "id", "").endswith(("_CACHE", "__all__")) for t in node.targets
        ):
            parts.append(node)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("field", "lru_cache", "TypeVar", "zip"):
            parts.append(node)
        if isinstance(node, ast.Raise):
            parts.append(node)
        found.update(id(n) for part in parts for n in ast.walk(part))
    return found


def candidates(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Node, text of the change, and which operator of a comparison."""
    skipped = _skipped(tree)
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
            yield node, f"{node.value} -> {_other(node.value)}", None
        elif isinstance(node, (ast.BinOp, ast.BoolOp, ast.UnaryOp)) and type(node.op) in OPERATORS:
            if isinstance(node, ast.BinOp) and _about_text(node):
                continue
            yield node, f"{type(node.op).__name__} -> {OPERATORS[type(node.op)].__name__}", None
        elif isinstance(node, ast.Compare):
            for k, op in enumerate(node.ops):
                yield node, f"{type(op).__name__} -> {OPERATORS[type(op)].__name__}", k


def _about_text(node: ast.BinOp) -> bool:
    sides = (node.left, node.right)
    return any(
        isinstance(s, ast.JoinedStr) or (isinstance(s, ast.Constant) and isinstance(s.value, str)) for s in sides
    )


def _other(value: bool | float) -> bool | float:
    return not value if isinstance(value, bool) else value + 1


def mutants() -> list[Mutant]:
    """All candidates of the counting code."""
    found = []
    for room in ROOMS:
        for path in sorted((ROOT / room).glob("*.py")):
            if path.name not in NOT_COUNTING:
                tree = ast.parse(path.read_text(encoding="utf-8"))
                name = str(path.relative_to(ROOT))
                found += [Mutant(name, i, n.lineno, change) for i, (n, change, _) in enumerate(candidates(tree))]
    return found


def mutated(source: str, index: int) -> str:
    """A file with one candidate changed."""
    tree = ast.parse(source)
    node, _, k = list(candidates(tree))[index]
    if isinstance(node, ast.Constant):
        node.value = _other(node.value)
    elif isinstance(node, ast.Compare) and k is not None:
        node.ops[k] = OPERATORS[type(node.ops[k])]()
    else:
        node.op = OPERATORS[type(node.op)]()  # type: ignore[attr-defined]
    return ast.unparse(ast.fix_missing_locations(tree))


def caught(mutant: Mutant, copy: Path) -> bool:
    """Whether some test fails on a copy of the checkout with this change."""
    target = copy / mutant.file
    original = target.read_text(encoding="utf-8")
    target.write_text(mutated(original, mutant.index), encoding="utf-8")
    try:
        return _fails(copy, list(FIRST)) or _fails(copy, ["tests", *(f"--ignore={t}" for t in FIRST)])
    finally:
        target.write_text(original, encoding="utf-8")


def _fails(copy: Path, arguments: list[str]) -> bool:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0


def _copy(folder: Path) -> Path:
    ignore = shutil.ignore_patterns(".git", ".venv", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis")
    return Path(shutil.copytree(ROOT, folder, ignore=ignore))


def main() -> int:
    """Draw, run, report; status 1 below the share that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=200, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=2026, help="of the draw")
    parser.add_argument("--workers", type=int, default=2, help="copies that run side by side")
    parser.add_argument("--share", type=float, default=0.95, help="least share to catch")
    parser.add_argument("--json", type=Path, help="file for the outcome")
    options = parser.parse_args()
    every = mutants()
    drawn = random.Random(options.seed).sample(every, min(options.count, len(every)))
    print(f"{len(every)} candidates, {len(drawn)} drawn by seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.workers) as pool:
        copies: Queue[Path] = Queue()
        for n in range(options.workers):
            copies.put(_copy(Path(folder) / str(n)))

        def run(mutant: Mutant) -> bool:
            copy = copies.get()
            try:
                return caught(mutant, copy)
            finally:
                copies.put(copy)

        outcome = {}
        for mutant, dead in zip(drawn, pool.map(run, drawn), strict=True):
            outcome[mutant] = dead
            print(f"{len(outcome):4d}  {'caught  ' if dead else 'SURVIVED'}  {mutant}", flush=True)
    survivors = [m for m, dead in outcome.items() if not dead]
    share = 1 - len(survivors) / len(drawn)
    print(f"{share:.1%} of {len(drawn)} caught")
    for mutant in survivors:
        print(f"  {mutant}: {EQUIVALENT.get(str(mutant), 'no reason known')}")
    if options.json:
        rows = [{**asdict(m), "caught": dead} for m, dead in outcome.items()]
        options.json.write_text(json.dumps({"seed": options.seed, "mutants": rows}, indent=1), encoding="utf-8")
    return 0 if share >= options.share else 1


if __name__ == "__main__":
    sys.exit(main())
