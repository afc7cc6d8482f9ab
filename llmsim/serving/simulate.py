"""Simulation of a server in its steady state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..architecture import Architecture
from ..core.errors import InputError
from ..core.units import parse_length
from ..hardware.cluster import Cluster
from ..hardware.engines import shipped_serving_fit
from ..hardware.fitted import Fit, Width
from ..models import tower_parameters
from ..plans.serving import ServingPlan
from ..timing.intervals import model_class
from .prepare import Prepared, prepare
from .result import ServingLoad, ServingResult
from .steady_state import Requests, Steady, decoding_batch, mixed_batch
from .step_time import time_step

KINDS = ("concurrency", "batch", "rate")


def simulate_serving(
    plan: ServingPlan | Mapping[str, Any] | str | Path,
    architecture: Architecture | str | Path,
    cluster: Cluster | Mapping[str, Any] | str | Path,
    *,
    input: int | str,
    output: int | str,
    concurrency: float | None = None,
    batch: float | None = None,
    rate: float | None = None,
    cached: int | str = 0,
    image_tokens: int | str = 0,
    fit: Fit | None = None,
) -> ServingResult:
    """A server in its steady state: what its engine prints at start-up, latencies, throughput.

    Parameters
    ----------
    plan
        How the engine runs, as an object, its fields or the path of a file.
    architecture, cluster
        Objects, or what :meth:`Architecture.from_config` and :meth:`Cluster.parse` take. A cluster has as many replicas
        as fit, which share the load evenly.
    input, output
        Tokens of a request, means; ``2k`` is 2,048.
    concurrency, batch, rate
        One of them: requests in flight over the whole cluster, of which each that ends is followed by another; requests
        of a replica that begin and end together; requests per second over the whole cluster.
    cached
        Tokens of the input that a prefix cache has.
    image_tokens
        Tokens of images, which come on top of the input and are computed like it; the time of a vision tower is not
        counted.
    fit
        Constants of engines to use instead of those that ship.

    Raises
    ------
    InputError
        For wrong lengths, loads or degrees.
    InfeasibleError
        Where weights do not fit, or the cache does not hold one request.
    UnsupportedError
        For a model that does not generate text.
    """
    parsed = ServingPlan.parse(plan)
    model = architecture if isinstance(architecture, Architecture) else Architecture.from_config(architecture)
    machines = Cluster.parse(cluster)
    requests = _requests(input, output, cached, image_tokens)
    kind, amount = load_of(concurrency, batch, rate)
    prepared = prepared_for(parsed, model, machines, math.ceil(requests.input_tokens + requests.output_tokens), fit)
    load = ServingLoad(
        kind, amount, requests.input_tokens, requests.output_tokens, requests.cached_tokens, requests.image_tokens
    )
    steady = state_of(prepared, requests, kind, amount)
    return _result(prepared, parsed, model, machines, load, requests, steady, fit)


def prepared_for(
    plan: ServingPlan, model: Architecture, cluster: Cluster, length: int, fit: Fit | None = None
) -> Prepared:
    """A plan that starts, for requests of at most ``length`` tokens.

    Raises
    ------
    InputError
        For requests that are longer than ``max_model_len``.
    InfeasibleError
        Where weights do not fit, or the cache does not hold one request.
    """
    if plan.max_model_len is not None and plan.max_model_len < length:
        raise InputError("max_model_len", plan.max_model_len, f"at least input + output, {length:,} tokens", length)
    whole = plan.replace(max_model_len=plan.max_model_len or max(length, model.max_positions or 0))
    prepared = prepare(whole, model, cluster, fit=fit)
    if plan.max_model_len is None and not prepared.memory.starts and prepared.memory.longest >= length:
        # What the engine refuses is the model's own length, which nobody asked for.
        prepared = prepare(plan.replace(max_model_len=length), model, cluster, fit=fit)
    prepared.memory.check(f"{model.name} on {cluster.profile.name}")
    return prepared


def _requests(given: int | str, wanted: int | str, cached: int | str, images: int | str) -> Requests:
    text, answer = parse_length(given, "input"), parse_length(wanted, "output")
    known, seen = (
        0 if value in (0, "0") else parse_length(value, name)
        for name, value in (("cached", cached), ("image_tokens", images))
    )
    tokens = text + seen
    if known >= tokens:
        raise InputError("cached", known, f"fewer than the {tokens:,} tokens of the input", tokens - 1)
    return Requests(float(tokens), float(answer), float(known), float(seen))


def load_of(concurrency: float | None, batch: float | None, rate: float | None) -> tuple[str, float]:
    """The one load that is said, and its amount.

    Raises
    ------
    InputError
        For none, several, and amounts that are none.
    """
    stated = {k: v for k, v in zip(KINDS, (concurrency, batch, rate), strict=True) if v is not None}
    if len(stated) != 1:
        why = "is missing" if not stated else "is said in more than one way"
        raise InputError("load", ", ".join(stated) or None, f"one of {', '.join(KINDS)}", "concurrency 1", why=why)
    kind, amount = next(iter(stated.items()))
    if isinstance(amount, bool) or not isinstance(amount, (int, float)) or not 0 < amount < math.inf:
        raise InputError(kind, amount, "a number above 0", 1)
    return kind, float(amount)


def state_of(prepared: Prepared, requests: Requests, kind: str, amount: float) -> Steady:
    """The steady state of one replica under its share of a load.

    Raises
    ------
    InputError
        For a batch that does not fit.
    """
    server = prepared.server(requests)
    if kind == "concurrency":
        return server.closed_loop(max(amount / prepared.replicas, 1.0), requests)
    if kind == "batch":
        if amount > server.most:
            most = int(server.most)
            raise InputError("batch", amount, f"at most {most:,} requests that fit at a time", most)
        return server.without_clients().static_batch(amount, requests)
    return server.open_loop(amount / prepared.replicas, requests)


def _result(
    prepared: Prepared,
    plan: ServingPlan,
    model: Architecture,
    cluster: Cluster,
    load: ServingLoad,
    requests: Requests,
    steady: Steady,
    fit: Fit | None,
) -> ServingResult:
    running, budget = steady.running, prepared.settings.max_num_batched_tokens
    batches = decoding_batch(running, requests), mixed_batch(running, requests, budget)
    parts = [time_step(prepared.model, own, prepared.machine, prepared.rates).parts for own in batches]
    used = min(prepared.replicas, math.ceil(load.amount)) if load.kind == "concurrency" else prepared.replicas
    per_s = float(steady.output_tokens_per_s) * used
    device = cluster.profile
    hourly = device.price.value if cluster.price_usd_per_device_hour is None else cluster.price_usd_per_device_hour
    devices = prepared.replicas * prepared.plan.ranks
    wants = load.amount / prepared.replicas
    full = (load.kind == "concurrency" and steady.waiting > 0) or (
        load.kind == "rate" and steady.requests_per_s < wants * (1 - 1e-9)
    )
    return ServingResult(
        plan=prepared.plan,
        model=model.name,
        devices=devices,
        replicas=prepared.replicas,
        load=load,
        memory=prepared.memory,
        steady=steady,
        step_parts={k: float(v) for k, v in parts[0].items()},
        prompt_parts={k: float(v) for k, v in parts[1].items()},
        output_tokens_per_s=per_s,
        output_tokens_per_s_per_device=per_s / devices,
        output_tokens_per_s_per_user=1 / float(steady.tpot_s),
        usd_per_million_output_tokens=hourly * devices / 3600 / per_s * 1e6 if per_s else None,
        saturated=bool(full),
        limited_by=_limit(prepared, requests),
        intervals=_intervals(steady, model, fit),
        assumed=assumed_of(prepared, plan, model, cluster, load.image_tokens > 0),
    )


def _limit(prepared: Prepared, requests: Requests) -> str:
    """What keeps more sequences from running at a time."""
    most = float(prepared.server(requests).most)
    seats = prepared.settings.max_num_seqs * prepared.model.degrees.attention_data * prepared.model.degrees.pipeline
    return f"max_num_seqs ({seats:,})" if most >= seats else f"the cache ({most:,.0f} sequences of this length)"


def interval_width(metric: str, kind: str, fit: Fit | None = None) -> Width | None:
    """Half the width of the 80 % interval of a metric for a kind of models: from what refits predicted for groups that
    they had not seen; None where nothing is known."""
    widths = (shipped_serving_fit() if fit is None else fit).intervals
    return widths.get(f"{metric}/{kind}") or widths.get(metric)


def _intervals(steady: Steady, model: Architecture, fit: Fit | None) -> dict[str, tuple[float, float]]:
    found = {}
    for metric in ("ttft_s", "tpot_s", "output_tokens_per_s"):
        value, width = getattr(steady, metric), interval_width(metric, model_class(model), fit)
        if width is not None:
            factor = math.exp(width.log80)
            found[metric] = (float(value) / factor, float(value) * factor)
    return found


def assumed_of(
    prepared: Prepared, plan: ServingPlan, model: Architecture, cluster: Cluster, images: bool = False
) -> dict[str, str]:
    """What nobody said."""
    settings, engine = prepared.settings, prepared.plan.profile
    found = {**cluster.assumed(), **model.left_out}
    if not plan.release:
        found["release"] = f"the newest of {engine.name} that is known"
    for name, value in (
        ("max_num_seqs", settings.max_num_seqs),
        ("max_num_batched_tokens", settings.max_num_batched_tokens),
        ("max_model_len", settings.max_model_len),
        ("memory_utilisation", settings.utilisation),
    ):
        if getattr(plan, name) is None:
            found[name] = f"{value:,}" if isinstance(value, int) else f"{value:g}"
    if plan.kv_cache == "auto":
        found["kv_cache"] = prepared.plan.cache_format
    if cluster.price_usd_per_device_hour is None:
        price = cluster.profile.price
        found["price"] = f"{price.value:.2f} USD per device and hour ({price.source}, {price.date})"
    if any(prepared.machine.converted.values()):
        found["products"] = "in 16 bits: weights are brought back before they are multiplied"
    if prepared.model.count("is_moe"):
        found["routing"] = "even over the experts"
    if towers := tower_parameters(model.name):
        found["towers"] = (
            f"{towers / 1e9:.2f} billion parameters of vision towers beside the language model, in 16 bits"
        )
    if images:
        found["images"] = "as tokens of the prompt; the time of a vision tower is not counted"
    return found
