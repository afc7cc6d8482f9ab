"""The rates that a step is composed with, as plain numbers: from profiles, with fitted values laid over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol

from ..core.numeric import Number
from ..core.provenance import Quantity
from ..hardware.cluster import Cluster
from ..hardware.fitted import Fit, shipped_fit
from ..hardware.kernels import FORMAT_CLASS, KernelConstants, kernel_constants
from ..hardware.network import Tier
from ..hardware.shapes import ShapeTable, shape_key
from ..hardware.software import Software
from ..plans.precision import get_precision
from .intervals import MODEL_CLASSES
from .structure import Structure


class Overlay(Protocol):
    """What lies over the profiles: a mapping of paths (``generations/hopper/in_situ/attention``) to values, or anything
    that answers like one."""

    def get(self, path: str, default: Number, /) -> Number:
        """The value of a constant instead of the profile's."""


@dataclass(frozen=True, eq=False)
class StepConstants:
    """Every rate of one (cluster, software, precision), compared by identity.

    Attributes
    ----------
    high, low
        Kernel constants of the products that the recipe leaves alone, and of those in its matrix format.
    attention_peak
        Peak of the former, FLOP/s.
    in_situ
        Class of work -> in-step rate over the isolated kernel's, of device and software together.
    high_class, low_class
        Classes of the products (``gemm_16bit``, ``gemm_8bit`` ...).
    tiers, inner_efficiency, outer_efficiency
        The network, and the fractions of its bandwidth that large collectives reach in the scale-up domain and outside.
    host_bandwidth, host_memory_bandwidth
        To the host's memory, one way, and of that memory, bytes/s for one device.
    overlap
        gradient, parameter, tensor, context, expert, pipeline, offload -> fraction of a transfer that may be hidden.
    contention
        Slow-down while compute and communication run together.
    launch_s, moe_layer_s, graphed, microbatch_s, step_s
        Host costs, see :class:`~llmsim.hardware.software.HostCosts`.
    reserved_factor, context_bytes, workspace_bytes
        Memory beyond tensors, see :class:`~llmsim.hardware.software.MemoryCosts`.
    shapes
        ``dense``, ``moe`` -> what measured runs of such models say of layers by their shape.
    """

    high: KernelConstants
    low: KernelConstants
    attention_peak: Number
    in_situ: Mapping[str, Number]
    high_class: str
    low_class: str
    tiers: tuple[Tier, ...]
    host_bandwidth: Number
    host_memory_bandwidth: Number
    inner_efficiency: Number
    outer_efficiency: Number
    overlap: Mapping[str, Number]
    contention: Number
    launch_s: Number
    moe_layer_s: Number
    graphed: Number
    microbatch_s: Number
    step_s: Number
    reserved_factor: Number
    context_bytes: Number
    workspace_bytes: Number
    shapes: Mapping[str, ShapeTable] = field(default_factory=dict)


def step_constants(cluster: Cluster, structure: Structure, fit: Fit | None = None) -> StepConstants:
    """The constants of a cluster and a structure.

    Parameters
    ----------
    fit
        Fitted values; None takes those that ship with the package.
    """
    if fit is not None:
        return _with_shapes(overlaid_constants(cluster, structure, fit.overlay), cluster, structure, fit)
    stack = structure.framework, structure.release, structure.precision
    key = Structure(*stack, overlap=structure.overlap, dispatcher=structure.dispatcher)
    return _shipped(cluster, key)


@lru_cache(maxsize=64)
def _shipped(cluster: Cluster, structure: Structure) -> StepConstants:
    return step_constants(cluster, structure, shipped_fit())


def _with_shapes(constants: StepConstants, cluster: Cluster, structure: Structure, fit: Fit) -> StepConstants:
    lineage, generation = structure.software.lineage, cluster.profile.generation
    keys = {kind: shape_key(lineage, generation, format_class(structure.precision), kind) for kind in MODEL_CLASSES}
    return replace(constants, shapes={k: fit.shape_tables[key] for k, key in keys.items() if key in fit.shape_tables})


def format_class(precision: str) -> str:
    """Class of the format in which a recipe multiplies: ``16bit``, ``8bit`` ..."""
    return FORMAT_CLASS[get_precision(precision).matmul]


