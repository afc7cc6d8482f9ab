"""Where the time of a server's steps goes, and what would change latencies, throughput and cost: constants of the
engine by a tenth, and plans and loads that differ in one setting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .._version import __version__
from ..architecture import Architecture
from ..core.errors import LlmsimError
from ..hardware.cluster import Cluster
from ..hardware.constants import constant_at
from ..hardware.fitted import Fit
from ..plans.serving import ServingPlan
from ..serving.prepare import prepare
from ..serving.result import ServingResult
from ..serving.simulate import simulate_serving, state_of
from ..serving.steady_state import Requests, decoding_batch

SCHEMA = "llmsim.serving-explanation/1"
STEP = 0.1
"""By how much a constant is made better: more of a rate, less of a time."""
LEAST = 5e-4
"""Relative changes below which a constant is left out."""
WEIGHTS = ("fp8", "w4g128", "nvfp4")
"""Stored formats of weights that are tried besides the plan's."""


@dataclass(frozen=True)
class ServingLever:
    """What a constant of the engine does.

    Attributes
    ----------
    key, symbol, meaning, unit, value
        The constant.
    tpot, ttft
        Relative changes of time per token and to the first token with the constant a tenth better.
    """

    key: str
    symbol: str
    meaning: str
    unit: str
    value: float
    tpot: float
    ttft: float


