"""A server under a workload, request by request: percentiles of latencies, throughput, use of the cache."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..architecture import Architecture
from ..core.errors import InputError
from ..hardware.cluster import Cluster
from ..hardware.fitted import Fit
from ..plans.serving import ServingPlan
from .events import Replica
from .memory import ServingMemory
from .prepare import Prepared
from .request_log import RequestLog, Scheduler
from .steady_state import Requests
from .step_clock import PICOSECONDS, StepClock
from .workload import Workload

SCHEMA = "llmsim.serving-workload/1"
PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True)
class Distribution:
    """Mean and percentiles, seconds."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    highest: float

    @classmethod
    def of(cls, values: np.ndarray, weights: np.ndarray | None = None) -> Distribution:
        """Of values, each counting once or with a weight; of none all are not a number."""
        if not len(values):
            return cls(math.nan, math.nan, math.nan, math.nan, math.nan, math.nan)
        if weights is None:
            p50, p90, p95, p99 = np.percentile(values, PERCENTILES).tolist()
            return cls(float(values.mean()), p50, p90, p95, p99, float(values.max()))
        order = np.argsort(values)
        reached = np.cumsum(weights[order])
        places = np.searchsorted(reached, np.array(PERCENTILES) / 100 * reached[-1])
        mean = float((values * weights).sum() / reached[-1])
        p50, p90, p95, p99 = values[order][np.minimum(places, len(values) - 1)].tolist()
        return cls(mean, p50, p90, p95, p99, float(values.max()))