def overlaid_constants(cluster: Cluster, structure: Structure, overlay: Overlay | None) -> StepConstants:
    """The constants of a cluster and a structure with some values, or arrays of values, laid over those of the
    profiles, and no tables of shapes.

    Parameters
    ----------
    overlay
        None takes the values that ship with the package.
    """
    if overlay is None:
        overlay = shipped_fit().overlay
    device, software, recipe = cluster.profile, structure.software, structure.recipe
    fabric = cluster.fabric
    rates = device.kernel_rates()
    stack = Stack(software, device.generation, overlay)
    own = overlay.get(f"devices/{device.fitted_as}/in_situ", device.in_situ.value) * stack.rate
    family = f"generations/{device.generation}/in_situ"
    in_situ: dict[str, Number] = {
        work: overlay.get(f"{family}/{work}", quantity.value) * own for work, quantity in rates.in_situ.items()
    }
    in_situ["attention"] = in_situ["attention"] * stack.attention

    def host(key: str, default: float) -> Number:
        return stack.value(key, default)

    return StepConstants(
        high=kernel_constants(device, recipe.product),
        low=kernel_constants(device, recipe.matmul),
        attention_peak=device.peak_of(recipe.product),
        in_situ=in_situ,
        high_class=product_class(recipe.product),
        low_class=product_class(recipe.matmul),
        tiers=cluster.tiers(),
        host_bandwidth=device.host_bandwidth.value,
        host_memory_bandwidth=device.host_memory_bandwidth.value,
        inner_efficiency=overlay.get(
            f"devices/{device.fitted_as}/scale_up/efficiency", device.scale_up.efficiency.value
        ),
        outer_efficiency=overlay.get(f"networks/{fabric.fitted_as}/efficiency", fabric.efficiency.value),
        overlap=_overlap(structure.overlap, stack),
        contention=host("contention", software.contention.value),
        launch_s=host("host/launch_s", software.host.launch_s.value),
        moe_layer_s=stack.moe_layer_s(cluster, structure.dispatcher),
        graphed=host("host/graphed", software.host.graphed.value),
        microbatch_s=host("host/microbatch_s", software.host.microbatch_s.value),
        step_s=host("host/step_s", software.host.step_s.value),
        reserved_factor=host("memory/reserved_factor", software.memory.reserved_factor.value),
        context_bytes=host("memory/context_bytes", software.memory.context_bytes.value),
        workspace_bytes=software.memory.workspace_bytes.value,
    )


def _overlap(choice: str, stack: Stack) -> dict[str, Number]:
    """Hidden fractions under a plan's choice; what a stack does not hide at all, no fit makes it hide."""
    found: dict[str, Number] = {}
    for key in type(stack.software.overlap).model_fields:
        own = getattr(stack.software.overlap, key).value
        found[key] = stack.value(f"overlap/{key}", own) if own > 0 else 0.0
    if choice == "none":
        return dict.fromkeys(found, 0.0)
    if choice in ("tensor", "expert"):
        found[choice] = found[f"{choice}_on"]
    return found


def product_class(format: str) -> str:
    """Class of matrix products in a format."""
    return f"gemm_{FORMAT_CLASS[format]}"


class Stack:
    """The fitted constants of one software stack on one generation, with its profile behind them.

    A release may carry a factor of its own on top of what its framework's runs share.
    """

    def __init__(self, software: Software, generation: str, overlay: Overlay):
        self.software, self.generation, self.overlay = software, generation, overlay

    def value(self, key: str, default: float) -> Number:
        """A constant of the framework."""
        return self.overlay.get(f"software/{self.software.name}/{key}", default)

    def release_factor(self, key: str) -> Number:
        """A factor of the release, 1 where none was fitted."""
        return self.overlay.get(f"software/{self.software.name}@{self.software.release}/{key}", 1.0)

    def _fraction(self, name: str) -> Number:
        own: dict[str, Quantity] = getattr(self.software.rates, name)
        default = own.get(self.generation, own["default"]).value
        return self.value(f"rates/{name}/{self.generation}", default)

    @property
    def rate(self) -> Number:
        """Of all kernels."""
        return self._fraction("in_situ") * self.release_factor("rate")

    @property
    def attention(self) -> Number:
        """Of attention besides."""
        return self._fraction("attention")

    def moe_layer_s(self, cluster: Cluster, dispatcher: str) -> Number:
        """Host seconds of a mixture-of-experts layer."""
        path = moe_layer_path(self.software, cluster, dispatcher)
        return self.overlay.get(path, self.software.host.moe_layer_s.value) * self.release_factor("moe_layer")


def moe_layer_path(software: Software, cluster: Cluster, dispatcher: str = "profile") -> str:
    """The path of the host's work on a mixture-of-experts layer: shared by the stacks of one lineage, by dispatcher;
    racks are taken to run HybridEP, which Megatron-Core has for them."""
    own = usual_dispatcher(cluster) if dispatcher == "profile" else dispatcher
    return f"software/{software.lineage}/host/moe_layer_s" + ("/hybridep" if own == "hybridep" else "")


def usual_dispatcher(cluster: Cluster) -> str:
    """The dispatcher that a plan has which names none."""
    return "hybridep" if cluster.spans_nodes else "deepep"


def assumed_dispatcher(dispatcher: str, software: Software, cluster: Cluster) -> dict[str, str]:
    """The dispatcher of a mixture of experts whose plan names none, where its stack has a choice."""
    if dispatcher != "profile" or software.defaults.dispatch != "once_per_domain":
        return {}
    where = "a rack is one scale-up domain" if cluster.spans_nodes else "scale-up domains are nodes"
    return {"dispatcher": f"{usual_dispatcher(cluster)} ({where})"}
