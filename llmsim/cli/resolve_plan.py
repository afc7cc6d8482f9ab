"""The plan that a command is about: one that is given, or the best that the search finds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import InputError
from .options import Job, settings

if TYPE_CHECKING:
    from ..architecture import Architecture
    from ..hardware.cluster import Cluster
    from ..hardware.fitted import Fit
    from ..plans.training import TrainingPlan

PlanFile = Annotated[
    Path | None, typer.Option("--plan", "-p", help="YAML or JSON file of a plan; --set and other options come over it.")
]
Setting = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="FIELD=VALUE of the plan, such as tensor_parallel=8; `llmsim settings` lists the fields."
    ),
]
Sequence = Annotated[str | None, typer.Option("--sequence", "-s", help="Tokens of a sequence: 8192 or 8k.")]
Batch = Annotated[str | None, typer.Option("--global-batch", "-b", help="Sequences of a step.")]
LISTED = "`llmsim settings` lists the fields"


def plan_fields(plan: Path | None, setting: list[str] | None, said: dict[str, Any]) -> dict[str, Any]:
    """The fields of a plan: from a file, over them those of ``--set`` and of options, which may not meet."""
    from ..plans.training import read_plan

    values = settings(setting or [])
    for name in values.keys() & said.keys():
        allowed = f"one of --set {name}=... and its own option"
        raise InputError(name, said[name], allowed, why=f"is also set to {values[name]!r}")
    return {**({} if plan is None else read_plan(plan)), **values, **said}


def built_plan(fields: dict[str, Any]) -> TrainingPlan:
    """The plan of these fields."""
    from ..hardware.profiles import build
    from ..plans.training import TrainingPlan

    try:
        return build(TrainingPlan, fields, "plan")
    except InputError as error:
        if error.why not in ("is missing", "is an unknown key"):
            raise
        allowed = "; ".join(filter(None, (error.allowed, LISTED)))
        raise InputError(error.field, error.value, allowed, error.nearest, error.why) from None


def given_plan(
    job: Job, plan: Path | None, setting: list[str] | None, sequence: str | None, global_batch: str | None
) -> TrainingPlan | None:
    """The plan that was given, by a file or by ``--set``, with what options say over it; None where neither was."""
    if plan is None and not setting:
        return None
    return built_plan(plan_fields(plan, setting, {**job.said(), **_sizes(sequence, global_batch)}))


def _sizes(sequence: str | None, global_batch: str | None) -> dict[str, Any]:
    sizes = {"sequence_length": sequence, "global_batch_size": global_batch}
    return {name: value for name, value in sizes.items() if value is not None}


def chosen_plan(
    job: Job,
    architecture: Architecture,
    cluster: Cluster,
    fit: Fit | None,
    *,
    plan: Path | None,
    setting: list[str] | None,
    sequence: str | None,
    global_batch: str | None,
) -> TrainingPlan:
    """The plan that was given, else the best that the search finds."""
    from ..search.plan import plan_training

    given = given_plan(job, plan, setting, sequence, global_batch)
    if given is not None:
        return given
    if sequence is None or global_batch is None:
        allowed = "--plan FILE, --set FIELD=VALUE once for each field, or --sequence and --global-batch to search one"
        raise InputError("plan", None, allowed, why="is missing")
    answer = plan_training(architecture, cluster, sequence=sequence, global_batch=global_batch, fit=fit, **job.said())
    return answer.best[0].result.plan
