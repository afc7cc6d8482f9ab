"""The cells of memory: steps whose model states are equal and whose peaks agree within a stated tolerance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from . import sharded_memory, step_memory
from .blocks import AttentionKernel
from .cells import PRECISIONS, WHOLE, describe
from .pairs import BlockSpec, Family
from .step_memory import OPTIMIZERS, MemorySpec, StepMemory, Update

STEP: Mapping[Family, tuple[int, dict[str, int]]] = {
    "llama": (2, {"batch": 4, "sequence": 256, "hidden": 256, "heads": 8, "kv_heads": 2, "head_dim": 32, "ffn": 704}),
    "gpt2": (
        3,
        {
            "batch": 4, "sequence": 256, "hidden": 256, "heads": 8, "kv_heads": 8, "head_dim": 32, "ffn": 1024,
            "positions": 256,
        },
    ),
    "mixtral": (
        4,
        {
            "batch": 4, "sequence": 256, "hidden": 256, "heads": 8, "kv_heads": 2, "head_dim": 32, "moe_ffn": 384,
            "experts": 8, "top_k": 2,
        },
    ),
    "mla": (
        2,
        {
            "batch": 4, "sequence": 256, "hidden": 256, "heads": 8, "q_rank": 96, "kv_rank": 64, "nope_dim": 32,
            "rope_dim": 16, "v_dim": 32, "ffn": 704,
        },
    ),
}  # fmt: skip
"""Layers and sizes of real steps, seconds long on a CPU."""

VOCABULARIES = (4096, 256)
"""With many words the peak is at the loss, with few in a layer's backward pass or in the update."""


@dataclass(frozen=True)
class MemoryCell:
    """One comparison.

    Attributes
    ----------
    name
        Readable and unique.
    derived, executed
        Our side and torch's.
    tolerance
        Of the peak, relative; model states are compared with ``==``.
    """

    name: str
    derived: Callable[[], StepMemory]
    executed: Callable[[], StepMemory]
    tolerance: float

    def __str__(self) -> str:
        return self.name


def _step(spec: MemorySpec) -> MemoryCell:
    name = f"{describe(spec.block)}-{spec.layers}layers-{spec.update}"
    both = partial(step_memory.derived, spec), partial(step_memory.executed, spec)
    return MemoryCell(name, *both, step_memory.TOLERANCE)


def _shard(spec: MemorySpec, note: str = "") -> MemoryCell:
    name = f"{describe(spec.block)}-{spec.layers}layers-{spec.update}-{spec.shard}ranks{note}"
    both = partial(step_memory.derived, spec), partial(sharded_memory.executed, spec)
    return MemoryCell(name, *both, sharded_memory.TOLERANCE)


def _steps(updates: Mapping[Update, object]) -> Iterator[MemoryCell]:
    for family, (layers, sizes) in STEP.items():
        for precision in PRECISIONS:
            if (family, precision) == ("mixtral", "fp32"):
                continue  # its grouped product exists in 16 bits only
            for recompute in WHOLE:
                for vocab in VOCABULARIES:
                    kernel: AttentionKernel = "math" if family == "mla" else "flash"
                    block = BlockSpec(family, kernel, precision, {**sizes, "vocab": vocab}, recompute)
                    for update in updates:
                        yield _step(MemorySpec(block, layers, update))


STEP_CELLS = tuple(_steps(OPTIMIZERS))
"""Real steps on a CPU: families x precisions x recompute x vocabularies x optimizers."""

USUAL_STEPS = STEP_CELLS[::17]
"""Those of every test run."""

LLAMA_8B = {
    "batch": 1, "sequence": 8192, "hidden": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128, "ffn": 14336,
    "vocab": 128256,
}  # fmt: skip


def _shards() -> Iterator[MemoryCell]:
    small = STEP["llama"][1] | {"vocab": 256}
    for shard in (8, 64):
        for recompute in WHOLE:
            for family in ("llama", "gpt2", "mixtral"):
                for vocab in VOCABULARIES:
                    block = BlockSpec(family, "flash", "bf16", {**STEP[family][1], "vocab": vocab}, recompute)
                    yield _shard(MemorySpec(block, 4, "loop", shard))
            for note, sizes in (
                ("", LLAMA_8B),
                ("-padded", small | {"ffn": 707, "vocab": 257}),  # neither divides
                ("-short", small | {"batch": 1, "sequence": 16}),  # reductions or the update are the largest
            ):
                yield _shard(
                    MemorySpec(BlockSpec("llama", "flash", "bf16", sizes, recompute), 4, "foreach", shard), note
                )


SHARD_CELLS = tuple(_shards())
"""A rank of FSDP2: families x ranks x recompute x vocabularies; four layers of Llama-3-8B; sizes that do not divide."""

USUAL_SHARDS = SHARD_CELLS[::7]
"""Those of every test run."""
