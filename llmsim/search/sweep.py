"""The sweep through a whole space: every plan is evaluated, what may matter is kept, on as many cores as there are."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence

import numpy as np

from ..core.progress import nothing
from .blocks import blocks
from .evaluate import Evaluator
from .retained import Candidates, RetainedCandidates
from .space import SearchSpace
from .variants import Variant, space_variants

WORTH_A_PROCESS = 2_000_000
"""Plans for which starting another process pays."""


def evaluate_space(
    evaluators: Sequence[Evaluator],
    space: SearchSpace,
    *,
    optimizer: str = "adamw",
    slack: float | None = None,
    cores: int = 1,
    advance: Callable[[float], None] = nothing,
) -> Candidates:
    """Memory of every plan, and time of those that fit.

    Parameters
    ----------
    evaluators
        One for each precision and overlap, of one table.
    optimizer
        Its name.
    slack
        Keep only plans that may matter: those whose bound lies up to this share above the best, the best of each kind,
        those that no kept plan beats in time and memory, and the one that needs the least memory. None keeps all.
    cores
        Processes that a large space is shared out to.
    advance
        Is told of progress: the share of the plans that came to it.

    Raises
    ------
    InputError
        Where the allowed settings leave no plan.
    """
    chosen = space_variants(evaluators, space, optimizer)
    slack = np.inf if slack is None else slack
    shares = _dealt(chosen, cores)
    pool = _shared(chosen, shares, slack, advance) if len(shares) > 1 else _pooled(chosen, shares[0], slack, advance)
    return pool.candidates(chosen, evaluators[0].limit)


def _shared(
    variants: Sequence[Variant], shares: Sequence[Sequence[int]], slack: float, advance: Callable[[float], None]
) -> RetainedCandidates:
    """What all variants leave, each share of them in a process of its own."""
    from concurrent.futures import ProcessPoolExecutor  # small spaces need no processes
    from multiprocessing import get_context

    fork = get_context("fork")
    with ProcessPoolExecutor(len(shares) - 1, fork, initializer=_inherit, initargs=(variants,)) as others:
        waiting = [others.submit(_inherited, numbers, slack) for numbers in shares[1:]]
        pool = _pooled(variants, shares[0], slack, advance)
        for other in waiting:
            pool.absorb(other.result())
    return pool


def usable_cores() -> int:
    """Processes that may share the work: those that the system lets this one use, where it can be forked safely."""
    if not hasattr(os, "sched_getaffinity") or threading.active_count() > 1:
        return 1
    return len(os.sched_getaffinity(0))


def _dealt(variants: Sequence[Variant], cores: int) -> list[list[int]]:
    """Numbers of the variants for each process, so that all have about as many plans; one for a small space."""
    total = sum(v.plans for v in variants)
    count = max(1, min(cores, total // WORTH_A_PROCESS, len(variants)))
    shares: list[list[int]] = [[] for _ in range(count)]
    load = [0] * count
    for number in sorted(range(len(variants)), key=lambda n: -variants[n].plans):
        least = load.index(min(load))
        shares[least].append(number)
        load[least] += variants[number].plans
    return shares


_variants: list[Variant] = []
"""Of a process that was forked: handed over with its memory, since what is remembered with them changes meanwhile."""


def _inherit(variants: Sequence[Variant]) -> None:
    _variants[:] = variants


def _inherited(numbers: Sequence[int], slack: float) -> RetainedCandidates:
    return _pooled(_variants, numbers, slack)


def _pooled(
    variants: Sequence[Variant], numbers: Sequence[int], slack: float, advance: Callable[[float], None] = nothing
) -> RetainedCandidates:
    """What some variants leave that may matter."""
    pool = RetainedCandidates(variants[0].evaluator.table, slack)
    total = sum(variants[number].plans for number in numbers)
    for number in sorted(numbers):
        variant = variants[number]
        wanted = None if np.isinf(slack) else pool.wanted(variant)
        for block in blocks(variant, wanted=wanted):
            pool.add(number, variant, block)
            advance(block.step_s.size / total)
    return pool
