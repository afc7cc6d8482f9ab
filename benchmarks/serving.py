"""How fast servers are simulated, as ratios taken in one run on one machine.

Workloads of one 8B model on one H100: few requests at a time, 85 % of the highest rate, overload with a small cache,
shared prefixes. The unit is the time of one push and one pop on a heap of a thousand entries in pure Python, taken in
the same run, so that figures of different machines can be compared.

    python benchmarks/serving.py [--json] [--requests 20000]
"""

from __future__ import annotations

import argparse
import json
import resource
from dataclasses import asdict, dataclass
from heapq import heappop, heappush
from time import process_time

import numpy as np

from llmsim import Architecture, Cluster
from llmsim.plans.serving import ServingPlan
from llmsim.serving.events import Replica
from llmsim.serving.prepare import prepare
from llmsim.serving.request_log import Scheduler
from llmsim.serving.steady_state import Requests
from llmsim.serving.step_clock import PICOSECONDS, StepClock
from llmsim.serving.workload import Workload, generated

MODEL, CLUSTER = "llama-3-8b", "1x1xh100-sxm-80gb"
INPUT, OUTPUT = "lognormal:500:0.6", "lognormal:220:0.6"


@dataclass(frozen=True)
class Speed:
    """A workload and how fast it was simulated.

    Attributes
    ----------
    requests_per_s, iterations_per_s
        Of CPU time.
    units_per_request
        Time of a request in units, see the module; ``iterations_per_request`` are its own share of the engine's.
    bytes_per_request
        Growth of the resident memory.
    """

    name: str
    requests_per_s: float
    iterations_per_s: float
    units_per_request: float
    iterations_per_request: float
    preemptions: int
    bytes_per_request: float


def unit_s(rounds: int = 200_000) -> float:
    """CPU seconds of one push and one pop on a heap of a thousand entries."""
    values = np.random.default_rng(0).integers(0, 1 << 40, rounds).tolist()
    heap: list[int] = []
    for value in values[:1000]:
        heappush(heap, value)
    begin = process_time()
    for value in values:
        heappush(heap, value)
        heappop(heap)
    return (process_time() - begin) / rounds


def measure(name: str, clock: StepClock, rules: Scheduler, own: Workload, unit: float) -> Speed:
    """Simulate one workload."""
    sent = np.rint(own.sent_s * PICOSECONDS).astype(np.int64).tolist()
    columns = (own.inputs.tolist(), own.outputs.tolist(), own.cached.tolist(), own.prefixes())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = process_time()
    log = Replica(clock, rules, sent, *columns).run()
    spent = process_time() - begin
    grown = max(0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    count = len(own)
    return Speed(
        name, count / spent, log.iterations / spent, spent / count / unit, log.iterations / count, log.preemptions,
        grown / count,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--requests", type=int, default=20_000, help="requests of a workload")
    options = parser.parse_args()
    prepared = prepare(ServingPlan(), Architecture.from_config(MODEL), Cluster.parse(CLUSTER))
    clock = StepClock(prepared.server(Requests(500, 220)))
    roomy, small = Scheduler(256, 8192, 24_000, 16), Scheduler(256, 8192, 3000, 16)
    count, unit = options.requests, unit_s()
    cases = (
        ("10 % of the highest rate", roomy, generated(count, INPUT, OUTPUT, rate=3)),
        ("85 %", roomy, generated(count, INPUT, OUTPUT, rate=26)),
        ("130 %, small cache", small, generated(count, INPUT, OUTPUT, rate=40)),
        ("85 %, shared prefixes", roomy, generated(count, INPUT, OUTPUT, rate=26, prefix=(256, 50))),
        ("20 minutes of 10 requests/s", roomy, generated(12_000, INPUT, OUTPUT, rate=10)),
    )
    found = [measure(name, clock, rules, own, unit) for name, rules, own in cases]
    if options.json:
        print(json.dumps({"unit_s": unit, "workloads": [asdict(own) for own in found]}, indent=1))
        return
    print(f"unit {1e6 * unit:.3f} us\n")
    head = f"{'workload':30} {'requests/s':>11} {'iterations/s':>13} {'units':>6} {'iterations':>11} {'bytes':>6}"
    print(f"{head} a request")
    for own in found:
        print(f"{own.name:30} {own.requests_per_s:11,.0f} {own.iterations_per_s:13,.0f} {own.units_per_request:6.1f} "
              f"{own.iterations_per_request:11.1f} {own.bytes_per_request:6,.0f}")  # fmt: skip


if __name__ == "__main__":
    main()
