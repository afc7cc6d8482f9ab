"""Commands about constants: calibrating them with own runs, and what an answer rests on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.errors import InputError
from .options import ClusterText, Job, Json, print_json, with_options
from .resolve_plan import Batch, PlanFile, Sequence, Setting, chosen_plan, plan_fields


def calibrate(
    runs: Annotated[
        Path,
        typer.Argument(help="CSV in the columns of the run table, YAML of one run, or the log of a training stack."),
    ],
    profile: Annotated[str, typer.Option(help="Name of the calibration; it is written to NAME.yaml.")] = "calibration",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write it to this file instead.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Of a log: the model that ran.")] = None,
    cluster: Annotated[str | None, typer.Option("--cluster", "-c", help="Of a log: where it ran.")] = None,
    plan: PlanFile = None,
    setting: Setting = None,
    as_json: Json = False,
) -> None:
    """Constants that one's own measured runs move, to be used with --calibrate-with."""
    from ..calibration.calibrate import fit_text
    from ..calibration.own_files import calibrated
    from ..core.files import check_writable, write_whole
    from ..report.calibration import own_report
    from ..report.training import show

    if not profile.strip():
        raise InputError("profile", profile, "a name", "calibration")
    path = Path(f"{profile}.yaml") if out is None else out
    check_writable(path)
    found = calibrated(runs, _job(model, cluster, plan_fields(plan, setting, {})))
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


@with_options
def doctor(
    job: Job,
    cluster: ClusterText,
    plan: PlanFile = None,
    setting: Setting = None,
    sequence: Sequence = None,
    global_batch: Batch = None,
) -> None:
    """What the time of a plan rests on, constant by constant, and what to measure next.

    Without --plan and --set, of the best plan that the search finds for --sequence and --global-batch.
    """
    from ..calibration.doctor import doctor as diagnose
    from ..report.calibration import doctor_report
    from ..report.training import show

    architecture, machine, fit = job.architecture(), job.machine(cluster), job.fit()
    chosen = chosen_plan(
        job, architecture, machine, fit, plan=plan, setting=setting, sequence=sequence, global_batch=global_batch
    )
    found = diagnose(chosen, architecture, machine, fit=fit)
    if job.as_json:
        print_json(found.to_dict())
    else:
        show(doctor_report(found))
