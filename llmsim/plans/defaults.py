"""What a plan does not say and its cluster, model and framework decide; each default is listed for the answer."""

from __future__ import annotations

from ..architecture import Architecture
from ..hardware.cluster import Cluster
from ..hardware.devices import Device
from ..hardware.software import Software
from .precision import check_recipe, default_precision
from .training import TrainingPlan

RESOLVED = ("precision", "framework", "expert_tensor_parallel")
"""Fields of a plan whose default is not a value of their own."""

_FRAMEWORKS = {"NVIDIA": "megatron-core", "AMD": "megatron-core", "Google": "maxtext"}


def default_framework(device: Device) -> str:
    """The software profile that is taken for a device unless somebody names one."""
    return _FRAMEWORKS.get(device.vendor, "torchtitan")


def expert_tensor_degree(software: Software, tensor: int) -> int:
    """Ranks that share one expert's matrices where nobody says how many.

    Megatron's ``expert_tensor_parallel_size`` is the tensor-parallel degree unless it is set; other stacks keep experts
    whole.
    """
    return tensor if software.training.defaults.expert_tensor_parallel == "tensor_parallel" else 1


def framework_assumed(name: str, device: Device) -> str:
    """How an answer says that the usual framework was taken."""
    return f"{name} (the usual choice on {device.vendor} devices)"


def precision_assumed(name: str, device: Device) -> str:
    """How an answer says that the device's usual recipe was taken."""
    return f"{name} ({device.name} has it; fp8 recipes are chosen with precision)"


def resolve_plan(
    plan: TrainingPlan, architecture: Architecture, cluster: Cluster
) -> tuple[TrainingPlan, dict[str, str]]:
    """A plan with precision, framework and expert tensor parallelism filled in where it does not set them, and what was
    taken: field -> text.

    Raises
    ------
    InputError
        For a recipe whose formats the devices do not multiply.
    """
    device = cluster.profile
    changes: dict[str, object] = {}
    assumed: dict[str, str] = {}
    if "precision" not in plan.model_fields_set:
        changes["precision"] = default_precision(device)
        assumed["precision"] = precision_assumed(default_precision(device), device)
    if "framework" not in plan.model_fields_set:
        changes["framework"] = default_framework(device)
        assumed["framework"] = framework_assumed(default_framework(device), device)
    found = plan.model_copy(update=changes) if changes else plan
    check_recipe(found.precision, device)
    if "expert_tensor_parallel" not in plan.model_fields_set:
        degree = expert_tensor_degree(found.software, found.tensor_parallel) if architecture.has_experts else 1
        found = found.model_copy(update={"expert_tensor_parallel": degree})
        if architecture.has_experts and found.tensor_parallel > 1:
            assumed["expert_tensor_parallel"] = f"{degree} ({found.software.name} profile)"
    return found, assumed
