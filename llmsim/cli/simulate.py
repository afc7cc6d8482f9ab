"""Commands that simulate one given plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import InputError
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

app = typer.Typer(no_args_is_help=True, help="Simulate one given plan.")


@app.command("train")
@reports_errors
def simulate_train(
    model: Model,
    cluster: ClusterText,
    plan: Annotated[Path | None, typer.Option(help="YAML or JSON file of a plan.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="FIELD=VALUE of the plan, such as tensor_parallel=8.")
    ] = None,
    network: Network = None,
    calibrate_with: CalibrateWith = None,
    as_json: Json = False,
    ignore_key: IgnoreKeys = None,
) -> None:
    """One training step of a given plan: time, memory, FLOPs."""
    from ..architecture import Architecture
    from ..hardware.cluster import Cluster
    from ..hardware.profiles import build
    from ..plans.training import TrainingPlan
    from ..training.simulate import simulate_training

    data = plan_fields(plan, setting or [])
    if not data:
        raise InputError("plan", None, "--plan FILE, or --set FIELD=VALUE once for each field", why="is missing")
    result = simulate_training(
        build(TrainingPlan, data, "plan"),
        Architecture.from_config(model, ignore=ignore_key or ()),
        Cluster.parse(cluster, network=network),
        fit=own_constants(calibrate_with),
    )
    if as_json:
        print_json(result.to_dict())
        return
    from ..report.training import result_report, show

    show(result_report(result))
