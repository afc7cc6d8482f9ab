"""Memory of training steps: model states equal, peaks within their tolerance."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch", reason="conformance cells run torch: pip install 'llmsim[torch]'")

from llmsim.measure.kernel_rows import CASES, RowCase, derived_backward_peak, executed_backward_peak
from llmsim.measure.memory_cells import STEP_CELLS, USUAL_STEPS, MemoryCell

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def agrees(cell: MemoryCell) -> None:
    ours, theirs = cell.derived(), cell.executed()
    assert ours.states == theirs.states
    assert ours.peak == pytest.approx(theirs.peak, rel=cell.tolerance)
    assert theirs.peak > sum(theirs.states[::2])


@pytest.mark.parametrize("cell", USUAL_STEPS, ids=str)
def test_step(cell: MemoryCell) -> None:
    agrees(cell)


@pytest.mark.conform
@pytest.mark.parametrize("cell", [cell for cell in STEP_CELLS if cell not in USUAL_STEPS], ids=str)
def test_every_step(cell: MemoryCell) -> None:
    agrees(cell)


@pytest.mark.parametrize("case", [case for case in CASES if case.kind not in ("add", "concat")], ids=str)
def test_what_a_row_holds_in_backward(case: RowCase) -> None:
    assert derived_backward_peak(case) == pytest.approx(executed_backward_peak(case), rel=0.02)
