"""Hints: changes of a job that would let its plans be better."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from ..core.units import gib
from .answer import NearMiss
from .space import SearchSpace

WORTH_ROOM = 0.1
"""Share of the step that a plan must save for memory to be worth making room for."""


def batch_hints(n_devices: int, global_batch: int) -> list[str]:
    """The batch nearest to the one asked for that data parallelism could share over odd factors of the devices which
    this one does not have; powers of two are taken up by tensor, context and pipeline parallelism.

    >>> batch_hints(384, 1024)[0].partition(";")[2]
    ' a batch of 1,152 would let data parallelism use all 384 devices'
    """
    shared = gcd(n_devices, global_batch)
    missing = n_devices // shared
    while missing % 2 == 0:
        missing //= 2
    if missing == 1:
        return []
    ways = shared * missing
    near = max(1, round(global_batch / ways)) * ways
    reach = "all" if ways == n_devices else f"{ways:,} of the"
    return [
        f"the factor {missing} of {n_devices:,} devices does not divide the batch of {global_batch:,} sequences, so "
        f"that tensor, context or pipeline parallelism must take it; a batch of {near:,} would let data parallelism "
        f"use {reach} {n_devices:,} devices"
    ]


def memory_hints(misses: Sequence[NearMiss], fastest_s: float, space: SearchSpace) -> list[str]:
    """What to let the search do where a much faster plan lacks memory and nothing may be offloaded.

    Parameters
    ----------
    fastest_s
        Step of the fastest plan that fits.
    """
    if not misses or any(space.offload_optimizer) or any(space.offload_activations):
        return []
    miss = misses[0]
    gain = 1 - miss.step_time_s / fastest_s
    if gain < WORTH_ROOM:
        return []
    return [
        f"{gib(miss.lacking_bytes)} more would save {100 * gain:.0f} % of the step: nothing was offloaded, which "
        "--offload-optimizer 0,1 and --offload-activations 0,1 allow; an optimizer with smaller states is another way"
    ]
