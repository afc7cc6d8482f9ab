"""A training plan, or one simulated step, as text for a terminal."""

from __future__ import annotations

import math
from io import StringIO

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..core.units import GIB, TERA, counted, days, gib, large, money, seconds
from ..economics.job import JobCost
from ..search.answer import Counts, PlannedJob, SpreadCounts, TrainingPlanning
from ..training.breakdown import PART_NAMES
from ..training.memory import MEMORY_NAMES
from ..training.result import OffloadReport, TrainingResult


def section(title: str, *body: RenderableType) -> Group:
    """A heading with something under it."""
    return Group(Text(f"\n{title}", style="bold"), *(Padding(b, (0, 0, 0, 2)) for b in body))


def grid(rows: list[tuple[str, str]]) -> Table:
    """Names with their values."""
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(name, value)
    return table


def result_headline(result: TrainingResult, job: JobCost | None = None) -> Table:
    """The figures that a reader looks for first."""
    rows = [
        ("plan", str(result.plan)),
        ("step", f"{seconds(result.step_time_s)} for {large(result.tokens_per_step)} tokens{_interval(result)}"),
        ("throughput", f"{result.tokens_per_s_per_device:,.0f} tokens/s per device{_throughputs(result)}"),
        (
            "MFU",
            f"{100 * result.mfu:.1f} % of {result.peak_flops_per_s / TERA:,.0f} TFLOP/s ({result.peak_format}, dense), "
            f"{result.mfu_convention} convention",
        ),
        ("memory", f"{gib(result.device_bytes)} of {gib(result.memory_limit_bytes)} usable per device{_risk(result)}"),
    ]
    if result.offload is not None:
        rows += _offload_rows(result.offload)
    if job is not None:
        price = "; ".join(filter(None, (job.price_source, job.price_date)))
        rows += [
            (
                "time",
                f"{days(job.days)}{_days(job)} for {counted(job.steps, 'step')}, excludes failures and restarts",
            ),
            (
                "cost",
                f"{money(job.cost_usd)} = {_number(job.device_hours)} device-hours at "
                f"{job.price_usd_per_device_hour:.2f} USD ({price})",
            ),
            ("energy", f"{energy(job.energy_kwh)} ({job.energy_basis})"),
        ]
    return grid(rows)


def _offload_rows(own: OffloadReport) -> list[tuple[str, str]]:
    rows = [("host memory", f"{gib(own.host_bytes)} of {gib(own.host_limit_bytes)} per device")]
    if own.activation_bytes:
        enough = "hidden" if own.required_bytes_per_s <= own.available_bytes_per_s else "not hidden"
        rows.append(
            (
                "offload",
                f"{gib(own.activation_bytes)} each way per micro-batch: {own.required_bytes_per_s / 1e9:,.1f} GB/s "
                f"would hide it, {own.available_bytes_per_s / 1e9:,.1f} GB/s there are ({enough}); "
                f"{seconds(own.exposed_s)} exposed",
            )
        )
    if own.update_s:
        rows.append(("host update", f"{seconds(own.update_s)} per step, beside the device's own"))
    return rows


def _risk(result: TrainingResult) -> str:
    chance = result.out_of_memory_chance
    if chance is None:
        return ""
    return f"; chance of running out {100 * chance:.0f} %" if chance >= 0.005 else "; chance of running out below 1 %"


def _days(job: JobCost) -> str:
    """In whole days, or in the units of :func:`seconds` where these say more."""
    if job.days_interval is None:
        return ""
    low, high = job.days_interval
    return f" (80 %: {low:,.0f} to {high:,.0f})" if low >= 10 else f" (80 %: {days(low)} to {days(high)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def energy(kwh: float) -> str:
    """Energy as text."""
    return f"{kwh / 1000:,.0f} MWh" if kwh >= 10_000 else f"{kwh:,.3g} kWh"


