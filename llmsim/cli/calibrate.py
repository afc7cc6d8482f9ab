"""Commands about constants: calibrating them with own runs, and what an answer rests on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
    check_writable,
    own_constants,
    plan_fields,
    print_json,
    reports_errors,
)


@reports_errors
def calibrate(
    runs: Annotated[
        Path,
        typer.Argument(help="CSV in the columns of the run table, YAML of one run, or the log of a training stack."),
    ],
    profile: Annotated[str, typer.Option(help="Name of the calibration; it is written to NAME.yaml.")] = "calibration",
    out: Annotated[Path | None, typer.Option(help="Write it to this file instead.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Of a log: the model that ran.")] = None,
    cluster: Annotated[str | None, typer.Option("--cluster", "-c", help="Of a log: where it ran.")] = None,
    plan: PlanFile = None,
    setting: Setting = None,
    as_json: Json = False,
) -> None:
    """Constants that one's own measured runs move, to be used with --calibrate-with."""
    from ..calibration.calibrate import fit_text
    from ..calibration.own_files import calibrated
    from ..core.files import write_whole
    from ..report.calibration import own_report
    from ..report.training import show

    path = Path(f"{profile}.yaml") if out is None else out
    check_writable(path)
    found = calibrated(runs, _job(model, cluster, plan_fields(plan, setting or [])))
    write_whole(path, fit_text(found.fit, "llmsim calibrate"))
    if as_json:
        listed: list[dict[str, Any]] = [vars(run) for run in found.runs]
        moved = {name: {"before": a, "after": b} for name, (a, b) in found.moved.items()}
        own = {"written": str(path), "runs": listed, "doubtful": found.fit.doubtful, "moved": moved}
        print_json({"schema": "llmsim.calibration/1", **own})
        return
    show(own_report(found, str(path)))


def _job(model: str | None, cluster: str | None, plan: dict[str, Any]) -> dict[str, Any] | None:
    """What a log does not say: all of it, or nothing."""
    given = {"model": model, "cluster": cluster, "plan": plan or None}
    if not any(given.values()):
        return None
    for name, value in given.items():
        if not value:
            raise InputError(name, value, "the job of a log: --model, --cluster and --plan or --set", why="is missing")
    return given


@reports_errors
def doctor(
    model: Model,
    cluster: ClusterText,
    plan: PlanFile = None,
    setting: Setting = None,
    sequence: Sequence = None,
    global_batch: Batch = None,
    calibrate_with: CalibrateWith = None,
    network: Network = None,
    ignore_key: IgnoreKeys = None,
    as_json: Json = False,
) -> None:
    """What the time of a plan rests on, constant by constant, and what to measure next."""
    from ..architecture import Architecture
    from ..calibration.doctor import doctor as diagnose
    from ..hardware.cluster import Cluster
    from ..report.calibration import doctor_report
    from ..report.training import show

    architecture = Architecture.from_config(model, ignore=ignore_key or ())
    machine = Cluster.parse(cluster, network=network)
    fit = own_constants(calibrate_with)
    fields = plan_fields(plan, setting or [])
    chosen = chosen_plan(fields, architecture, machine, sequence, global_batch, fit)
    found = diagnose(chosen, architecture, machine, fit=fit)
    if as_json:
        print_json(found.to_dict())
    else:
        show(doctor_report(found))
