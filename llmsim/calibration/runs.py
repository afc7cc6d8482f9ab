"""Measured training runs: the columns of the run table, read strictly, and the plan that each row describes."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..architecture import Architecture
from ..core.errors import InputError, LlmsimError, UnsupportedError
from ..hardware.cluster import Cluster
from ..hardware.devices import get_device
from ..hardware.software import get_software
from ..plans.training import TrainingPlan, violations
from .texts import domain_of, network_of, overlap_of, recompute_of, release_of

COLUMNS = (
    "id", "group", "source", "model", "hardware", "n_devices", "devices_per_node", "interconnect", "framework",
    "framework_release", "precision", "sequence_length", "global_batch_size", "micro_batch_size", "tensor_parallel",
    "pipeline_parallel", "virtual_pipeline", "context_parallel", "expert_parallel", "data_parallel", "sharding",
    "sequence_parallel", "recompute", "offload", "overlap", "optimizer", "routing", "step_time_s",
    "tokens_per_s_per_device", "tflops_per_device", "flops_convention", "memory_gib", "memory_kind", "out_of_memory",
    "notes",
)  # fmt: skip
"""Columns of a run table, in its order."""

REQUIRED = (
    "id", "model", "hardware", "n_devices", "framework", "precision", "sequence_length", "global_batch_size",
    "micro_batch_size", "tensor_parallel", "pipeline_parallel", "data_parallel",
)  # fmt: skip

METRICS = ("step_time_s", "memory_gib", "out_of_memory")
"""What is scored."""

_COUNTS = (
    "n_devices", "devices_per_node", "sequence_length", "global_batch_size", "micro_batch_size", "tensor_parallel",
    "pipeline_parallel", "virtual_pipeline", "context_parallel", "expert_parallel", "data_parallel",
)  # fmt: skip
_MEASURES = ("step_time_s", "tokens_per_s_per_device", "tflops_per_device", "memory_gib")


@dataclass(frozen=True)
class MeasuredRun:
    """One row of a run table.

    Attributes
    ----------
    line
        In the file.
    values
        Column -> text as it stands, empty where unknown.
    """

    line: int
    values: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.values.get(column, "")

    @property
    def id(self) -> str:
        """Row id."""
        return self["id"]

    @property
    def group(self) -> str:
        """Unit of scoring; the id where the table has none."""
        return self["group"] or self.id

    def count(self, column: str, default: int = 1) -> int:
        """A whole number, or the default where the cell is empty."""
        return int(float(self[column])) if self[column] else default

    @property
    def step_time_s(self) -> float | None:
        """Measured step time, seconds; from the throughput where only that is given."""
        if self["step_time_s"]:
            return float(self["step_time_s"])
        if self["tokens_per_s_per_device"]:
            tokens = self.count("global_batch_size") * self.count("sequence_length")
            return tokens / (float(self["tokens_per_s_per_device"]) * self.count("n_devices"))
        return None

    @property
    def memory_gib(self) -> float | None:
        """Measured peak memory per device, GiB."""
        return float(self["memory_gib"]) if self["memory_gib"] else None

    @property
    def out_of_memory(self) -> bool | None:
        """Whether the source reports that it did not fit; None where it says nothing."""
        return {"true": True, "false": False}.get(self["out_of_memory"].lower())


def read_runs(path: str | Path) -> list[MeasuredRun]:
    """The rows of a run table.

    Raises
    ------
    InputError
        With line and column: a missing or unknown column, a line with too few or too many cells, a number that is none,
        NaN, zero or negative.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise InputError("runs", str(path), "a readable CSV file", why=f"cannot be read ({reason})") from None
    reader = csv.reader(text.splitlines(keepends=True), strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num}", text[-60:], "well-formed CSV", why=f"is broken ({error})"
        ) from None
    if not lines:
        raise InputError("runs", str(path), "a header line and at least one row", why="is empty")
    header = _header(path, lines[0][1])
    return [_row(path, line, header, cells) for line, cells in lines[1:]]


