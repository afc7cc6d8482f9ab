"""The plan that a row of a run table describes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

from ..architecture import Architecture
from ..core.data_parallel import ShardingName
from ..core.errors import UnsupportedError
from ..hardware.cluster import Cluster
from ..hardware.named import get_device
from ..hardware.profiles import build, names_file
from ..hardware.software import Software, get_software
from ..plans.optimizer import ALIASES as OPTIMIZER_ALIASES
from ..plans.optimizer import OPTIMIZERS
from ..plans.precision import PRECISIONS
from ..plans.rules import violations
from ..plans.training import TrainingPlan
from .normalise_columns import (
    date_of,
    dispatcher_of,
    document_length_of,
    domain_of,
    fine_tuning_of,
    framework_of,
    network_of,
    offload_of,
    overlap_of,
    packed_of,
    recompute_of,
    schedule_of,
    setting_of,
)
from .table import MeasuredRun


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

    @property
    def is_moe(self) -> bool:
        """Whether its model is a mixture of experts."""
        return any(k.is_moe for k in self.architecture.kinds.values())

    @property
    def pair(self) -> tuple[str, str]:
        """(framework, model): what a fit split and its folds keep together."""
        return self.plan.framework, self.run["model"]

    @property
    def states_recompute(self) -> bool:
        """Whether the row says what it recomputes."""
        return bool(self.run["recompute_setting"] or self.run["recompute"])

    @property
    def states_offload(self) -> bool:
        """Whether the row says that it offloads activations."""
        share = self.run["offload_activations"]
        return float(share) > 0 if share else self.run["offload"] not in ("", "none")

    @property
    def can_cut_experts(self) -> bool:
        """Whether its experts can be cut as its dense layers are: expert parallelism lies inside data and context."""
        plan = self.plan
        inside = plan.data_parallel * plan.context_parallel % plan.expert_parallel == 0
        return self.is_moe and plan.tensor_parallel > 1 and inside

    def with_cut_experts(self) -> RunPlan:
        """The same with its experts cut over the tensor-parallel ranks."""
        degree = self.plan.tensor_parallel
        assumed = {**self.assumed, "expert_tensor_parallel": f"{degree} (whole experts would not fit)"}
        return replace(self, plan=self.plan.replace(expert_tensor_parallel=degree), assumed=assumed)

    def with_recompute(self, setting: str, reason: str) -> RunPlan:
        """The same with another recompute setting, taken for a reason."""
        assumed = {**self.assumed, "recompute": reason}
        return replace(self, plan=self.plan.replace(recompute=setting), assumed=assumed)


def plan_run(run: MeasuredRun, search: Sequence[Path] = ()) -> RunPlan:
    """The plan of a row; blank settings come from the framework's profile and are listed.

    Parameters
    ----------
    search
        Directories with a folder ``architectures``, which come before bundled models.

    Raises
    ------
    LlmsimError
        With the reason why the row cannot be simulated; an InputError where its measured time is impossible.
    """
    architecture = architecture_of(run["model"], tuple(search))
    if architecture.unsupported:
        raise UnsupportedError(f"no cost model for {architecture.unsupported}")
    assumed: dict[str, str] = dict(architecture.left_out)
    cluster = _cluster(run, assumed, search)
    release = run["framework_release"] or run["software_date"] or date_of(run["source"])
    software = get_software(framework_of(run["framework"], cluster.profile, run["sharding"], assumed), release)
    if not run["framework_release"]:
        assumed["framework_release"] = release or "the newest in the profile"
    elif "release" in software.assumed():
        assumed["framework_release"] = software.assumed()["release"]
    data = {
        **_degrees(run),
        **_settings(run, software, cluster, len(architecture.layers), assumed),
        **_expert_settings(run, architecture, software, assumed),
    }
    plan = build(TrainingPlan, data, "plan")
    _check(plan, architecture, run)
    if plan.global_batch_size % (plan.micro_batch_size * plan.data_parallel):
        assumed["micro_batches"] = f"{plan.micro_batches}, the last one short"
    return RunPlan(run, architecture, cluster, plan, assumed)


def _check(plan: TrainingPlan, architecture: Architecture, run: MeasuredRun) -> None:
    """Sources round their batches: a last micro-batch that is short is no reason to refuse a run."""
    broken = violations(plan, architecture, run.count("n_devices"))
    broken = [text for text in broken if not text.startswith("global_batch_size")]
    if broken:
        raise UnsupportedError("; ".join(broken))


@lru_cache(maxsize=512)
def architecture_of(model: str, search: tuple[Path, ...]) -> Architecture:
    """The architecture of a model; one object a model, since runs of one model are prepared together."""
    return Architecture.from_config(model, search=search)


def _cluster(run: MeasuredRun, assumed: dict[str, str], search: Sequence[Path]) -> Cluster:
    device = get_device(_located(run["hardware"], search))
    devices = run.count("n_devices")
    per_node = run.count("devices_per_node", device.devices_per_node)
    if not run["devices_per_node"]:
        assumed["devices_per_node"] = f"{per_node} (device profile)"
    per_node = min(per_node, devices)
    said = run["fabric"] or run["interconnect"]
    network, note = (_located(said, search), "") if names_file(said) else network_of(said, device, per_node)
    named = device.file or device.name
    data: dict[str, Any] = {"device": named, "nodes": -(-devices // per_node), "devices_per_node": per_node}
    data["network"] = network
    domain = run.count("scale_up_domain", 0) or domain_of(run["interconnect"])
    if domain is not None:
        data["scale_up_domain"] = min(domain, devices)
    cluster = Cluster.measured(data)
    if note and cluster.n_devices > cluster.domain:
        assumed["network"] = f"{network} ({note})"
    if not names_file(run["hardware"]) and not names_file(said):
        return cluster
    assumed |= {key: text for key, text in cluster.assumed().items() if key not in ("network", "scale-up domain")}
    return cluster


def _located(name: str, search: Sequence[Path]) -> str:
    """A name, or the path of a file that lies beside the table."""
    if not names_file(name):
        return name
    return str(next((folder / name for folder in search if (folder / name).is_file()), Path(name)))


def _degrees(run: MeasuredRun) -> dict[str, Any]:
    """Batch and degrees, which a row always states."""
    names = (
        "sequence_length", "global_batch_size", "micro_batch_size", "tensor_parallel", "context_parallel",
        "data_parallel", "pipeline_parallel", "expert_parallel",
    )  # fmt: skip
    degrees = {name: run.count(name) for name in names}
    chunks = run.count("virtual_pipeline")
    return {**degrees, "virtual_pipeline": chunks if degrees["pipeline_parallel"] > 1 else 1}


def _taken(run: MeasuredRun, column: str, default: object, software: Software, assumed: dict[str, str]) -> str:
    """A cell, or the profile's default where it is empty, which is listed."""
    if not run[column]:
        assumed[column] = f"{str(default).lower()} ({software.name} profile)"
    return run[column] or str(default).lower()


