"""What makes a plan impossible for a model, and the nearest choice that is possible."""

from __future__ import annotations

from collections.abc import Sequence

from ..architecture import Architecture
from ..core.pipelines import ScheduleName, fewest_micro_batches, schedule_facts
from ..layers.base import LayerKind
from .optimizer import get_optimizer
from .training import TrainingPlan


def violations(plan: TrainingPlan, architecture: Architecture, n_devices: int | None = None) -> list[str]:
    """Why a plan cannot run this model, one text a broken rule, each with the numbers; empty if it can."""
    found: list[str] = []
    kinds = [*architecture.kinds.values(), *architecture.mtp]
    t, p, v = plan.tensor_parallel, plan.pipeline_parallel, plan.virtual_pipeline

    def must_divide(divisor: int, value: int, what: str, by: str) -> None:
        if value % divisor:
            near = nearest_divisor(value, divisor)
            found.append(f"{by}: {divisor} does not divide {what} {value}; allowed: its divisors; nearest: {near}")

    for size, name in (
        ("heads", "attention heads"),
        ("ffn", "the MLP width"),
        ("shared_ffn", "the shared experts' width"),
        ("ssm_heads", "the groups of heads of a scan"),
    ):
        for value in sorted({k.sizes[size] for k in kinds if size in k.sizes}):
            must_divide(t, value, name, "tensor_parallel")
    for value in sorted({k.sizes["kv_heads"] for k in kinds if "kv_heads" in k.sizes}):
        if value % t:
            near = nearest_divisor(value, t)
            text = f"tensor_parallel: {t} does not divide the {value} key/value heads"
            found.append(f"{text}; allowed: their divisors; nearest: {near}")
    found += _batch_violations(plan)
    found += _expert_violations(plan, architecture)
    slots = len(architecture.layers) + 2
    if p * v > slots:
        found.append(
            f"pipeline_parallel x virtual_pipeline: {p * v} parts for {slots - 2} layers, embedding and head; "
            f"allowed: at most {slots}; nearest: pipeline_parallel {max(1, slots // v)}"
        )
    if plan.document_length is not None and architecture.is_encoder_decoder:
        found.append("document_length: packed sequences of an encoder-decoder model are not modelled; allowed: none")
    if p > 1 and architecture.is_encoder_decoder:
        found.append(f"pipeline_parallel: {p} stages of an encoder-decoder model are not modelled; allowed: 1")
    if v > 1 and p == 1:
        found.append(f"virtual_pipeline: {v} chunks need a pipeline; allowed with pipeline_parallel 1: 1")
    if plan.sequence_parallel and plan.sequence_length % (t * plan.context_parallel):
        near = plan.sequence_length // (t * plan.context_parallel) * t * plan.context_parallel
        found.append(
            f"sequence_length: {plan.sequence_length} is not divided by tensor_parallel x context_parallel = "
            f"{t * plan.context_parallel} (sequence parallelism); nearest: {near or t * plan.context_parallel}"
        )
    if plan.context_parallel > 1 or plan.ulysses_parallel:
        found += _context_violations(plan, kinds)
    if n_devices is not None and plan.n_devices != n_devices:
        found.append(
            f"devices: the plan's degrees multiply to {plan.n_devices}, the cluster has {n_devices}; "
            f"nearest: data_parallel {max(1, n_devices // (plan.n_devices // plan.data_parallel))}"
        )
    if plan.sharding == "hsdp":
        group = plan.shard_group
        whole = plan.data_parallel * plan.context_parallel
        if group is not None and whole % group:
            found.append(
                f"shard_group: {group} does not divide the {whole} data-parallel ranks; "
                f"nearest: {nearest_divisor(whole, group)}"
            )
    if plan.offload_optimizer and not get_optimizer(plan.optimizer).elementwise:
        found.append(
            f"offload_optimizer: {plan.optimizer} multiplies matrices, which a host is too slow for; allowed: 0"
        )
    if plan.sharding in ("zero3", "hsdp") and p > 1 and plan.schedule_name == "interleaved":
        found.append(
            "sharding: fully sharded parameters with an interleaved pipeline are not modelled; allowed: 1f1b or gpipe"
        )
    return found + _order_violations(plan, architecture) + _schedule_violations(plan, architecture)


