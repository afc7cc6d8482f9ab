"""Commands that explain one plan."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ..core.errors import InputError
from .options import ClusterText, Job, print_json, with_options
from .resolve_plan import Batch, PlanFile, Sequence, Setting, chosen_plan
from .serve import explain_serve

app = typer.Typer(no_args_is_help=True, help="Explain one plan: where its time goes, and what would change it.")


class Format(StrEnum):
    """How an explanation is printed."""

    text = "text"
    markdown = "markdown"
    latex = "latex"


@app.command("train")
@with_options
def explain_train(
    job: Job,
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
) -> None:
    """Where the time of a plan goes from peak to achieved, its closed form, and what would change it.

    Without --plan and --set, of the best plan that the search finds for --sequence and --global-batch.
    """
    from ..explain.explain import explain_training

    if job.as_json and (form is not Format.text or depth is not None):
        raise InputError("json", True, "without --format and --depth: it has every definition", why="stands alone")
    architecture, machine, fit = job.architecture(), job.machine(cluster), job.fit()
    chosen = chosen_plan(
        job, architecture, machine, fit, plan=plan, setting=setting, sequence=sequence, global_batch=global_batch
    )
    found = explain_training(chosen, architecture, machine, quantity=quantity, fit=fit)
    if job.as_json:
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


app.command("serve")(explain_serve)
