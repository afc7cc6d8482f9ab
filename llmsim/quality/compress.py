"""Which compression of a model to serve: what each costs in loss, and what it gives in memory, latency and price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from .._version import __version__
from ..architecture import Architecture
from ..core.errors import InputError, LlmsimError
from ..hardware.cluster import Cluster
from ..hardware.fitted import Fit
from ..plans.serving import ServingPlan
from ..serving.simulate import load_of, simulate_serving
from .estimate import QualityEstimate, estimate_quality

SCHEMA = "llmsim.compression/1"
CANDIDATES = ("bf16", "fp8", "w8a8-int8", "w4g128", "nvfp4", "mxfp4", "fp8+kv8", "w4g128+kv8", "w3g128")
GGUF_CANDIDATES = ("bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k")
"""What is tried unless it is said, and on engines that run GGUF files."""
_SERVED = {"w8a8-int8": "int8", "q5_k_m": "q5_k", "q4_k_m": "q4_k", "q3_k_m": "q3_k"}
"""Compression -> how a server stores the weights, where the names differ."""
_CACHE = {"kv8": "fp8", "kv4": "int4"}
GOALS = ("cost", "latency", "memory")
UNTOLD = "loss in nats per token; what tasks score is not predicted"


@dataclass(frozen=True)
class Compressed:
    """A compression of a model on a server.

    Attributes
    ----------
    text
        Its name.
    quality
        What it costs in loss.
    weight_bytes, tpot_s, ttft_s, output_tokens_per_s_per_device, usd_per_million_output_tokens
        On each rank, of the steady state; None where it does not run.
    reason
        Why it does not run.
    efficient
        Whether nothing that runs is better in loss and at the goal at once.
    """

    text: str
    quality: QualityEstimate
    weight_bytes: float | None = None
    tpot_s: float | None = None
    ttft_s: float | None = None
    output_tokens_per_s_per_device: float | None = None
    usd_per_million_output_tokens: float | None = None
    reason: str | None = None
    efficient: bool = False

    def at_goal(self, goal: str) -> float:
        """What is to be small."""
        value = {"cost": self.usd_per_million_output_tokens, "latency": self.tpot_s, "memory": self.weight_bytes}[goal]
        return float("inf") if value is None else value


@dataclass(frozen=True)
class CompressionAnswer:
    """Compressions of a model, and the one to take.

    Attributes
    ----------
    model, cluster, load
        What is served, on what, and what clients send.
    goal, loss_max
        What is to be small; nats per token that the upper end of the interval may reach, None for no limit.
    candidates
        In the order of their loss.
    pick
        The best at the goal among those that run, keep the limit and are near published points; None for none.
    quantizer
        How the pick is made, a command or a tool; None where nothing is quantised.
    assumed
        What nobody said.
    """

    model: str
    cluster: str
    load: str
    goal: str
    loss_max: float | None
    candidates: tuple[Compressed, ...]
    pick: Compressed | None
    quantizer: str | None
    assumed: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON wants it, with schema and version."""
        return {"schema": SCHEMA, "version": __version__, **asdict(self)}