def _throughputs(result: TrainingResult) -> str:
    if result.step_interval_s is None:
        return ""
    low, high = (result.tokens_per_s_per_device * result.step_time_s / s for s in reversed(result.step_interval_s))
    return f" (80 %: {low:,.0f} to {high:,.0f})"


def _interval(result: TrainingResult) -> str:
    if result.step_interval_s is None:
        return "; how far off is not known: too few measured runs are like it"
    low, high = map(seconds, result.step_interval_s)
    return f"; 80 % interval {low} to {high}"


def breakdown_table(result: TrainingResult) -> Table:
    """The step by part."""
    table = Table(box=None, pad_edge=False)
    table.add_column("part of the step")
    table.add_column("seconds", justify="right")
    table.add_column("share", justify="right")
    for name, value in sorted(result.breakdown_s.items(), key=lambda item: -item[1]):
        if value > 5e-5 * result.step_time_s:
            table.add_row(PART_NAMES[name], f"{value:.4f}", f"{100 * value / result.step_time_s:.1f} %")
    table.add_row("total", f"{result.step_time_s:.4f}", "100.0 %", style="bold")
    return table


def memory_table(result: TrainingResult) -> Table:
    """Memory of the fullest stage by part, and of every run of stages in sum."""
    stage = result.fullest
    table = Table(box=None, pad_edge=False)
    last = stage.first + stage.repeats - 1
    where = f"stage {stage.first}" if stage.repeats == 1 else f"stages {stage.first} to {last}"
    table.add_column(f"memory of {where}, the fullest")
    table.add_column("GiB", justify="right")
    for name, value in stage.memory_bytes.items():
        if value > 0.005 * GIB:
            table.add_row(MEMORY_NAMES[name], f"{value / GIB:.2f}")
    table.add_row("allocated, at the peak", f"{stage.allocated_bytes / GIB:.2f}", style="bold")
    table.add_row("reserved by the allocator", f"{stage.reserved_bytes / GIB:.2f}")
    table.add_row("seen by the driver", f"{stage.device_bytes / GIB:.2f}")
    return table


_ORIGINS = {
    "interpolated": "interpolated between measured layers",
    "extrapolated": "fitted on other hardware or software",
}


def origins_text(provenance: dict[str, float]) -> str:
    """Origins of rates with their shares of a step, in words; less than half a per cent goes unsaid."""
    shown = {name: f"{100 * share:.0f}" for name, share in provenance.items()}
    return ", ".join(f"{share} % {_ORIGINS.get(name, name)}" for name, share in shown.items() if share != "0")


def notes(assumed: dict[str, str], provenance: dict[str, float]) -> Group:
    """What was assumed, and what the rates rest on."""
    parts: list[RenderableType] = []
    if assumed:
        parts.append(section("Defaults taken from profiles", grid(list(assumed.items()))))
    if provenance:
        parts.append(section("Rates", Text(f"the step rests on rates that are {origins_text(provenance)}")))
    return Group(*parts)


def result_report(result: TrainingResult) -> Group:
    """One simulated step."""
    over = {"device": result.device_bytes - result.memory_limit_bytes}
    if result.offload is not None:
        over["host"] = result.offload.host_bytes - result.offload.host_limit_bytes
    fit = "".join(f"  DOES NOT FIT the {where} by {gib(lacks)}" for where, lacks in over.items() if lacks > 0)
    return Group(
        Text(f"{result.model} on {result.cluster} ({counted(result.n_devices, 'device')}){fit}", style="bold"),
        result_headline(result),
        section("Where the time goes", breakdown_table(result)),
        section("Where the memory goes", memory_table(result), Text(_peak_text(result))),
        section("FLOPs per token, forward and backward", _flops_table(result)),
        notes(result.assumed, result.provenance),
    )


def _peak_text(result: TrainingResult) -> str:
    stage = result.fullest
    return f"peak: {stage.moment}; largest part: {MEMORY_NAMES[stage.owner]}"


