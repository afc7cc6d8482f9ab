"""The tool that makes small faults: its names last, and what it calls equivalent exists."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tools"))

from mutants import candidates, draw, mutants, mutated  # noqa: E402
from mutation import EQUIVALENT  # noqa: E402


def test_names_are_unique_and_drawn_one_by_one() -> None:
    every = mutants()
    assert len({m.name for m in every}) == len(every)
    assert draw(40, 1) == draw(80, 1)[:40]
    assert {m.name for m in draw(40, 1)} != {m.name for m in draw(40, 2)}


def test_equivalents_exist() -> None:
    assert set(EQUIVALENT) <= {m.name for m in mutants()}


def test_every_change_changes_the_code_and_nothing_else() -> None:
    for mutant in draw(60, 3):
        source = (ROOT / mutant.file).read_text(encoding="utf-8")
        changed = mutated(source, mutant)
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source))
        assert abs(len(candidates(ast.parse(changed))) - len(candidates(ast.parse(source)))) <= 1


def test_what_counts_nothing_is_left_out() -> None:
    tree = ast.parse(
        '"""Text."""\n'
        "Kind: TypeAlias = Literal['a', 'b']\n"
        "@dataclass(frozen=True)\n"
        "class A:\n"
        '    """Text."""\n'
        "    x: dict[str, int | None] = field(default_factory=dict, repr=False)\n"
        "def f(a: int = 3) -> int | None:\n"
        "    if not a:\n"
        "        raise InputError('a', a + 1)\n"
        "    return -a < 2 and f'{a:.3f} heads'\n"
    )
    assert [c.change for c in candidates(tree)] == [
        "3 -> 4", "not x -> x", "And -> Or", "Lt -> LtE", "USub -> UAdd", "2 -> 3", "'.3f' -> ''", "' heads' -> ''",
    ]  # fmt: skip
