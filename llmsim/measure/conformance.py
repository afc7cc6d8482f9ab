"""Blocks and models of four families, counted by the operator passes and by torch: FLOPs and saved bytes.

``derived`` counts from our operators, ``executed`` runs plain torch on fake tensors; both return the same four numbers,
which are to be equal with ``==``. ``layers`` 0 is a single block, more is a whole model with embedding, head and loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch._subclasses import FakeTensorMode

from ..core.operators import Operator
from ..core.saved import derive_saved, saved_terms
from ..core.sharding import mesh_sharding
from ..core.work import derive_work
from . import blocks
from .counters import SavedTensors, WorkCounter
from .pairs import (
    CLASSES,
    BlockSpec,
    block_module,
    inventory,
    layer_operators,
    model_module,
    model_parts,
    regions,
    token_batch,
)


class Counts(NamedTuple):
    """What both sides report: multiply-adds x 2 of each phase, and bytes kept from forward to backward."""

    forward_flops: int
    backward_flops: int
    recomputed_flops: int
    saved_bytes: int

    def __add__(self, other: object) -> Counts:
        assert isinstance(other, Counts)
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, count: int) -> Counts:
        """The sum of ``count`` equal ones."""
        return Counts(*(count * value for value in self))


def derived(spec: BlockSpec, layers: int = 0) -> Counts:
    """The counts from the operator passes."""
    if not layers:
        return _derived_part(spec, layer_operators(spec), block=True)
    result = Counts(0, 0, 0, 0)
    for operators, times, block in model_parts(spec, layers):
        result = result + _derived_part(spec, operators, block=block).times(times)
    return result


def _derived_part(spec: BlockSpec, operators: Sequence[Operator], *, block: bool) -> Counts:
    kernels, sharding, values = inventory(spec), mesh_sharding(sequence_parallel=False), spec.values()
    # What is computed element by element has no products, for torch or anyone who counts them.
    work = [w for w in derive_work(operators, sharding, kernels) if w.kind != "recurrence"]
    savings = derive_saved(
        operators,
        sharding,
        kernels,
        formats=CLASSES[spec.precision],
        regions=regions(spec, operators) if block else (),
    )
    forward = [w for w in work if w.phase == "forward"]
    again = set(savings.recomputed)
    return Counts(
        sum(values.count(w.flops) for w in forward),
        sum(values.count(w.flops) for w in work if w.phase != "forward"),
        sum(values.count(w.flops) for w in forward if again.intersection(w.operators)),
        values.size((*saved_terms(savings.kept), *saved_terms(savings.kept, per_step=True))),
    )


def executed(spec: BlockSpec, layers: int = 0) -> Counts:
    """The counts of the same block or model run by torch on fake tensors."""
    s = spec.sizes
    with FakeTensorMode(allow_non_fake_inputs=True):
        module = model_module(spec, layers) if layers else block_module(spec)
        counter, saved = WorkCounter(), SavedTensors([*module.parameters(), *module.buffers()])
        tokens, labels = token_batch(spec)
        x = torch.zeros(s["batch"], s["sequence"], s["hidden"], dtype=spec.dtype, requires_grad=True)
        with counter:
            with saved, torch.autocast("cpu", torch.bfloat16, enabled=spec.precision == "autocast"):
                y = blocks.token_loss(module(tokens), labels) if layers else module(x)
            y.backward(torch.zeros_like(y))
    return Counts(counter.flops["forward"], counter.flops["backward"], counter.flops["recompute"], saved.total_bytes)
