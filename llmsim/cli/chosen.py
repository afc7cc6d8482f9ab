"""The plan that a command is about: one that is given, or the best that the search finds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import InputError
from ..core.units import parse_length
from .options import batch_size

if TYPE_CHECKING:
    from ..architecture import Architecture
    from ..hardware.cluster import Cluster
    from ..hardware.fitted import Fit
    from ..plans.training import TrainingPlan

PlanFile = Annotated[Path | None, typer.Option("--plan", help="YAML or JSON file of a plan.")]
Setting = Annotated[list[str] | None, typer.Option("--set", help="FIELD=VALUE of the plan, such as tensor_parallel=8.")]
Sequence = Annotated[
    str | None, typer.Option("--sequence", "-s", help="Without a plan: tokens of a sequence, to search the best.")
]
Batch = Annotated[str | None, typer.Option("--global-batch", "-b", help="Without a plan: sequences of a step.")]


def chosen_plan(
    fields: dict[str, object],
    architecture: Architecture,
    cluster: Cluster,
    sequence: str | None,
    global_batch: str | None,
    fit: Fit | None,
) -> TrainingPlan:
    """The plan that was given, else the best that the search finds."""
    return _given(fields, sequence, global_batch) or _best(architecture, cluster, sequence, global_batch, fit)


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


def _best(
    architecture: Architecture,
    cluster: Cluster,
    sequence: str | None,
    global_batch: str | None,
    fit: Fit | None,
) -> TrainingPlan:
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
        fit=fit,
    )
    return answer.best[0].result.plan
