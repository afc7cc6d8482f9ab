"""Commands that explain one plan."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import InputError
from ..core.units import parse_length
from .options import ClusterText, IgnoreKeys, Json, Model, Network, batch_size, plan_fields, print_json, reports_errors

if TYPE_CHECKING:
    from ..architecture import Architecture
    from ..hardware.cluster import Cluster
    from ..plans.training import TrainingPlan

app = typer.Typer(no_args_is_help=True, help="Explain one plan: where its time goes, and what would change it.")


class Format(StrEnum):
    """How an explanation is printed."""

    text = "text"
    markdown = "markdown"
    latex = "latex"


@app.command("train")
@reports_errors
def explain_train(
    model: Model,
    cluster: ClusterText,
    plan: Annotated[Path | None, typer.Option(help="YAML or JSON file of a plan.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="FIELD=VALUE of the plan, such as tensor_parallel=8.")
    ] = None,
    sequence: Annotated[
        str | None, typer.Option("--sequence", "-s", help="Without a plan: tokens of a sequence, to search the best.")
    ] = None,
    global_batch: Annotated[
        str | None, typer.Option("--global-batch", "-b", help="Without a plan: sequences of a step.")
    ] = None,
    quantity: Annotated[
        str, typer.Option(help="What to give the closed form of: step, pipeline, forward, memory, tokens_per_s ...")
    ] = "step",
    depth: Annotated[int | None, typer.Option(min=1, help="Levels of definitions to print, 4 by default.")] = None,
    form: Annotated[Format, typer.Option("--format", help="How to print it; latex has the closed form only.")] = (
        Format.text
    ),
    as_json: Json = False,
    network: Network = None,
    ignore_key: IgnoreKeys = None,
) -> None:
    """Where the time of a plan goes from peak to achieved, its closed form, and what would change it."""
    from ..architecture import Architecture
    from ..explain.explain import explain_training
    from ..hardware.cluster import Cluster

    if as_json and (form is not Format.text or depth is not None):
        raise InputError("json", as_json, "without --format and --depth: it has every definition", why="stands alone")
    architecture = Architecture.from_config(model, ignore=ignore_key or ())
    machine = Cluster.parse(cluster, network=network)
    fields = plan_fields(plan, setting or [])
    chosen = _given(fields, sequence, global_batch) or _best(architecture, machine, sequence, global_batch)
    found = explain_training(chosen, architecture, machine, quantity=quantity)
    if as_json:
        print_json(found.to_dict())
        return
    from ..report.explanation import DEPTH, explanation_latex, explanation_markdown, explanation_report
    from ..report.training import show

    levels = DEPTH if depth is None else depth
    if form is Format.markdown:
        print(explanation_markdown(found, levels))
    elif form is Format.latex:
        print(explanation_latex(found, levels))
    else:
        show(explanation_report(found, levels))


def _given(fields: dict[str, object], sequence: str | None, global_batch: str | None) -> TrainingPlan | None:
    """The plan that was given, if one was."""
    from ..hardware.profiles import build
    from ..plans.training import TrainingPlan

    if not fields:
        return None
    for name, value in (("sequence", sequence), ("global_batch", global_batch)):
        if value is not None:
            raise InputError(
                name, value, "only without --plan and --set, to search the best plan", why="is in the plan"
            )
    return build(TrainingPlan, fields, "plan")


def _best(architecture: Architecture, cluster: Cluster, sequence: str | None, global_batch: str | None) -> TrainingPlan:
    """The best plan that the search finds."""
    from ..search.plan import plan_training

    if sequence is None or global_batch is None:
        allowed = "--plan FILE, --set FIELD=VALUE once for each field, or --sequence and --global-batch to search one"
        raise InputError("plan", None, allowed, why="is missing")
    answer = plan_training(
        architecture,
        cluster,
        sequence=parse_length(sequence, "sequence"),
        global_batch=batch_size(global_batch, "global_batch"),
    )
    return answer.best[0].result.plan
