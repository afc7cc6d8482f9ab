"""Blocks of four families, counted by the operator passes and by torch: FLOPs and saved bytes, to be equal with ``==``.

``derived`` counts a block from our operators, ``executed`` runs plain torch on fake tensors; both return the same
four numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch._subclasses import FakeTensorMode

from ..core.saved import derive_saved, saved_terms
from ..core.sharding import mesh_sharding
from ..core.work import derive_work
from .counters import SavedTensors, WorkCounter
from .pairs import CLASSES, BlockSpec, block_module, inventory, layer_operators, regions


class Counts(NamedTuple):
    """What both sides report: multiply-adds x 2 of each phase, and bytes kept from forward to backward."""

    forward_flops: int
    backward_flops: int
    recomputed_flops: int
    saved_bytes: int


def derived(spec: BlockSpec) -> Counts:
    """The counts from the operator passes."""
    operators, kernels = layer_operators(spec), inventory(spec)
    sharding, values = mesh_sharding(sequence_parallel=False), spec.values()
    work = derive_work(operators, sharding, kernels)
    savings = derive_saved(
        operators, sharding, kernels, formats=CLASSES[spec.precision], regions=regions(spec, operators)
    )
    forward = [w for w in work if w.phase == "forward"]
    again = set(savings.recomputed)
    kept = (*saved_terms(savings.kept), *saved_terms(savings.kept, per_step=True))
    return Counts(
        sum(values.count(w.flops) for w in forward),
        sum(values.count(w.flops) for w in work if w.phase != "forward"),
        sum(values.count(w.flops) for w in forward if again.intersection(w.operators)),
        values.size(kept),
    )


def executed(spec: BlockSpec) -> Counts:
    """The counts of the same block run by torch on fake tensors."""
    s = spec.sizes
    with FakeTensorMode(allow_non_fake_inputs=True):
        block = block_module(spec)
        x = torch.zeros(s["batch"], s["sequence"], s["hidden"], dtype=spec.dtype, requires_grad=True)
        counter, saved = WorkCounter(), SavedTensors([*block.parameters(), *block.buffers()])
        with counter:
            with saved, torch.autocast("cpu", torch.bfloat16, enabled=spec.precision == "autocast"):
                y = block(x)
            y.backward(torch.zeros_like(y))
    return Counts(counter.flops["forward"], counter.flops["backward"], counter.flops["recompute"], saved.total_bytes)