def _flops_table(result: TrainingResult) -> Table:
    return grid([(name, f"{value / 1e9:,.2f} GFLOP") for name, value in result.flops_per_token.items()])


def planning_report(answer: TrainingPlanning) -> Group:
    """A planning answer: the winner in full, the others beside it, and how the choice came about."""
    best = answer.best[0]
    parts: list[RenderableType] = [
        Text(f"{answer.model} on {answer.cluster} ({counted(best.result.n_devices, 'device')})", style="bold"),
        section("Best plan", result_headline(best.result, best.job), *_preferred(answer)),
        section("Where the time goes", breakdown_table(best.result)),
        section("Where the memory goes", memory_table(best.result), Text(_peak_text(best.result))),
        section("Plans that differ in kind", _ranking(answer.best), *_undecided(answer)),
    ]
    if len(answer.best) > 1:
        parts.append(section("Where runners-up lose time", _losses(answer.best)))
    if answer.hints:
        parts.append(section("Hints", *map(Text, answer.hints)))
    if answer.misses:
        parts.append(section("Faster plans that do not fit", _misses(answer)))
    parts += [
        section("Time against memory", _tradeoffs(answer)),
        section("Search", _search(answer)),
        notes(answer.assumed, best.result.provenance),
    ]
    return Group(*parts)