def plan_compression(
    model: str,
    cluster: Cluster | str,
    *,
    input: int | str,
    output: int | str,
    plan: ServingPlan | Mapping[str, Any] | None = None,
    candidates: Sequence[str] | None = None,
    goal: str = "cost",
    loss_max: float | None = 0.1,
    out_of_domain: bool = False,
    fit: Fit | None = None,
    **load: Any,
) -> CompressionAnswer:
    """The compression of a model to serve.

    Parameters
    ----------
    model
        A bundled name with its size.
    plan
        How the engine runs, weights and cache left out.
    candidates
        Compressions to try; by default the usual ones of the engine. See :func:`~llmsim.quality.estimate.compressed`.
    goal
        ``cost`` of a token, ``latency`` per token or ``memory`` of the weights.
    loss_max
        Nats per token that the upper end of the 80 % interval may reach.
    out_of_domain
        Whether what no published point is near may be picked.
    load
        ``concurrency``, ``batch`` or ``rate``, as :func:`~llmsim.serving.simulate.simulate_serving` takes them.

    Raises
    ------
    InputError
        For a goal or a compression that is none.
    """
    if goal not in GOALS:
        raise InputError("goal", goal, ", ".join(GOALS), "cost")
    if loss_max is not None and not loss_max > 0:
        raise InputError("loss_max", loss_max, "nats per token, above 0", 0.05)
    kind, amount = load_of(*(load.get(name) for name in ("concurrency", "batch", "rate")))
    machines = Cluster.parse(cluster)
    architecture = Architecture.from_config(model)
    fields = ServingPlan.parse(plan or {}).model_dump(exclude_unset=True)
    fields.setdefault("tensor_parallel", machines.devices_per_node)
    usual = GGUF_CANDIDATES if fields.get("engine") == "llama-cpp" else CANDIDATES
    tried = usual if candidates is None else tuple(candidates)
    each = [_candidate(text, architecture, machines, fields, input, output, fit, load) for text in tried]
    each.sort(key=lambda own: (own.quality.delta_nats, own.text))
    marked = tuple(replace(own, efficient=_is_efficient(own, each, goal)) for own in each)
    allowed = [own for own in marked if own.reason is None and (own.quality.in_domain or out_of_domain)]
    allowed = [own for own in allowed if loss_max is None or own.quality.high <= loss_max]
    pick = min(allowed, key=lambda own: (own.at_goal(goal), own.quality.delta_nats), default=None)
    return CompressionAnswer(
        model=architecture.name,
        cluster=str(cluster) if isinstance(cluster, str) else machines.profile.name,
        load=f"{input} tokens in, {output} out, {kind} {amount:g}",
        goal=goal,
        loss_max=loss_max,
        candidates=marked,
        pick=pick,
        quantizer=None if pick is None else quantizer(pick.text, architecture.name),
        assumed={
            "loss": UNTOLD,
            "method": "GPTQ for integers, rounding to nearest for floating point, Wanda for pruning",
        },
    )


def _candidate(
    text: str,
    architecture: Architecture,
    cluster: Cluster,
    fields: Mapping[str, Any],
    given: int | str,
    wanted: int | str,
    fit: Fit | None,
    load: Mapping[str, Any],
) -> Compressed:
    quality = estimate_quality(architecture.name, text, parameters=architecture.parameters)
    parts = text.lower().split("+")
    weights = next((part for part in parts if part not in _CACHE), "bf16")
    cache = next((_CACHE[part] for part in parts if part in _CACHE), "bf16")
    stored = {**fields, "weights": _SERVED.get(weights, weights), "kv_cache": cache}
    try:
        own = simulate_serving(stored, architecture, cluster, input=given, output=wanted, fit=fit, **load)
    except LlmsimError as error:
        if isinstance(error, InputError) and error.field not in ("weights", "kv_cache", "format"):
            raise
        return Compressed(text, quality, reason=str(error))
    return Compressed(
        text,
        quality,
        own.memory.weight_bytes,
        float(own.steady.tpot_s),
        float(own.steady.ttft_s),
        own.output_tokens_per_s_per_device,
        own.usd_per_million_output_tokens,
    )


def _is_efficient(own: Compressed, others: Sequence[Compressed], goal: str) -> bool:
    if own.reason is not None:
        return False
    mine = own.quality.delta_nats, own.at_goal(goal)
    return not any(
        other.reason is None and other is not own
        and other.quality.delta_nats <= mine[0] and other.at_goal(goal) <= mine[1]
        and (other.quality.delta_nats, other.at_goal(goal)) != mine
        for other in others
    )  # fmt: skip


def quantizer(text: str, model: str) -> str | None:
    """The usual tool for a compression; None for none."""
    first = text.partition("+")[0]
    if first in ("bf16", "fp16", "none"):
        return None
    if first.startswith("q"):
        return f"llama-quantize {model}-f16.gguf {model}-{first}.gguf {first.upper()}"
    if first in ("fp8", "w8a8-fp8"):
        return "llm-compressor, QuantizationModifier(scheme='FP8_DYNAMIC', targets='Linear', ignore=['lm_head'])"
    if first in ("nvfp4", "mxfp4"):
        return f"llm-compressor, QuantizationModifier(scheme='{first.upper()}', targets='Linear', ignore=['lm_head'])"
    if first == "w8a8-int8":
        return (
            "llm-compressor, SmoothQuantModifier and GPTQModifier(scheme='W8A8', targets='Linear', ignore=['lm_head'])"
        )
    bits = first[1]
    group = first.partition("g")[2] or "-1"
    return f"GPTQModel, QuantizeConfig(bits={bits}, group_size={group})"
