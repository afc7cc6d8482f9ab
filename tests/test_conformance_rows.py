"""Rows of kernels.yaml one at a time: kept bytes and launches equal torch's, traffic within rounding."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="conformance cells run torch: pip install 'llmsim[torch]'")

from llmsim.hardware.software import kernel_rows
from llmsim.measure.cells import BLOCK_CELLS, MESSAGE_GROUPS, MODEL_CELLS
from llmsim.measure.kernel_rows import CASES, RowCase, derived_row, executed_row, executed_scores
from llmsim.measure.wide_cells import WIDE_GROUPS

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("case", CASES, ids=str)
def test_row(case: RowCase) -> None:
    ours, theirs = derived_row(case)._asdict(), executed_row(case)._asdict()
    compared = [field for field in ours if field not in case.elsewhere]
    exact = [field for field in compared if field.endswith(("kept_bytes", "launches"))]
    assert {f: ours[f] for f in exact} == {f: theirs[f] for f in exact}
    for field in (f for f in compared if f not in exact):
        assert ours[field] == pytest.approx(theirs[field], rel=0.02), field


SCORES = [("math", False), ("eager", False), ("eager", True)]


@pytest.mark.parametrize(("kernel", "dropout"), SCORES)
def test_scores(kernel: str, dropout: bool) -> None:
    row = kernel_rows()["attention"][f"{kernel}_dropout" if dropout else kernel]
    forward, backward, *passes = executed_scores(kernel, dropout=dropout)  # type: ignore[arg-type]
    assert (row.forward_launches, row.backward_launches) == (forward, backward)
    assert row.score_passes == pytest.approx(passes, rel=0.01)


def test_every_row_says_what_it_was_checked_with() -> None:
    known = ("torch 2.13", "not on a CPU", "arXiv:", "")
    for kind, rows in kernel_rows().items():
        for name, row in rows.items():
            assert row.checked == "" or row.checked.startswith(known[:3]), f"{kind}.{name}: {row.checked}"
            assert not (name.startswith("eager") and not row.checked), f"{kind}.{name} can be checked in torch"


def test_the_documented_numbers_of_cells() -> None:
    text = (Path(__file__).parents[1] / "docs" / "conformance.md").read_text(encoding="utf-8")
    lines = [[part.strip() for part in line.split("|")[1:4]] for line in text.splitlines() if line.startswith("|")]
    documented = {name: (int(usual), int(wide)) for name, usual, wide in lines if usual.isdigit()}
    usual = {
        "blocks": len(BLOCK_CELLS),
        "models": len(MODEL_CELLS),
        **{group: len(cells) for group, cells in MESSAGE_GROUPS.items()},
        "kernel rows": len(CASES) + len(SCORES),
    }
    counted = {group: (number, number + len(WIDE_GROUPS.get(group, ()))) for group, number in usual.items()}
    counted["all"] = tuple(map(sum, zip(*counted.values(), strict=True)))
    assert documented == counted