def _order_violations(plan: TrainingPlan, architecture: Architecture) -> list[str]:
    """Megatron-LM's groups under its order with the pipeline inside are those of experts too only where expert ranks
    take the places of context-parallel ones."""
    if plan.rank_order == "tp-cp-dp-pp" or plan.pipeline_parallel == 1:
        return []
    found: list[str] = []
    moe = architecture.has_experts
    inside, own = plan.expert_parallel * plan.expert_tensor_parallel, plan.tensor_parallel * plan.context_parallel
    if moe and inside != own:
        found.append(
            f"rank_order: {plan.rank_order} needs expert_parallel x expert_tensor_parallel = tensor_parallel x "
            f"context_parallel = {own}, not {inside}; nearest: tp-cp-dp-pp"
        )
    if plan.sharding == "hsdp":
        found.append(f"rank_order: {plan.rank_order} puts a pipeline between ranks of hsdp; nearest: tp-cp-dp-pp")
    if schedule_facts(plan.schedule_name).copies > 1:
        found.append(
            f"rank_order: {plan.rank_order} with two copies of the parameters ({plan.schedule_name}) is not modelled; "
            "nearest: tp-cp-dp-pp"
        )
    return found


def _schedule_violations(plan: TrainingPlan, architecture: Architecture) -> list[str]:
    found: list[str] = []
    p, m, name = plan.pipeline_parallel, plan.micro_batches, plan.schedule_name
    facts = schedule_facts(name)
    if facts.split and plan.sharding in ("zero3", "hsdp") and p > 1:
        found.append(f"sharding: fully sharded parameters with {name} are not modelled; allowed: 1f1b or gpipe")
    if facts.shape == "both" and p % 2:
        found.append(f"schedule: {name} needs an even number of stages, not {p}; nearest: {nearest_schedule(plan)}")
    elif facts.shape == "both" and m % 2:
        text = f"schedule: {name} needs an even number of micro-batches, not {m}"
        found.append(f"{text}; nearest: {nearest_schedule(plan)}")
    elif m < fewest_micro_batches(name, p):
        text = f"schedule: {name} needs at least {fewest_micro_batches(name, p)} micro-batches (two a stage), not {m}"
        found.append(f"{text}; nearest: {nearest_schedule(plan)}")
    elif name == "interleaved-zb" and m % p:
        text = f"schedule: {name} takes micro-batches in multiples of the {p} stages, not {m}"
        found.append(f"{text}; nearest: {nearest_schedule(plan)}")
    if plan.layout is not None:
        parts, layers = p * plan.virtual_pipeline, len(architecture.layers)
        if len(plan.layout) != parts:
            found.append(f"layers_per_stage: {len(plan.layout)} numbers for {parts} parts; allowed: {parts} of them")
        elif sum(plan.layout) != layers:
            found.append(f"layers_per_stage: {sum(plan.layout)} layers in all; allowed: {layers}, all of the model's")
    if plan.depths is not None and len(plan.depths) != p:
        found.append(f"recompute_layers: {len(plan.depths)} numbers for {p} stages; allowed: {p} of them")
    return found