def _ranking(jobs: list[PlannedJob]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("", "plan", "step", "vs best", "chance\nit wins", "MFU", "memory", "time", "cost"):
        table.add_column(name, justify="left" if name in ("", "plan") else "right", overflow="fold")
    first = jobs[0].result.step_time_s
    for rank, planned in enumerate(jobs, 1):
        result, job = planned.result, planned.job
        table.add_row(
            str(rank),
            str(result.plan),
            seconds(result.step_time_s),
            f"{100 * (result.step_time_s / first - 1):+.1f} %",
            "" if planned.chance_it_wins is None else f"{100 * planned.chance_it_wins:.0f} %",
            f"{100 * result.mfu:.1f} %",
            gib(result.device_bytes, 1),
            days(job.days) if job else "",
            money(job.cost_usd) if job else "",
        )
    return table


def _undecided(answer: TrainingPlanning) -> list[RenderableType]:
    """Which of them measuring would have to tell apart."""
    own = answer.undecided
    if own is None or not own.runners:
        return []
    times = [job.result.step_time_s for job in answer.best]
    nearest = 1 + min(own.runners, key=lambda n: abs(math.log(times[n] / times[0])))
    off = f"{100 * math.expm1(own.log_width):.0f} % in 80 of 100"
    settle = f"one step of plan {nearest} measured beside plan 1 would settle the nearest"
    numbers = [1, *(n + 1 for n in own.runners)]
    in_a_row = numbers == [*range(1, len(numbers) + 1)] and len(numbers) > 2
    listed = f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
    span = f"1 to {numbers[-1]}" if in_a_row else listed
    return [Text(f"{span} lie within what a comparison of two plans may be off ({off}): {settle}")]


def _losses(jobs: list[PlannedJob]) -> Table:
    """Part by part, the largest first, those below a fiftieth of the difference left out."""
    rows: list[tuple[str, str]] = []
    for rank, planned in enumerate(jobs[1:], 2):
        gap = planned.result.step_time_s - jobs[0].result.step_time_s
        largest = [d for d in planned.behind if abs(d.seconds) >= 0.02 * max(gap, 1e-9)][:4]
        terms = ", ".join(f"{PART_NAMES[d.part].removesuffix(', exposed')} {d.seconds:+.4f} s" for d in largest)
        rows.append((str(rank), f"{gap:+.4f} s: {terms}"))
    return grid(rows)


def _misses(answer: TrainingPlanning) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("plan", "step", "vs best", "lacks"):
        table.add_column(name, justify="left" if name == "plan" else "right", overflow="fold")
    first = answer.best[0].result.step_time_s
    for miss in answer.misses:
        gain = f"{100 * (miss.step_time_s / first - 1):+.1f} %"
        table.add_row(str(miss.plan), seconds(miss.step_time_s), gain, gib(miss.lacking_bytes))
    return table


def _tradeoffs(answer: TrainingPlanning) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("step", "memory", "plan"):
        table.add_column(name, justify="left" if name == "plan" else "right", overflow="fold")
    for point in answer.pareto:
        table.add_row(seconds(point.step_time_s), gib(point.device_bytes, 1), str(point.plan))
    return table


def _proof(counts: Counts) -> str:
    if counts.proven:
        said = "the closed form, which is never above the exact time, says so"
        if counts.spreads is not None:
            said = "the closed form and the bound on other spreads, which are never above the exact time, say so"
        return f"no plan of the space can be faster than the fastest of these: {said}"
    return f"none: plans whose schedule was not computed may be faster by up to {100 * counts.bound_gap:.1f} %"


def _chosen_by(answer: TrainingPlanning) -> list[tuple[str, str]]:
    """What chose the winner, and what the proof says of it then."""
    own = answer.chosen_by
    if own is None:
        return []
    least = f"{seconds(own.step_time_s)}, the least of those timed exactly; the proof is of predicted times only"
    return [(f"chosen at percentile {own.percentile:g}", least)]


def _preferred(answer: TrainingPlanning) -> list[RenderableType]:
    """The fastest plan, where a simpler one was chosen that is about as fast."""
    own = answer.preference
    if own is None or not own.gain:
        return []
    text = (
        f"It is the simplest of {own.plans:,} plans within {100 * own.within:g} % of the fastest (in this order: "
        f"{own.order}). The fastest takes {seconds(own.step_time_s)}, {100 * own.gain:.1f} % less:"
    )
    return [Text(f"\n{text}\n{own.fastest}")]


def _near(answer: TrainingPlanning) -> list[tuple[str, str]]:
    own = answer.preference
    if own is None:
        return []
    said = "" if own.gain else "; none is simpler than the fastest"
    return [(f"plans within {100 * own.within:g} % of the fastest", f"{own.plans:,}{said}")]


def _search(answer: TrainingPlanning) -> Table:
    counts = answer.counts
    rows = [
        ("combinations formed", f"{counts.considered:,}"),
        *((f"  dropped: {rule}", f"{number:,}") for rule, number in counts.rejected.items()),
        ("plans that fit", f"{counts.fitting:,}"),
        *([("  ruled out by a bound on their time", f"{counts.bounded:,}")] if counts.bounded else []),
        ("timed by closed form", f"{counts.fitting - counts.bounded:,}"),
        ("timed by their exact schedule", f"{counts.simulated:,}"),
        *_spreads(counts.spreads),
        *_chosen_by(answer),
        ("proof", _proof(counts)),
        *_near(answer),
        ("search time", seconds(answer.search_s)),
    ]
    return grid(rows)


def _spreads(counts: SpreadCounts | None) -> list[tuple[str, str]]:
    """What became of plans that spread unevenly."""
    if counts is None:
        return []
    named = [
        ("plans that spread layers or recomputation unevenly", counts.plans),
        ("  ruled out by a bound on the time of any spread", counts.bounded),
        ("  too large for memory under any spread", counts.too_large),
        ("  simulated", counts.simulated),
        ("    of which fit", counts.fitting),
        ("  not looked at, too many", counts.left),
    ]
    return [(name, f"{number:,}") for name, number in named if number or name == named[0][0]]


def show(report: RenderableType, *, width: int | None = None) -> None:
    """Print a report to standard output; elsewhere than on a terminal without the spaces that fill its lines."""
    console = Console(width=width, highlight=False, soft_wrap=False)
    if console.is_terminal:
        console.print(report)
        return
    text = StringIO()
    Console(file=text, width=width or 160, highlight=False).print(report)
    print("\n".join(line.rstrip() for line in text.getvalue().splitlines()))
