"""The cells of memory: steps whose model states are equal and whose peaks agree within a stated tolerance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from . import step_memory
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
