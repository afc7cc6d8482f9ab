"""The highest rate of requests that a server takes while enough of them keep an objective."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from .._version import __version__
from ..core.errors import InputError
from .replay import Objective, WorkloadResult
from .workload import Workload

SCHEMA = "llmsim.serving-capacity/1"
STEPS = 12
"""Halvings of the interval between a rate that is kept and one that is not."""
LOADS = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1)
"""Shares of the highest rate at which latencies are told."""


@dataclass(frozen=True)
class Load:
    """A rate and what it leads to; seconds."""

    rate_per_s: float
    attainment: float
    ttft_p50_s: float
    ttft_p99_s: float
    tpot_p50_s: float
    tpot_p99_s: float
    e2e_p99_s: float
    output_tokens_per_s: float


@dataclass(frozen=True)
class Capacity:
    """How much a server takes.

    Attributes
    ----------
    rate_per_s
        The highest rate at which enough requests keep the objective; 0 where not even single ones do.
    objective, share
        What they keep, and how many of them.
    loads
        Latencies over rates, in order.
    best
        The workload at the highest rate; None at 0.
    """

    rate_per_s: float
    objective: Objective
    share: float
    loads: tuple[Load, ...]
    best: WorkloadResult | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON wants it, with schema and version."""
        own = {"rate_per_s": self.rate_per_s, "objective": asdict(self.objective), "share": self.share}
        loads = [asdict(load) for load in self.loads]
        best = None if self.best is None else self.best.to_dict()
        return {"schema": SCHEMA, "version": __version__, **own, "loads": loads, "best": best}


def highest_rate(
    at: Callable[[Workload], WorkloadResult],
    workload_at: Callable[[float], Workload],
    objective: Objective,
    share: float = 0.99,
) -> Capacity:
    """The highest rate, by bisection: requests are the same at every rate, and only follow each other faster.

    Parameters
    ----------
    at, workload_at
        What a workload leads to, and the workload of a rate.
    share
        Of the requests, how many must keep the objective.

    Raises
    ------
    InputError
        For a share that is none, and an objective without a limit.
    """
    if not 0 < share <= 1:
        raise InputError("share", share, "a number above 0, at most 1", 0.99)
    if objective == Objective():
        raise InputError("objective", None, "a limit for the first token, for tokens after it, or for whole requests",
                         "ttft 1 s", why="has no limit")  # fmt: skip
    low, high = 0.0, 1.0
    tried: dict[float, WorkloadResult] = {}

    def kept(rate: float) -> bool:
        tried[rate] = at(workload_at(rate))
        return (tried[rate].attainment or 0.0) >= share

    while kept(high):
        low, high = high, 2 * high
        if tried[low].requests_per_s < low / 4:
            break  # requests end long after the last was sent: a higher rate changes nothing
    if not low:
        high, floor = 1.0, 1e-4
        while high > floor and not kept(high / 2):
            high /= 2
        low = high / 2 if high > floor else 0.0
    for _ in range(STEPS if low else 0):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if kept(middle) else (low, middle)
    best = tried.get(low)
    told = [low * load for load in LOADS] if low else sorted(tried)[:1]
    for rate in told:
        if rate not in tried:
            kept(rate)
    return Capacity(low, objective, share, tuple(_load(rate, tried[rate]) for rate in told), best)


def _load(rate: float, own: WorkloadResult) -> Load:
    return Load(
        rate, own.attainment or 0.0, own.ttft.p50, own.ttft.p99, own.tpot.p50, own.tpot.p99, own.e2e.p99,
        own.output_tokens_per_s,
    )  # fmt: skip