def _context_violations(plan: TrainingPlan, kinds: Sequence[LayerKind]) -> list[str]:
    found: list[str] = []
    c = plan.context_parallel
    ways = c * plan.tensor_parallel
    if c > 1 and plan.sequence_length % (2 * c):
        near = nearest_divisor(plan.sequence_length // 2, c)
        found.append(
            f"context_parallel: {c} must divide half the sequence length {plan.sequence_length}; nearest: {near}"
        )
    scans = {k.sizes["ssm_heads"] for k in kinds if "ssm_heads" in k.sizes}
    heads = {k.sizes.get("kv_heads", k.sizes["heads"]) for k in kinds if "heads" in k.sizes}
    spread = {"ulysses": ("context_parallel", c), "ulysses+ring": ("ulysses_parallel", plan.ulysses_parallel or 1)}
    field, degree = spread.get(plan.context_kind, ("context_parallel", 1))
    for by, own, name, values in (
        ("context_parallel", ways, "the groups of heads of a scan", scans),
        (field, degree * plan.tensor_parallel, "the key/value heads of ulysses attention", heads if degree > 1 else ()),
    ):
        found += [
            f"{by} x tensor_parallel: {own} does not divide {name} {value}; allowed: its divisors; "
            f"nearest: {nearest_divisor(value, own)}"
            for value in sorted(values)
            if value % own
        ]
    if c % (plan.ulysses_parallel or 1):
        near = nearest_divisor(c, plan.ulysses_parallel or 1)
        found.append(f"ulysses_parallel: {plan.ulysses_parallel} does not divide context_parallel {c}; nearest: {near}")
    return found


def nearest_schedule(plan: TrainingPlan) -> ScheduleName:
    """The schedule most like a plan's that its stages and micro-batches allow."""
    return "zb-h1" if plan.virtual_pipeline == 1 else "zb-v" if plan.virtual_pipeline == 2 else "interleaved"


def _batch_violations(plan: TrainingPlan) -> list[str]:
    ways = plan.micro_batch_size * plan.data_parallel
    if plan.global_batch_size % ways:
        down = plan.global_batch_size // ways * ways
        return [
            f"global_batch_size: {plan.global_batch_size} is not divided by micro_batch_size x data_parallel = "
            f"{plan.micro_batch_size} x {plan.data_parallel}; allowed: multiples of {ways}; nearest: {down or ways}"
        ]
    return []


def _expert_violations(plan: TrainingPlan, architecture: Architecture) -> list[str]:
    found: list[str] = []
    moe = [k for k in (*architecture.kinds.values(), *architecture.mtp) if k.is_moe]
    e, te = plan.expert_parallel, plan.expert_tensor_parallel
    block = plan.tensor_parallel * plan.context_parallel * plan.data_parallel
    if plan.dispatcher != "profile" and not (moe and plan.software.stack.dispatch == "once_per_domain"):
        why = f"{architecture.name} has no experts" if not moe else f"{plan.software.name} sends every copy by itself"
        found.append(f"dispatcher: {plan.dispatcher}, but {why}; allowed: profile")
    if not moe:
        if e * te > 1:
            found.append(f"expert_parallel: {e} x {te}, but {architecture.name} has no experts; allowed: 1")
        return found
    if block % (e * te):
        found.append(
            f"expert_parallel x expert_tensor_parallel: {e} x {te} does not divide the {block} ranks of a stage "
            f"(tensor x context x data); nearest: {nearest_divisor(block // te if block % te == 0 else block, e)}"
        )
    found += [
        f"expert_parallel: {e} does not divide {value} experts; nearest: {nearest_divisor(value, e)}"
        for value in sorted({k.sizes["experts"] for k in moe})
        if value % e
    ]
    found += [
        f"expert_tensor_parallel: {te} does not divide the expert width {value}; nearest: {nearest_divisor(value, te)}"
        for value in sorted({k.sizes["moe_ffn"] for k in moe})
        if value % te
    ]
    if plan.tensor_parallel > 1 and not plan.sequence_parallel:
        found.append(
            "sequence_parallel: experts under tensor parallelism need it (tokens would be dispatched several times); "
            "allowed: true"
        )
    return found


def nearest_divisor(value: int, wanted: int) -> int:
    """The divisor of ``value`` nearest to ``wanted``."""
    divisors = [d for i in range(1, int(value**0.5) + 1) if value % i == 0 for d in (i, value // i)]
    return min(divisors, key=lambda d: (abs(d - wanted), d)) if divisors else 1
