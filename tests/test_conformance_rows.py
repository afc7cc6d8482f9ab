"""Rows of kernels.yaml one at a time: kept bytes and launches equal torch's, traffic within rounding."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="conformance cells run torch: pip install 'llmsim[torch]'")

from llmsim.hardware.software import kernel_rows
from llmsim.measure import document
from llmsim.measure.kernel_rows import CASES, SCORES, RowCase, derived_row, executed_row, executed_scores

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("case", CASES, ids=str)
def test_row(case: RowCase) -> None:
    ours, theirs = derived_row(case)._asdict(), executed_row(case)._asdict()
    compared = [field for field in ours if field not in case.elsewhere]
    exact = [field for field in compared if field.endswith(("kept_bytes", "launches"))]
    assert {f: ours[f] for f in exact} == {f: theirs[f] for f in exact}
    for field in (f for f in compared if f not in exact):
        assert ours[field] == pytest.approx(theirs[field], rel=0.02), field


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


def test_the_document_is_up_to_date() -> None:
    text = document.DOCUMENT.read_text(encoding="utf-8")
    assert document.filled(text) == text, "python -m llmsim.measure.document --write"


def test_a_document_without_its_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="no marker"):
        document.filled("| cells |")
