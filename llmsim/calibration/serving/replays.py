"""Measured runs of servers request by request, at given constants of an engine."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...serving.replay import Latencies, replayed
from ...serving.workload import Workload, generated
from .runs import ServingRun

REPLAYED = ("closed", "waves", "open")
"""Loads that the event simulation says more about than a closed form."""
ROUNDS = 10
"""Requests of a benchmark under a fixed concurrency, for each that is in flight: the usual choice."""
SECONDS = 60.0
"""How long requests arrive at a rate where a run does not say it."""
FEWEST, MOST = 20, 20_000


def run_workload(run: ServingRun) -> Workload:
    """The requests of a run."""
    assert run.requests is not None
    lengths = [_lengths(float(own), run.shortest) for own in (run.requests.input_tokens, run.requests.output_tokens)]
    cached = int(run.requests.cached_tokens)
    if run.load == "open":
        count = int(np.clip(run.amount * (run.seconds or SECONDS), 200, MOST))
        return generated(count, *lengths, rate=run.amount, arrivals=run.arrivals, cached=cached)
    count = int(np.clip(ROUNDS * run.amount, FEWEST, MOST))
    return generated(count, *lengths, concurrency=max(1, round(run.amount)), cached=cached)


def _lengths(mean: float, shortest: float) -> str:
    longest = 2 * mean / (1 + shortest)
    low, high = max(1, round(shortest * longest)), max(1, round(longest))
    return f"{high}" if low == high else f"uniform:{low}:{high}"


def replayed_run(run: ServingRun, rates: Mapping[str, float] | None = None) -> dict[str, float]:
    """Metric -> what the simulation says, SI; empty where no request fits the cache."""
    workload = run_workload(run)
    own = Latencies.of(workload, replayed(run.prepared, workload, rates))
    if not len(own.ttft):
        return {}
    tpot = own.tpot if len(own.tpot) else np.array([np.nan])
    return {
        "ttft_s": float(own.ttft.mean()),
        "ttft_p99_s": float(np.percentile(own.ttft, 99)),
        "tpot_s": float(tpot.mean()),
        "e2e_s": float(own.e2e.mean()),
        "e2e_p99_s": float(np.percentile(own.e2e, 99)),
        "output_tokens_per_s": float(own.outputs.sum()) / own.duration,
    }
