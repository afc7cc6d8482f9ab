"""A simulated server as text for a terminal: first what its engine will print, then what users will see."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table

from ..core.units import GIB, counted, gib, money, seconds
from ..explain.serving import ServingExplanation
from ..plans.serving import ServingPlan
from ..serving.memory import ServingMemory
from ..serving.result import ServingResult
from .training import grid, section


def serving_report(result: ServingResult) -> RenderableType:
    """The whole answer."""
    steady, load = result.steady, result.load
    latency = [
        ("first token", f"{seconds(float(steady.ttft_s))}{_interval(result, 'ttft_s')}"),
        ("per token", f"{seconds(float(steady.tpot_s))}{_interval(result, 'tpot_s')}; "
                      f"{result.output_tokens_per_s_per_user:,.1f} tokens/s per user"),
        ("request", seconds(float(steady.e2e_s))),
    ]  # fmt: skip
    throughput = [
        (
            "output",
            f"{result.output_tokens_per_s:,.0f} tokens/s; {result.output_tokens_per_s_per_device:,.0f} per device",
        ),
        ("requests", f"{result.output_tokens_per_s / load.output_tokens:,.2f} per second"),
        ("running", f"{float(steady.running):,.1f} sequences of each replica, limited by {result.limited_by}"),
    ]
    if float(steady.waiting) > 0:
        throughput.append(("waiting", f"{float(steady.waiting):,.1f} requests of each replica: the cache is full"))
    if result.saturated and load.kind == "rate":
        throughput.append(("saturated", f"{load.amount:g} requests/s are more than are served: the queue grows"))
    if result.usd_per_million_output_tokens is not None:
        throughput.append(("cost", f"{money(result.usd_per_million_output_tokens)} per million output tokens"))
    return Group(
        grid([("plan", plan_line(result.plan, result.model, result.replicas)), ("load", _load(result))]),
        section("At start-up, on each rank", grid(memory_lines(result.memory))),
        section("Latency", grid(latency)),
        section("Throughput", grid(throughput)),
        section("Where a decoding step goes", grid(_parts(result.step_parts))),
        section("With a prompt beside it", grid(_parts(result.prompt_parts))),
        section("Assumed", grid(list(result.assumed.items()))),
    )


def plan_line(plan: ServingPlan, model: str, replicas: int) -> str:
    """What runs, in a line."""
    degrees = [("TP", plan.tensor_parallel), ("DP-attention", plan.attention_data_parallel),
               ("EP", plan.expert_parallel), ("PP", plan.pipeline_parallel)]  # fmt: skip
    each = " ".join(f"{name}{n}" for name, n in degrees if n > 1) or "one device"
    formats = f"weights {plan.weights}, cache {plan.cache_format}"
    name = f"{model} on {plan.engine} {plan.release}".rstrip()
    return f"{name}: {each}, {formats}, {counted(replicas, 'replica')}"


def _load(result: ServingResult) -> str:
    load = result.load
    cached = f" ({load.cached_tokens:,.0f} of them cached)" if load.cached_tokens else ""
    images = f" ({load.image_tokens:,.0f} of them of images)" if load.image_tokens else ""
    how = {
        "concurrency": f"{load.amount:,.0f} requests in flight",
        "batch": f"batches of {load.amount:,.0f}",
        "rate": f"{load.amount:g} requests per second",
    }[load.kind]
    return f"{how}, {load.input_tokens:,.0f}{cached}{images} tokens in, {load.output_tokens:,.0f} out"


def memory_lines(memory: ServingMemory) -> list[tuple[str, str]]:
    """What an engine prints when it starts."""
    return [
        ("model weights", gib(memory.weight_bytes)),
        ("peak activation", gib(memory.activation_bytes)),
        ("outside of torch", gib(memory.context_bytes)),
        ("captured graphs", gib(memory.graph_bytes)),
        ("available for the cache", f"{gib(memory.cache_bytes)} of {memory.device_bytes / GIB:.2f}"),
        ("cache", f"{memory.cache_tokens:,} tokens in {memory.blocks:,} blocks of {memory.block_tokens}"),
        ("maximum concurrency", f"{memory.max_concurrency:,.2f} for {memory.max_model_len:,} tokens per request"),
    ]


def _parts(parts: object) -> list[tuple[str, str]]:
    assert isinstance(parts, dict)
    whole = sum(parts.values())
    shown = sorted(((v, k) for k, v in parts.items() if v > 0), reverse=True)
    return [(name, f"{seconds(value)}  {100 * value / whole:.0f} %") for value, name in shown] + [
        ("together", seconds(whole))
    ]


def _interval(result: ServingResult, metric: str) -> str:
    if metric not in result.intervals:
        return ""
    low, high = result.intervals[metric]
    return f" (80 %: {seconds(low)} to {seconds(high)})"


def serving_explanation(found: ServingExplanation) -> RenderableType:
    """Where the time of a server goes and what would change it."""
    result = found.result
    steady = result.steady
    lines = [
        ("plan", plan_line(result.plan, result.model, result.replicas)),
        ("load", _load(result)),
        ("per token", f"{seconds(float(steady.tpot_s))}: a step of {seconds(float(steady.step_s))}, the rest waits for "
                      "prompts of others"),
        ("first token", f"{seconds(float(steady.ttft_s))}: the prompt adds {seconds(float(steady.prompt_s))} to steps"),
    ]  # fmt: skip
    parts: list[RenderableType] = [
        grid(lines),
        section("Where a decoding step goes", grid(_parts(result.step_parts))),
        section("What it reads, on each rank", grid(_reads(found))),
        section("Constants of the engine, a tenth better", _levers(found)),
        section("Plans and loads that differ in one setting", _neighbours(found)),
    ]
    if refused := [(own.change, own.reason) for own in found.neighbours if own.reason]:
        parts.append(section("What does not run", grid(refused)))
    return Group(*parts, section("Assumed", grid(list(result.assumed.items()))))


def _reads(found: ServingExplanation) -> list[tuple[str, str]]:
    shown = sorted(((own, name) for name, own in found.bytes_read.items() if own), reverse=True)
    names = {"cache": "cache and states"}
    bound = "the memory" if found.intensity < found.ridge else "16-bit products"
    said = f"{found.intensity:,.0f} FLOPs a byte; from {found.ridge:,.0f} on 16-bit products bound a step: {bound} does"
    return [(names.get(name, f"weights: {name}"), gib(own)) for own, name in shown] + [("intensity", said)]


SHOWN = 8
"""Levers that are printed."""


def _levers(found: ServingExplanation) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("constant", "now", "per token", "first token"):
        table.add_column(name, justify="left" if name == "constant" else "right")
    for own in found.levers[:SHOWN]:
        value = seconds(own.value) if own.unit == "s" else f"{own.value:.3g}"
        table.add_row(own.meaning, value, f"{100 * own.tpot:+.1f} %", f"{100 * own.ttft:+.1f} %")
    return table


def _neighbours(found: ServingExplanation) -> Table:
    result = found.result
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("change", "first token", "per token", "tokens/s per device", "USD per million tokens"):
        table.add_column(name, justify="left" if name == "change" else "right")
    price = result.usd_per_million_output_tokens
    table.add_row(
        "as it is", seconds(float(result.steady.ttft_s)), seconds(float(result.steady.tpot_s)),
        f"{result.output_tokens_per_s_per_device:,.0f}", "-" if price is None else f"{price:,.2f}",
    )  # fmt: skip
    for own in found.neighbours:
        if own.ttft_s is None or own.tpot_s is None or own.output_tokens_per_s_per_device is None:
            continue
        price = own.usd_per_million_output_tokens
        table.add_row(
            own.change, seconds(own.ttft_s), seconds(own.tpot_s), f"{own.output_tokens_per_s_per_device:,.0f}",
            "-" if price is None else f"{price:,.2f}",
        )  # fmt: skip
    return table
