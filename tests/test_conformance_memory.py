"""Memory of training steps: model states equal, peaks within their tolerance."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch", reason="conformance cells run torch: pip install 'llmsim[torch]'")

from llmsim.measure import step_memory
from llmsim.measure.kernel_rows import BACKWARD_CASES, RowCase, derived_backward_peak, executed_backward_peak
from llmsim.measure.memory_cells import SHARD_CELLS, STEP_CELLS, USUAL_SHARDS, USUAL_STEPS, MemoryCell

pytestmark = pytest.mark.torch
USUAL = {*USUAL_STEPS, *USUAL_SHARDS}


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


@pytest.mark.parametrize("cell", [*USUAL_STEPS, *USUAL_SHARDS], ids=str)
def test_step(cell: MemoryCell) -> None:
    agrees(cell)


@pytest.mark.conform
@pytest.mark.parametrize("cell", [c for c in (*STEP_CELLS, *SHARD_CELLS) if c not in USUAL], ids=str)
def test_every_step(cell: MemoryCell) -> None:
    agrees(cell)


@pytest.mark.parametrize("case", BACKWARD_CASES, ids=str)
def test_what_a_row_holds_in_backward(case: RowCase) -> None:
    assert derived_backward_peak(case) == pytest.approx(executed_backward_peak(case), rel=0.02)


def test_sharding_pads_the_first_dimension_of_each_parameter() -> None:
    padded = next(cell for cell in SHARD_CELLS if "64ranks-padded" in cell.name and "recompute" not in cell.name)
    states = padded.derived()
    model = step_memory.architecture(padded.derived.args[0].block, 4)
    assert states.parameters > 4 * model.parameters / 64
    rows = [(257, 256), (257, 256), (256, 1)]  # table, head, norm
    rows += 4 * [(256, 256), (64, 256), (64, 256), (256, 256), (707, 256), (707, 256), (256, 707), (256, 1), (256, 1)]
    assert states.parameters == 4 * sum(-(-first // 64) * rest for first, rest in rows)