def _header(path: Path, cells: Sequence[str]) -> list[str]:
    header = [c.strip() for c in cells]
    missing = [c for c in REQUIRED if c not in header]
    if missing:
        raise InputError(
            f"{path}, line 1", ", ".join(header)[:80], f"the columns {', '.join(REQUIRED)}", why=f"lacks {missing[0]}"
        )
    if not {"step_time_s", "tokens_per_s_per_device", "memory_gib", "out_of_memory"} & set(header):
        raise InputError(
            f"{path}, line 1", ", ".join(header)[:80], "a measured column such as step_time_s", why="measures nothing"
        )
    if len(set(header)) != len(header):
        raise InputError(f"{path}, line 1", ", ".join(header)[:80], "each column once", why="repeats a column")
    return header


def _row(path: Path, line: int, header: Sequence[str], cells: Sequence[str]) -> MeasuredRun:
    where = f"{path}, line {line}"
    if len(cells) != len(header):
        raise InputError(
            where, f"{len(cells)} cells", f"{len(header)} cells, one a column", why="is cut off or has cells too many"
        )
    values = {column: cell.strip() for column, cell in zip(header, cells, strict=True)}
    for column in REQUIRED:
        if not values[column]:
            raise InputError(f"{where}, {column}", "", "a value", why="is empty")
    for column in (*_COUNTS, *_MEASURES):
        cell = values.get(column, "")
        if cell:
            _check_number(f"{where}, {column}", cell, whole=column in _COUNTS)
    flag = values.get("out_of_memory", "").lower()
    if flag not in ("", "true", "false"):
        raise InputError(f"{where}, out_of_memory", flag, "true, false or empty")
    return MeasuredRun(line, values)


def _check_number(where: str, cell: str, *, whole: bool) -> None:
    kind = "a whole number of at least 1" if whole else "a finite number above 0"
    try:
        value = float(cell)
    except ValueError:
        raise InputError(where, cell, kind, why="is not a number") from None
    if not math.isfinite(value) or value <= 0 or (whole and value != int(value)) or value > 1e18:
        raise InputError(where, cell, kind)


@dataclass(frozen=True)
class RunPlan:
    """What a row describes.

    Attributes
    ----------
    run, architecture, cluster, plan
        The row, and what it ran.
    assumed
        What the row does not say and was taken from a profile: field -> text.
    """

    run: MeasuredRun
    architecture: Architecture
    cluster: Cluster
    plan: TrainingPlan
    assumed: dict[str, str] = field(default_factory=dict)


