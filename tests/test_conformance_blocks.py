"""FLOPs and saved bytes of blocks and models equal plain torch on fake tensors."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

pytest.importorskip("torch", reason="conformance cells run torch: pip install 'llmsim[torch]'")

from torch._subclasses import FakeTensorMode

from llmsim.core.parameters import derive_parameters
from llmsim.core.sharding import mesh_sharding
from llmsim.measure.cells import BLOCK_CELLS, MODEL_CELLS, OTHER, SMALL, Cell
from llmsim.measure.pairs import BlockSpec, Family, block_module, layer_operators
from llmsim.measure.wide_cells import WIDE_GROUPS

pytestmark = pytest.mark.torch
WIDE = (*WIDE_GROUPS["blocks"], *WIDE_GROUPS["models"])


@pytest.mark.parametrize("cell", BLOCK_CELLS, ids=lambda cell: cell.name)
def test_block(cell: Cell) -> None:
    assert cell.derived() == cell.executed()


@pytest.mark.parametrize("cell", MODEL_CELLS, ids=lambda cell: cell.name)
def test_model(cell: Cell) -> None:
    assert cell.derived() == cell.executed()


@pytest.mark.conform
@pytest.mark.parametrize("cell", WIDE, ids=lambda cell: cell.name)
def test_wide(cell: Cell) -> None:
    counts = cell.derived()
    assert counts == cell.executed()
    assert min(counts.forward_flops, counts.backward_flops, counts.saved_bytes) > 0


@pytest.mark.parametrize("shapes", [SMALL, OTHER], ids=["small", "other"])
@pytest.mark.parametrize("family", SMALL)
def test_parameters(family: Family, shapes: Mapping[Family, dict[str, int]]) -> None:
    """As many elements as the module has, biases and gains included."""
    spec = BlockSpec(family, "flash", "bf16", shapes[family])
    with FakeTensorMode():
        theirs = [p.shape.numel() for p in block_module(spec).parameters()]
    found = derive_parameters(layer_operators(spec), mesh_sharding(sequence_parallel=False))
    ours = [spec.values().elements(p.elements) for p in found]
    assert sum(ours) == sum(theirs)


def test_every_cell_counts_something() -> None:
    for cell in (*BLOCK_CELLS, *MODEL_CELLS):
        counts = cell.derived()
        assert counts.forward_flops > 0
        assert counts.backward_flops > counts.forward_flops
        assert (counts.recomputed_flops > 0) == ("recompute:" in cell.name and "matmuls+attention" not in cell.name)
        assert counts.saved_bytes > 0


def test_names_are_unique() -> None:
    names = [cell.name for cell in (*BLOCK_CELLS, *MODEL_CELLS, *WIDE)]
    assert len(set(names)) == len(names)