@dataclass(frozen=True)
class Objective:
    """What a request must keep to count for the goodput, seconds; None for no limit."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None


@dataclass(frozen=True)
class WorkloadResult:
    """A plan under a workload.

    Attributes
    ----------
    plan, model, devices, replicas, workload
        What runs, and what clients send, in words.
    memory
        Of a replica, in the order of an engine's start-up log.
    requests, refused
        How many were answered, and how many are longer than the cache.
    duration_s
        From the first request to the last answer.
    ttft, tpot, itl, e2e
        Time to the first token; per token after it, over requests; gaps between tokens, over tokens; whole requests.
    requests_per_s, output_tokens_per_s, total_tokens_per_s
        Throughput of all replicas.
    output_tokens_per_s_per_device, usd_per_million_output_tokens
        Of a device; at the price of the devices.
    mean_batch, mean_in_flight
        Sequences that decode at a time in a replica, over its iterations; requests in flight over all replicas.
    cache_peak
        Highest share of the blocks in use.
    preemptions, iterations
        Of all replicas.
    prefix_hits
        Share of the prompts with a shared prefix that found it in the cache; None where none has one.
    goodput_per_s, attainment
        Requests per second that keep the objective, and their share; None without one.
    """

    plan: ServingPlan
    model: str
    devices: int
    replicas: int
    workload: str
    memory: ServingMemory
    requests: int
    refused: int
    duration_s: float
    ttft: Distribution
    tpot: Distribution
    itl: Distribution
    e2e: Distribution
    requests_per_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    output_tokens_per_s_per_device: float
    usd_per_million_output_tokens: float | None
    mean_batch: float
    mean_in_flight: float
    cache_peak: float
    preemptions: int
    iterations: int
    prefix_hits: float | None
    goodput_per_s: float | None
    attainment: float | None
    assumed: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON wants it, with schema and version."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "plan"}
        plain = {k: asdict(v) if hasattr(v, "__dataclass_fields__") else v for k, v in own.items()}
        return {"schema": SCHEMA, "version": __version__, "plan": self.plan.model_dump(), **plain}


def simulate_workload(
    plan: ServingPlan | Mapping[str, Any] | str | Path,
    architecture: Architecture | str | Path,
    cluster: Cluster | Mapping[str, Any] | str | Path,
    workload: Workload,
    *,
    objective: Objective | None = None,
    fit: Fit | None = None,
) -> WorkloadResult:
    """A server under a workload, simulated step by step.

    Requests go to replicas in turn. The same workload gives the same answer.

    Parameters
    ----------
    plan, architecture, cluster
        As :func:`~llmsim.serving.simulate.simulate_serving` takes them.
    workload
        From :func:`~llmsim.serving.workload.generated` or :func:`~llmsim.serving.workload.read_trace`.
    objective
        What requests must keep to count for the goodput.

    Raises
    ------
    InputError
        For requests that are longer than ``max_model_len``.
    InfeasibleError
        Where weights do not fit, or the cache does not hold one request.
    """
    from .simulate import assumed_of, prepared_for

    parsed = ServingPlan.parse(plan)
    model = architecture if isinstance(architecture, Architecture) else Architecture.from_config(architecture)
    machines = Cluster.parse(cluster)
    prepared = prepared_for(parsed, model, machines, workload.longest, fit)
    logs = replayed(prepared, workload)
    assumed = assumed_of(prepared, parsed, model, machines)
    return _result(prepared, model, machines, workload, logs, objective, assumed)


def replayed(prepared: Prepared, workload: Workload, rates: Mapping[str, Any] | None = None) -> list[RequestLog]:
    """What happens in each replica of a plan."""
    mean = Requests(float(workload.inputs.mean()), float(workload.outputs.mean()))
    server = prepared.server(mean, rates)
    clock = StepClock(server)
    scheduler = scheduler_of(prepared, mean)
    before = round(float(server.rates["host/request_s"]) * PICOSECONDS)
    count = min(prepared.replicas, len(workload), workload.in_flight or len(workload))
    logs = []
    for place in range(count):
        own = workload.share(place, count)
        sent = np.rint(own.sent_s * PICOSECONDS).astype(np.int64).tolist()
        inputs, outputs, cached = (column.tolist() for column in (own.inputs, own.outputs, own.cached))
        replica = Replica(clock, scheduler, sent, inputs, outputs, cached, own.prefixes(), in_flight=own.in_flight,
                          before=before)  # fmt: skip
        logs.append(replica.run())
    return logs


def scheduler_of(prepared: Prepared, mean: Requests) -> Scheduler:
    """Seats, budget and blocks of one replica: as many blocks as hold the sequences that its cache has room for."""
    from .memory import resident_sequences

    settings, degrees = prepared.settings, prepared.model.degrees
    streams = prepared.plan.profile.defaults.streams
    seats = settings.max_num_seqs * degrees.attention_data * degrees.pipeline
    tokens = mean.input_tokens + mean.output_tokens / 2
    if prepared.plan.cache_tokens is not None:
        held = float(prepared.plan.cache_tokens)
    else:
        held = float(resident_sequences(prepared.model, prepared.memory, tokens)) * tokens
    size = settings.block_tokens
    return Scheduler(min(seats, streams or seats), settings.max_num_batched_tokens, max(1, int(held // size)), size,
                     prepared.plan.profile.defaults.mixed)  # fmt: skip


@dataclass(frozen=True)
class Latencies:
    """Of the requests that were answered, seconds, in the order in which they were sent; columns."""

    ttft: np.ndarray
    tpot: np.ndarray
    e2e: np.ndarray
    outputs: np.ndarray
    inputs: np.ndarray
    refused: int
    duration: float

    @classmethod
    def of(cls, workload: Workload, logs: list[RequestLog]) -> Latencies:
        """From what happened in the replicas."""
        parts = [workload.share(place, len(logs)) for place in range(len(logs))]
        sent, first, end = (np.concatenate([np.asarray(getattr(log, name)) for log in logs]) / PICOSECONDS
                            for name in ("sent", "first", "end"))  # fmt: skip
        inputs, outputs = (np.concatenate([getattr(own, name) for own in parts]) for name in ("inputs", "outputs"))
        done = end >= 0
        ttft, e2e, answer = (first - sent)[done], (end - sent)[done], outputs[done]
        tpot = ((e2e - ttft) / np.maximum(answer - 1, 1))[answer > 1]
        duration = float(end[done].max() - sent[done].min()) if done.any() else math.nan
        return cls(ttft, tpot, e2e, answer, inputs[done], int((~done).sum()), duration)

    def keep(self, objective: Objective) -> np.ndarray:
        """Which requests keep an objective."""
        tpot = (self.e2e - self.ttft) / np.maximum(self.outputs - 1, 1)
        pairs = ((self.ttft, objective.ttft_s), (tpot, objective.tpot_s), (self.e2e, objective.e2e_s))
        found = np.ones(len(self.ttft), dtype=bool)
        for values, limit in pairs:
            if limit is not None:
                found &= values <= limit
        return found


def token_gaps(logs: list[RequestLog]) -> tuple[np.ndarray, np.ndarray]:
    """Seconds between tokens of sequences that decode, and how many tokens each of them came before."""
    gaps, batches, repeats = (np.concatenate([np.asarray(getattr(log, name), dtype=float) for log in logs])
                              for name in ("gaps", "batches", "repeats"))  # fmt: skip
    return gaps / PICOSECONDS, batches * repeats


def _result(
    prepared: Prepared,
    model: Architecture,
    cluster: Cluster,
    workload: Workload,
    logs: list[RequestLog],
    objective: Objective | None,
    assumed: Mapping[str, str],
) -> WorkloadResult:
    own = Latencies.of(workload, logs)
    if not len(own.ttft):
        raise InputError("workload", workload.text, "a request that fits the cache", why="has only longer ones")
    per_s, devices = len(own.ttft) / own.duration, prepared.replicas * prepared.plan.ranks
    tokens_per_s = float(own.outputs.sum()) / own.duration
    gaps, weights = token_gaps(logs)
    asked = sum(log.prefix_lookups for log in logs)
    price = cluster.price_usd_per_device_hour
    hourly = cluster.profile.price.value if price is None else price
    kept = None if objective is None else float(own.keep(objective).mean())
    blocks = scheduler_of(prepared, Requests(float(workload.inputs.mean()), float(workload.outputs.mean()))).blocks
    return WorkloadResult(
        plan=prepared.plan,
        model=model.name,
        devices=devices,
        replicas=prepared.replicas,
        workload=workload.text,
        memory=prepared.memory,
        requests=len(own.ttft),
        refused=own.refused,
        duration_s=own.duration,
        ttft=Distribution.of(own.ttft),
        tpot=Distribution.of(own.tpot),
        itl=Distribution.of(gaps, weights),
        e2e=Distribution.of(own.e2e),
        requests_per_s=per_s,
        output_tokens_per_s=tokens_per_s,
        total_tokens_per_s=tokens_per_s + float(own.inputs.sum()) / own.duration,
        output_tokens_per_s_per_device=tokens_per_s / devices,
        usd_per_million_output_tokens=hourly * devices / 3600 / tokens_per_s * 1e6,
        mean_batch=float(weights.sum()) / max(sum(sum(log.repeats) for log in logs), 1),
        mean_in_flight=float(own.e2e.sum()) / own.duration,
        cache_peak=max(log.busiest for log in logs) / blocks,
        preemptions=sum(log.preemptions for log in logs),
        iterations=sum(log.iterations for log in logs),
        prefix_hits=sum(log.prefix_hits for log in logs) / asked if asked else None,
        goodput_per_s=None if kept is None else kept * per_s,
        attainment=kept,
        assumed=assumed,
    )