def plan_run(run: MeasuredRun, search: Sequence[Path] = ()) -> RunPlan:
    """The plan of a row; blank settings come from the framework's profile and are listed.

    Raises
    ------
    LlmsimError
        With the reason why the row cannot be simulated.
    """
    assumed: dict[str, str] = {}
    architecture = _architecture(run["model"], tuple(search))
    if architecture.unsupported:
        raise UnsupportedError(f"no cost model for {architecture.unsupported}")
    cluster = _cluster(run, assumed)
    release = release_of(run["framework_release"], run["source"])
    software = get_software(run["framework"], release)
    if not run["framework_release"]:
        assumed["framework_release"] = release or "the newest in the profile"
    defaults = software.defaults

    def given(column: str, default: str) -> str:
        if not run[column]:
            assumed[column] = f"{default} ({software.name} profile)"
        return run[column] or default

    tp = run.count("tensor_parallel")
    dp_cp = run.count("data_parallel") * run.count("context_parallel")
    sharding = given("sharding", defaults.sharding) if dp_cp > 1 else (run["sharding"] or "ddp")
    sp = given("sequence_parallel", str(defaults.sequence_parallel)).lower() == "true" if tp > 1 else False
    moe = any(k.is_moe for k in architecture.kinds.values())
    imbalance = 1.0
    if moe and not run["routing"]:
        imbalance = defaults.imbalance
        assumed["routing"] = f"busiest expert rank at {imbalance} times the mean ({software.name} profile)"
    if moe and tp > 1 and not sp:
        sp = True
        assumed["sequence_parallel"] = "on, which experts under tensor parallelism need"
    if run["offload"] not in ("", "none"):
        assumed["offload"] = f"transfers hidden behind compute: {run['offload']}"
    chunks = run.count("virtual_pipeline")
    plan = TrainingPlan.model_validate(
        {
            "sequence_length": run.count("sequence_length"),
            "global_batch_size": run.count("global_batch_size"),
            "micro_batch_size": run.count("micro_batch_size"),
            "tensor_parallel": tp,
            "context_parallel": run.count("context_parallel"),
            "data_parallel": run.count("data_parallel"),
            "pipeline_parallel": run.count("pipeline_parallel"),
            "virtual_pipeline": chunks if run.count("pipeline_parallel") > 1 else 1,
            "expert_parallel": run.count("expert_parallel"),
            "expert_tensor_parallel": _expert_tensor(run, architecture, moe, assumed),
            "sequence_parallel": sp,
            "context_kind": defaults.context_kind,
            "sharding": sharding,
            "shard_group": _shard_group(run, cluster, assumed) if sharding == "hsdp" else None,
            "recompute": recompute_of(run["recompute"], defaults.recompute, assumed),
            "precision": run["precision"],
            "optimizer": run["optimizer"] or "adamw",
            "overlap": overlap_of(run["overlap"]),
            "imbalance": imbalance,
            "framework": software.name,
            "release": release,
        }
    )
    broken = [
        v for v in violations(plan, architecture, run.count("n_devices")) if not v.startswith("global_batch_size")
    ]
    if broken:
        raise UnsupportedError("; ".join(broken))
    if plan.global_batch_size % (plan.micro_batch_size * plan.data_parallel):
        assumed["micro_batches"] = f"{plan.micro_batches}, the last one short"
    return RunPlan(run, architecture, cluster, plan, assumed)


@lru_cache(maxsize=512)
def _architecture(model: str, search: tuple[Path, ...]) -> Architecture:
    """One object a model: runs of one model are prepared together."""
    return Architecture.from_config(model, search=search)


def _cluster(run: MeasuredRun, assumed: dict[str, str]) -> Cluster:
    device = get_device(run["hardware"])
    devices = run.count("n_devices")
    per_node = run.count("devices_per_node", device.devices_per_node)
    if not run["devices_per_node"]:
        assumed["devices_per_node"] = f"{per_node} (device profile)"
    per_node = min(per_node, devices)
    network, said = network_of(run["interconnect"], device, per_node)
    data: dict[str, Any] = {"device": device.name, "nodes": -(-devices // per_node), "devices_per_node": per_node}
    data["network"] = network
    domain = domain_of(run["interconnect"])
    if domain is not None:
        data["scale_up_domain"] = min(domain, devices)
    cluster = Cluster.model_validate(data)
    if not said and cluster.n_devices > cluster.domain:
        assumed["network"] = f"{network} (the usual fabric of {device.name})"
    return cluster


def _expert_tensor(run: MeasuredRun, architecture: Architecture, moe: bool, assumed: dict[str, str]) -> int:
    """Expert-tensor parallelism is not a column: 1, unless the experts then do not fit the ranks."""
    if not moe:
        return 1
    assumed["expert_tensor_parallel"] = "1"
    return 1


def _shard_group(run: MeasuredRun, cluster: Cluster, assumed: dict[str, str]) -> int:
    """Hybrid sharding keeps its shards inside a scale-up domain, or a pod of the fabric's fast part."""
    ranks = run.count("data_parallel") * run.count("context_parallel")
    group = math.gcd(ranks, max(1, cluster.domain // run.count("tensor_parallel")))
    assumed["shard_group"] = f"{group} ranks, one scale-up domain"
    return group


def reason(error: LlmsimError) -> str:
    """A skip reason on one line."""
    return " ".join(str(error).split())
