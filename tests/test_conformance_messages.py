"""Collectives of small models equal torch's on fake process groups: collective, mesh axis, bytes, phase, count."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch", reason="conformance cells run torch: pip install 'llmsim[torch]'")

from llmsim.measure.cells import MESSAGE_CELLS, MESSAGE_GROUPS, Cell
from llmsim.measure.full_cells import FULL_MESSAGE_CELLS
from llmsim.measure.wide_cells import WIDE_GROUPS

pytestmark = pytest.mark.torch
WIDE = [cell for group in MESSAGE_GROUPS for cell in WIDE_GROUPS[group]]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """These tensors are real and tiny; waking threads would cost more than all of the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "cell",
    [
        *MESSAGE_CELLS,
        *(pytest.param(cell, marks=pytest.mark.conform) for cell in WIDE),
        *(pytest.param(cell, marks=pytest.mark.full) for cell in FULL_MESSAGE_CELLS),
    ],
    ids=str,
)
def test_messages(cell: Cell) -> None:
    ours, theirs = cell.derived(), cell.executed()
    assert ours == theirs
    events = ours[0] if isinstance(ours, tuple) else ours
    assert sum(events.values()) if isinstance(events, dict) else events


def test_names_are_unique() -> None:
    names = [cell.name for cell in (*MESSAGE_CELLS, *WIDE)]
    assert len(set(names)) == len(names)
