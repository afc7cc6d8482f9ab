"""A server simulated request by request as text for a terminal."""

from __future__ import annotations

import math

from rich.console import Group, RenderableType
from rich.table import Table

from ..core.units import counted, money, seconds
from ..plans.serving import ServingPlan
from ..serving.capacity import Capacity
from ..serving.replay import Distribution, Objective, WorkloadResult
from .serving import memory_lines, plan_line
from .training import grid, section


def replay_report(result: WorkloadResult) -> RenderableType:
    """The whole answer."""
    return Group(
        grid([("plan", _plan(result)), ("load", result.workload)]),
        section("At start-up, on each rank", grid(memory_lines(result.memory))),
        section("Latency", _latencies(result)),
        section("Throughput", grid(_throughput(result))),
        section("Assumed", grid(list(result.assumed.items()))),
    )


def capacity_report(found: Capacity) -> RenderableType:
    """The highest rate, latencies over rates, and what the server does at the highest."""
    wanted = f"{100 * found.share:g} % of the requests keep {_objective(found.objective)}"
    if found.best is None:
        lines = [("highest rate", f"none: even requests hours apart miss it ({wanted})")]
        return Group(grid(lines), section("Latency over the rate", _loads(found)))
    best = found.best
    lines = [
        ("plan", _plan(best)),
        ("highest rate", f"{found.rate_per_s:.3g} requests/s, at which {wanted}"),
        ("throughput", f"{best.output_tokens_per_s:,.0f} output tokens/s; {best.output_tokens_per_s_per_device:,.0f} "
                       "per device"),
    ]  # fmt: skip
    if best.usd_per_million_output_tokens is not None:
        lines.append(("cost", f"{money(best.usd_per_million_output_tokens)} per million output tokens"))
    return Group(
        grid(lines),
        section("Latency over the rate", _loads(found)),
        section("Assumed", grid(list(best.assumed.items()))),
    )


def _plan(result: WorkloadResult) -> str:
    plan: ServingPlan = result.plan
    return plan_line(plan, result.model, result.replicas)


def _objective(wanted: Objective) -> str:
    names = (("first token", wanted.ttft_s), ("token", wanted.tpot_s), ("request", wanted.e2e_s))
    return ", ".join(f"{name} within {seconds(limit)}" for name, limit in names if limit is not None)


def _latencies(result: WorkloadResult) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("")
    for name in ("mean", "p50", "p90", "p95", "p99", "highest"):
        table.add_column(name, justify="right")
    for name, own in (("first token", result.ttft), ("per token", result.tpot), ("between tokens", result.itl),
                      ("request", result.e2e)):  # fmt: skip
        table.add_row(name, *_numbers(own))
    return table


def _numbers(own: Distribution) -> list[str]:
    values = (own.mean, own.p50, own.p90, own.p95, own.p99, own.highest)
    return ["-" if math.isnan(value) else seconds(value) for value in values]


def _throughput(result: WorkloadResult) -> list[tuple[str, str]]:
    each = f"{result.output_tokens_per_s_per_device:,.0f} per device"
    given_up = counted(result.preemptions, "preemption")
    lines = [
        ("output", f"{result.output_tokens_per_s:,.0f} tokens/s; {each}"),
        ("requests", f"{result.requests_per_s:,.2f} per second; {counted(result.requests, 'request')} in "
                     f"{seconds(result.duration_s)}"),
        ("in flight", f"{result.mean_in_flight:,.1f} requests; {result.mean_batch:,.1f} sequences decode in a step"),
        ("cache", f"{100 * result.cache_peak:.0f} % of the blocks at most; {given_up}"),
    ]  # fmt: skip
    if result.prefix_hits is not None:
        lines.append(("shared prefixes", f"{100 * result.prefix_hits:.1f} % of the prompts found theirs in the cache"))
    if result.refused:
        lines.append(("refused", f"{counted(result.refused, 'request')} longer than the cache"))
    if result.attainment is not None:
        lines.append(("goodput", f"{result.goodput_per_s:,.2f} requests per second keep the objective, "
                                 f"{100 * result.attainment:.1f} %"))  # fmt: skip
    if result.usd_per_million_output_tokens is not None:
        lines.append(("cost", f"{money(result.usd_per_million_output_tokens)} per million output tokens"))
    return lines


def _loads(found: Capacity) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("requests/s", "keep it", "first token p50", "p99", "per token p50", "p99", "request p99", "tokens/s"):
        table.add_column(name, justify="right")
    for load in found.loads:
        table.add_row(
            f"{load.rate_per_s:.3g}", f"{100 * load.attainment:.1f} %", seconds(load.ttft_p50_s),
            seconds(load.ttft_p99_s), seconds(load.tpot_p50_s), seconds(load.tpot_p99_s), seconds(load.e2e_p99_s),
            f"{load.output_tokens_per_s:,.0f}",
        )  # fmt: skip
    return table
