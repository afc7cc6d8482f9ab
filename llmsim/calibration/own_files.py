"""Files of one's own measurements: a table of runs, one run with its plan, or a fit made of them before."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ..architecture import Architecture
from ..core.arguments import of_kind
from ..core.errors import InputError, LlmsimError
from ..core.units import GIB
from ..core.versions import without_schema
from ..hardware.cluster import Cluster, in_folder
from ..hardware.fitted import SCHEMA, Fit, read_fit
from ..hardware.profiles import Real, build, read_yaml
from ..plans.rules import violations
from ..plans.training import TrainingPlan
from .batches import settle_recompute
from .logs import LoggedRun, read_log
from .own import OwnFit, own_fit
from .runs import RunPlan, plan_run
from .table import MEMORY_KINDS, MeasuredRun, read_runs

RUN_SCHEMA = "llmsim.measured-run/1"
_RUN_FILES = (".yaml", ".yml", ".json")


class _RunFile(BaseModel):
    """One measured run: what ran, and its step time or the log that has it."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    model: str
    cluster: str | dict[str, Any]
    plan: dict[str, Any]
    step_time_s: Real | None = Field(default=None, gt=0, le=1e7, allow_inf_nan=False)
    log: str | None = None
    memory_gib: Real | None = Field(default=None, gt=0, le=1e6, allow_inf_nan=False)
    memory_kind: str | None = None


def calibrate_with(path: str | Path) -> Fit:
    """The constants that a file of one's own measurements leads to.

    Parameters
    ----------
    path
        A fit that ``llmsim calibrate`` wrote; a table of runs in the columns of ``validation/training_runs.csv``; or a
        YAML file of one run: ``model``, ``cluster``, ``plan`` and ``step_time_s`` (or ``log``, the file of a log).

    Raises
    ------
    InputError
        For a file that is none of these, whose runs cannot be simulated, or whose times no machine can have taken or
        have another unit. Times that are far from their predictions are listed in ``doubtful`` of the fit.
    """
    path = Path(of_kind(path, (str, Path), "calibration", "the path of a file"))
    _check_exists(
        path, "calibration", "what `llmsim calibrate` wrote, a .csv table of own runs, or a .yaml file of one"
    )
    if path.suffix.lower() in _RUN_FILES and _is_fit(path):
        return read_fit(path)
    return calibrated(path).fit


def calibrated(path: Path, job: Mapping[str, Any] | None = None) -> OwnFit:
    """The fit to the runs of a file.

    Parameters
    ----------
    job
        ``model``, ``cluster`` and ``plan`` of a log, which says none of them.
    """
    _check_exists(path, "runs", "a .csv table of runs, a .yaml file of one run, or a log")
    return own_fit(_runs(path, job), path.name)


def _is_fit(path: Path) -> bool:
    """Whether a file is a fit, of this release or another."""
    return str(read_yaml(path, "calibration").get("schema")).startswith(SCHEMA.partition("/")[0] + "/")


def _check_exists(path: Path, field: str, allowed: str) -> None:
    if os.path.isdir(path) or not os.path.exists(path):
        raise InputError(field, str(path), allowed, why="is a directory" if os.path.isdir(path) else "does not exist")


def _runs(path: Path, job: Mapping[str, Any] | None) -> list[RunPlan]:
    if job is not None:
        return [_logged(path, path, {**job, "log": path.name}, Path())]
    if path.suffix.lower() in _RUN_FILES:
        instead = "write it as in docs/calibration.md"
        data = without_schema(read_yaml(path, "measured run"), RUN_SCHEMA, f"measured run {path}", instead)
        return [_logged(path, path.parent / str(data.get("log", "")), data, path.parent)]
    if path.suffix.lower() == ".csv":
        return settle_recompute([_planned(run, path) for run in read_runs(path)])
    allowed = "a .csv table of runs, a .yaml file of one run, or a log with --model, --cluster and --plan or --set"
    raise InputError("runs", str(path), allowed, why="does not say what ran")


def _planned(run: MeasuredRun, path: Path) -> RunPlan:
    """A run that cannot be simulated would say nothing, so it is refused by its line."""
    try:
        item = plan_run(run, (path.parent,))
    except LlmsimError as error:
        raise InputError(f"{path}, line {run.line}", run.id, why=f"cannot be simulated: {error}") from None
    return item


def _logged(path: Path, log: Path, data: Mapping[str, Any], folder: Path) -> RunPlan:
    """The run of a file, whose hardware files are found from a folder."""
    found = build(_RunFile, dict(data), f"measured run {path}")
    architecture = Architecture.from_config(found.model)
    cluster = (
        build(Cluster, in_folder(found.cluster, folder), "cluster")
        if isinstance(found.cluster, dict)
        else Cluster.parse(found.cluster, folder=folder)
    )
    plan = build(TrainingPlan, found.plan, "plan")
    broken = violations(plan, architecture, cluster.n_devices)
    if broken:
        raise InputError("plan", str(plan), why="is invalid: " + "; ".join(broken))
    if (found.step_time_s is None) == (found.log is None):
        raise InputError("step_time_s", found.step_time_s, "this or log, one of the two")
    if found.memory_kind not in (None, *MEMORY_KINDS):
        raise InputError("memory_kind", found.memory_kind, ", ".join(MEMORY_KINDS))
    values = {"id": path.name, "model": found.model, "recompute": plan.recompute}
    if found.step_time_s is not None:
        values["step_time_s"] = repr(found.step_time_s)
    else:
        values |= _of_log(read_log(log), plan, cluster)
    if found.memory_gib is not None:
        values |= {"memory_gib": repr(found.memory_gib), "memory_kind": found.memory_kind or "reserved"}
    return RunPlan(MeasuredRun(0, values), architecture, cluster, plan)


def _of_log(log: LoggedRun, plan: TrainingPlan, cluster: Cluster) -> dict[str, str]:
    if log.global_batch is not None and log.global_batch != plan.global_batch_size:
        raise InputError(
            "global_batch_size", plan.global_batch_size, f"{log.global_batch}, as the log says", log.global_batch
        )
    tokens = plan.global_batch_size * plan.sequence_length
    found = {"step_time_s": repr(log.step_time_s(tokens, plan.global_batch_size, cluster.n_devices))}
    for kind in ("reserved", "allocated"):
        if kind in log.memory_bytes:
            return found | {"memory_gib": repr(log.memory_bytes[kind] / GIB), "memory_kind": kind}
    return found
