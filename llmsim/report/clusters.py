"""A choice of cluster as text for a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..core.units import counted, days, large, money, seconds
from ..search.clusters import ClusterChoice, ClusterOption, Mix
from .training import breakdown_table, energy, grid, result_headline, section


def cluster_report(answer: ClusterChoice) -> Group:
    """The chosen cluster with its plan, and every option beside it."""
    chosen = answer.chosen
    assert chosen.best is not None
    asked = [f"{large(answer.tokens)} tokens, least {answer.objective}"]
    asked += [f"in {counted(answer.deadline_days, 'day')}"] if answer.deadline_days is not None else []
    asked += [f"for {money(answer.budget_usd)}"] if answer.budget_usd is not None else []
    parts: list[RenderableType] = [
        Text(f"{answer.model}: {', '.join(asked)}", style="bold"),
        section(
            f"Take {chosen.cluster} with {counted(chosen.global_batch, 'sequence')} a step",
            result_headline(chosen.best.result, chosen.best.job),
        ),
        section("Where the time goes", breakdown_table(chosen.best.result)),
        section("All options", _options(answer.options)),
    ]
    if answer.mix is not None:
        parts.append(section("Cheaper on two clusters, one after the other", Text(_mix(answer, answer.mix))))
    refused = [o for o in answer.options if o.broken]
    if refused:
        parts.append(section("Not taken", grid([(_name(o), "; ".join(o.broken)) for o in refused])))
    if len({o.global_batch for o in answer.options}) > 1:
        parts.append(Text("\nAll batch sizes are taken to reach the same loss after the same tokens."))
    parts.append(section(f"Assumed for {chosen.cluster}", grid(list(answer.assumed[chosen.cluster].items()))))
    return Group(*parts)


def _mix(answer: ClusterChoice, mix: Mix) -> str:
    first, second = (_name(answer.options[i]) for i in (mix.first, mix.second))
    alone = answer.chosen.job
    saved = "" if alone is None else f", {100 * (1 - mix.cost_usd / alone.cost_usd):.1f} % less"
    return (
        f"{100 * mix.share:.0f} % of the tokens on {first}, the rest on {second}: {days(mix.days)}, "
        f"{money(mix.cost_usd)}{saved}; moving the checkpoint is not counted"
    )


def _name(option: ClusterOption) -> str:
    return f"{option.cluster}, batch {option.global_batch:,}"


def _options(options: list[ClusterOption]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("", "cluster", "batch", "time", "cost", "energy", "step", "MFU", "plan"):
        table.add_column(name, justify="left" if name in ("", "cluster", "plan") else "right", overflow="fold")
    for option in options:
        if option.best is None or option.job is None:
            continue
        job, result = option.job, option.best.result
        mark = "misses" if option.broken else ("beaten" if option.dominated else "")
        table.add_row(
            mark,
            option.cluster,
            f"{option.global_batch:,}",
            days(job.days),
            money(job.cost_usd),
            energy(job.energy_kwh),
            seconds(result.step_time_s),
            f"{100 * result.mfu:.1f} %",
            str(result.plan),
        )
    return table