@dataclass(frozen=True)
class ServingNeighbour:
    """A plan or a load that differs in one setting.

    Attributes
    ----------
    change
        What differs, in words.
    ttft_s, tpot_s, output_tokens_per_s_per_device, usd_per_million_output_tokens
        What it leads to; None where it does not run.
    reason
        Why it does not run.
    """

    change: str
    ttft_s: float | None = None
    tpot_s: float | None = None
    output_tokens_per_s_per_device: float | None = None
    usd_per_million_output_tokens: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class ServingExplanation:
    """A server explained.

    Attributes
    ----------
    result
        Its steady state.
    bytes_read, flops
        Of a decoding step on the busiest rank: class -> bytes of weights, and of the cache as ``cache``; FLOPs.
    intensity, ridge
        FLOPs a byte of a decoding step, and from which on 16-bit products and not the memory bound a step.
    levers, neighbours
        What would change it, the strongest first.
    """

    result: ServingResult
    bytes_read: Mapping[str, float]
    flops: float
    intensity: float
    ridge: float
    levers: tuple[ServingLever, ...]
    neighbours: tuple[ServingNeighbour, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON wants it, with schema and version."""
        return {
            "schema": SCHEMA,
            "version": __version__,
            "result": self.result.to_dict(),
            "bytes_read": dict(self.bytes_read),
            "flops": self.flops,
            "intensity": self.intensity,
            "ridge": self.ridge,
            "levers": [asdict(own) for own in self.levers],
            "neighbours": [asdict(own) for own in self.neighbours],
        }


def explain_serving(
    plan: ServingPlan | Mapping[str, Any] | str | Path,
    architecture: Architecture | str | Path,
    cluster: Cluster | Mapping[str, Any] | str | Path,
    *,
    fit: Fit | None = None,
    **load: Any,
) -> ServingExplanation:
    """Explain a server in its steady state.

    Parameters
    ----------
    plan, architecture, cluster, fit, load
        As :func:`~llmsim.serving.simulate.simulate_serving` takes them.

    Raises
    ------
    LlmsimError
        As there.
    """
    model = architecture if isinstance(architecture, Architecture) else Architecture.from_config(architecture)
    machines = Cluster.parse(cluster)
    result = simulate_serving(plan, model, machines, fit=fit, **load)
    prepared = prepare(result.plan, model, machines, fit=fit)
    requests = Requests(result.load.input_tokens, result.load.output_tokens, result.load.cached_tokens)
    counts = prepared.model.step(decoding_batch(result.steady.running, requests))
    read: dict[str, float] = {kind: float(own) for kind, own in counts.weight_bytes.items() if float(own) > 0}
    read["cache"] = float(counts.decode_bytes) + float(counts.state_bytes)
    flops = float(counts.total_flops)
    device = machines.profile
    return ServingExplanation(
        result=result,
        bytes_read=read,
        flops=flops,
        intensity=flops / sum(read.values()),
        ridge=device.peak_of("bf16") / device.memory_bandwidth.value,
        levers=tuple(_levers(result, model, machines, fit)),
        neighbours=tuple(_neighbours(result, model, machines, fit)),
    )


def _levers(result: ServingResult, model: Architecture, cluster: Cluster, fit: Fit | None) -> list[ServingLever]:
    prepared = prepare(result.plan, model, cluster, fit=fit)
    requests = Requests(result.load.input_tokens, result.load.output_tokens, result.load.cached_tokens)

    def latencies(rates: Mapping[str, Any]) -> tuple[float, float]:
        own = state_of(replace(prepared, rates=rates), requests, result.load.kind, result.load.amount)
        return float(own.tpot_s), float(own.ttft_s)

    tpot, ttft = latencies(prepared.rates)
    found = []
    for key, value in prepared.rates.items():
        constant = constant_at(f"engines/{result.plan.engine}/{key}")
        if constant is None or constant.key.startswith("memory/"):
            continue
        better = 1 + STEP if constant.unit == "1" and key.startswith(("rates/", "wire/")) else 1 / (1 + STEP)
        own = latencies({**prepared.rates, key: min(float(value) * better, constant.high)})
        changes = own[0] / tpot - 1, own[1] / ttft - 1
        if max(map(abs, changes)) >= LEAST:
            found.append(ServingLever(key, constant.symbol, constant.meaning, constant.unit, float(value), *changes))
    return sorted(found, key=lambda own: min(own.tpot, own.ttft))


def _neighbours(
    result: ServingResult, model: Architecture, cluster: Cluster, fit: Fit | None
) -> Iterator[ServingNeighbour]:
    plan, load = result.plan, result.load
    open_plan = plan.replace(max_model_len=None)
    variants: list[tuple[str, ServingPlan, float]] = []
    most = cluster.n_devices // (plan.attention_data_parallel * plan.pipeline_parallel)
    variants += [(f"tensor parallel {own}", open_plan.replace(tensor_parallel=own), load.amount)
                 for own in (plan.tensor_parallel // 2, plan.tensor_parallel * 2) if 1 <= own <= most]  # fmt: skip
    variants += [(f"weights {own}", open_plan.replace(weights=own), load.amount) for own in WEIGHTS
                 if own != plan.weights]  # fmt: skip
    if plan.cache_format != "fp8":
        variants.append(("cache fp8", open_plan.replace(kv_cache="fp8"), load.amount))
    for factor, word in ((0.5, "half"), (2.0, "twice")):
        variants.append((f"{word} the {load.kind}", open_plan, load.amount * factor))
    for change, own, amount in variants:
        yield _neighbour(change, own, amount, result, model, cluster, fit)


def _neighbour(
    change: str,
    plan: ServingPlan,
    amount: float,
    result: ServingResult,
    model: Architecture,
    cluster: Cluster,
    fit: Fit | None,
) -> ServingNeighbour:
    load = result.load
    kind: dict[str, Any] = {load.kind: amount}
    try:
        own = simulate_serving(
            plan, model, cluster, input=int(load.input_tokens - load.image_tokens), output=int(load.output_tokens),
            cached=int(load.cached_tokens), image_tokens=int(load.image_tokens), fit=fit, **kind,
        )  # fmt: skip
    except LlmsimError as error:
        return ServingNeighbour(change, reason=str(error))
    return ServingNeighbour(
        change, float(own.steady.ttft_s), float(own.steady.tpot_s), own.output_tokens_per_s_per_device,
        own.usd_per_million_output_tokens,
    )  # fmt: skip
