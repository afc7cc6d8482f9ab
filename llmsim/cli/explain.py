"""Commands that explain one plan."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ..core.errors import InputError
from .chosen import Batch, PlanFile, Sequence, Setting, chosen_plan
from .options import (
    CalibrateWith,
    ClusterText,
    IgnoreKeys,
    Json,
    Model,
    Network,
    own_constants,
    plan_fields,
    print_json,
    reports_errors,
)

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
    plan: PlanFile = None,
    setting: Setting = None,
    sequence: Sequence = None,
    global_batch: Batch = None,
    quantity: Annotated[
        str, typer.Option(help="What to give the closed form of: step, pipeline, forward, memory, tokens_per_s ...")
    ] = "step",
    depth: Annotated[int | None, typer.Option(min=1, help="Levels of definitions to print, 4 by default.")] = None,
    form: Annotated[Format, typer.Option("--format", help="How to print it; latex has the closed form only.")] = (
        Format.text
    ),
    as_json: Json = False,
    network: Network = None,
    calibrate_with: CalibrateWith = None,
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
    fit = own_constants(calibrate_with)
    fields = plan_fields(plan, setting or [])
    chosen = chosen_plan(fields, architecture, machine, sequence, global_batch, fit)
    found = explain_training(chosen, architecture, machine, quantity=quantity, fit=fit)
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
