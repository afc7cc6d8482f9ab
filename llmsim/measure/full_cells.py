"""Cells that take minutes: a published model on thousands of ranks. They run in `make conform-full`."""

from __future__ import annotations

from ..architecture import Architecture
from . import conformance_messages as ours
from . import parallel
from .cells import Cell, world
from .pairs import BlockSpec


def _llama(name: str, sequence: int) -> tuple[BlockSpec, int]:
    """A bundled model of Llama's arrangement as a specification, and its layers."""
    model = Architecture.from_config(name)
    (kind,) = model.kinds.values()
    sizes = {key: kind.sizes[key] for key in ("hidden", "heads", "kv_heads", "head_dim", "ffn")}
    shape = {"batch": 1, "sequence": sequence, "vocab": model.vocab, **sizes}
    return BlockSpec("llama", "flash", "bf16", shape), len(model.layers)


def _large() -> Cell:
    spec, layers = _llama("llama-3-70b", 8192)
    return world(
        ours.derived_fully_sharded_tensor_parallel, parallel.run_large_fully_sharded_tensor_parallel, spec, layers,
        shard=512, degree=8,
    )  # fmt: skip


FULL_MESSAGE_CELLS = (_large(),)
"""Llama-3-70B on 4,096 ranks: FSDP2 over 512, tensor and sequence parallelism over 8."""