def _settings(
    run: MeasuredRun, software: Software, cluster: Cluster, layers: int, assumed: dict[str, str]
) -> dict[str, Any]:
    """Settings that hold for any model."""
    defaults = software.training.defaults
    sharding = run["sharding"] or "ddp"
    if run.count("data_parallel") * run.count("context_parallel") > 1:
        sharding = _taken(run, "sharding", defaults.sharding, software, assumed)
    sharding = setting_of("sharding", sharding, get_args(ShardingName), assumed)
    return {
        "offload_activations": _offload(run, layers, assumed),
        "sharding": sharding,
        "shard_group": _shard_group(run, cluster, assumed) if sharding == "hsdp" else None,
        "context_kind": defaults.context_kind,
        "recompute": recompute_of(run["recompute_setting"] or run["recompute"], defaults.recompute, assumed),
        "precision": setting_of("precision", run["precision"], PRECISIONS, assumed),
        "optimizer": setting_of("optimizer", run["optimizer"] or "adamw", (*OPTIMIZERS, *OPTIMIZER_ALIASES), assumed),
        "schedule": _schedule(run, assumed),
        "overlap": run["overlap_setting"] or overlap_of(run["overlap"]),
        "document_length": document_length_of(_packed(run), run.count("sequence_length"), assumed),
        "framework": software.name,
        "release": software.release,
    }


def _offload(run: MeasuredRun, layers: int, assumed: dict[str, str]) -> float:
    """Share of the layers whose activations go to the host."""
    if not run["offload_activations"]:
        return offload_of(run["offload"], run["notes"], layers, assumed)
    share = float(run["offload_activations"])
    if run["offload"]:
        assumed["offload"] = f"activations of {100 * share:.4g} % of the layers ({run['offload']!r})"
    return share


def _schedule(run: MeasuredRun, assumed: dict[str, str]) -> str | None:
    """The pipeline schedule that a row states or that its source names anywhere, if there is a pipeline."""
    if run.count("pipeline_parallel") == 1:
        return None
    text = " ".join(run[column] for column in ("framework", "framework_release", "overlap", "group", "notes"))
    return run["schedule"] or schedule_of(text, run.count("virtual_pipeline"), assumed)


def _packed(run: MeasuredRun) -> bool:
    stated = run.flag("packed")
    return packed_of(run["notes"]) if stated is None else stated


def is_fine_tuning(run: MeasuredRun) -> bool:
    """Whether a row fine-tunes a model that was trained before."""
    stated = run.flag("fine_tuning")
    return fine_tuning_of(run["notes"]) if stated is None else stated


def _expert_settings(
    run: MeasuredRun, architecture: Architecture, software: Software, assumed: dict[str, str]
) -> dict[str, Any]:
    """Settings that depend on whether the model has experts."""
    tensor = run.count("tensor_parallel") > 1
    if not any(k.is_moe for k in architecture.kinds.values()):
        usual = software.training.defaults.sequence_parallel
        said = _taken(run, "sequence_parallel", usual, software, assumed) if tensor else "false"
        return {"imbalance": 1.0, "sequence_parallel": said.lower() == "true"}
    imbalance = 1.0
    if not run["routing"]:
        imbalance = software.training.defaults.imbalance
        assumed["routing"] = f"busiest expert rank at {imbalance} times the mean ({software.name} profile)"
    assumed["expert_tensor_parallel"] = "1"
    if tensor and run["sequence_parallel"].lower() != "true":
        assumed["sequence_parallel"] = "on, which experts under tensor parallelism need"
    flexible = software.stack.dispatch == "once_per_domain"
    dispatcher = (run["dispatcher"] or dispatcher_of(run["notes"])) if flexible else "profile"
    return {"imbalance": imbalance, "sequence_parallel": tensor, "dispatcher": dispatcher}


def _shard_group(run: MeasuredRun, cluster: Cluster, assumed: dict[str, str]) -> int:
    """Hybrid sharding keeps its shards inside a scale-up domain, or a pod of the fabric's fast part."""
    ranks = run.count("data_parallel") * run.count("context_parallel")
    group = math.gcd(ranks, max(1, cluster.domain // run.count("tensor_parallel")))
    assumed["shard_group"] = f"{group} ranks, one scale-up domain"
    return group


def reason(error: Exception) -> str:
    """A skip reason on one line."""
    return " ".join(str(error).split())
