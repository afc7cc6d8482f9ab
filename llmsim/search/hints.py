"""Hints: changes of a job that would let its plans be better."""

from __future__ import annotations

from math import gcd


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
