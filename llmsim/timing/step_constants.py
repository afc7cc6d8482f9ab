"""The rates that a step is composed with, as plain numbers: from profiles, with fitted values laid over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, Protocol

from ..core.numeric import Number, where
from ..core.provenance import Quantity
from ..hardware.cluster import Cluster
from ..hardware.constants import CONSTANTS, WORK_CLASSES, Constant, constants_of
from ..hardware.fitted import Fit, shipped_fit
from ..hardware.kernels import FORMAT_CLASS, KernelConstants, kernel_constants
from ..hardware.network import Tier
from ..hardware.profile_constants import stated
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
    stack
        The other constants of the software by their keys in its profile: ``contention``, what the host costs
        (``host/launch_s``), memory beyond tensors (``memory/context_bytes``).
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
    stack: Mapping[str, Number]
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
    laid = shipped_fit().overlay if overlay is None else overlay
    device, software, recipe = cluster.profile, structure.software, structure.recipe
    place = Place(cluster, software, structure.dispatcher)
    return StepConstants(
        high=kernel_constants(device, recipe.product),
        low=kernel_constants(device, recipe.matmul),
        attention_peak=device.peak_of(recipe.product),
        high_class=product_class(recipe.product),
        low_class=product_class(recipe.matmul),
        tiers=cluster.tiers(),
        host_bandwidth=device.host_bandwidth.value,
        host_memory_bandwidth=device.host_memory_bandwidth.value,
        **movable_rates(lambda name: place.value(CONSTANTS[name], laid), overlap_choice(place, structure.overlap)),
    )


@dataclass(frozen=True)
class OverlapChoice:
    """What a stack can hide and a plan asks it to; numbers, or arrays with one entry a run.

    Attributes
    ----------
    offered
        Kind of transfers -> what the profile says is hidden; what it does not hide at all, no fit makes it hide.
    none
        Whether the plan wants nothing hidden.
    asked
        tensor, expert -> whether the plan asks for that overlap.
    """

    offered: Mapping[str, Number]
    none: Any
    asked: Mapping[str, Any]


def overlap_choice(place: Place, overlap: str) -> OverlapChoice:
    """What a plan's ``overlap`` means in a stack."""
    offered = {c.key.removeprefix("overlap/"): place.default(c) for c in _overlaps()}
    return OverlapChoice(offered, overlap == "none", {name: overlap == name for name in ("tensor", "expert")})


def movable_rates(value: Callable[[str], Number], choice: OverlapChoice) -> dict[str, Any]:
    """The fields of :class:`StepConstants` that fits may move.

    Parameters
    ----------
    value
        Of a constant, by its name in the registry.
    """
    own = value("devices/*/in_situ") * (value("software/*/rates/in_situ/*") * value("software/*@*/rate"))
    in_situ = {work: value(f"generations/*/in_situ/{work}") * own for work in WORK_CLASSES}
    in_situ["attention"] = in_situ["attention"] * value("software/*/rates/attention/*")
    stack = {c.key: value(c.name) for c in constants_of("software") if not c.key.startswith(("rates/", "overlap/"))}
    stack["host/moe_layer_s"] = stack["host/moe_layer_s"] * value("software/*@*/moe_layer")
    return {
        "in_situ": in_situ,
        "overlap": _hidden(value, choice),
        "stack": stack,
        "inner_efficiency": value("devices/*/scale_up/efficiency"),
        "outer_efficiency": value("networks/*/efficiency"),
    }


def _overlaps() -> list[Constant]:
    return [c for c in constants_of("software") if c.key.startswith("overlap/")]


def _hidden(value: Callable[[str], Number], choice: OverlapChoice) -> dict[str, Number]:
    """Hidden fractions under a plan's choice."""
    names = {c.key.removeprefix("overlap/"): c.name for c in _overlaps()}
    found = {key: where(choice.offered[key] > 0, value(name), 0.0) for key, name in names.items()}
    for key, asked in choice.asked.items():
        found[key] = where(asked, found[f"{key}_on"], found[key])
    return {key: where(choice.none, 0.0, own) for key, own in found.items()}


def product_class(format: str) -> str:
    """Class of matrix products in a format."""
    return f"gemm_{FORMAT_CLASS[format]}"


@dataclass(frozen=True)
class Place:
    """Where the constants of a step are looked up: its devices, its fabric and its software.

    Attributes
    ----------
    dispatcher
        Of a mixture of experts: what a plan says, ``profile`` for the usual one.
    """

    cluster: Cluster
    software: Software
    dispatcher: str = "profile"

    @cached_property
    def names(self) -> dict[str, str]:
        """What the names in the path of a constant stand for.

        The host's work on a layer of experts is shared by the stacks of one lineage and differs by dispatcher.
        """
        own = usual_dispatcher(self.cluster) if self.dispatcher == "profile" else self.dispatcher
        return {
            "generation": self.cluster.profile.generation,
            "device": self.cluster.profile.fitted_as,
            "fabric": self.cluster.fabric.fitted_as,
            "stack": self.software.name,
            "release": self.software.release,
            "lineage": self.software.lineage,
            "dispatcher": "/hybridep" if own == "hybridep" else "",
        }

    def path(self, constant: Constant) -> str:
        """Where fits have a constant."""
        return constant.path.format_map(self.names)

    def quantity(self, constant: Constant) -> Quantity:
        """What the profiles say of a constant."""
        device = self.cluster.profile
        if constant.kind == "generations":
            found = device.kernel_rates().constant(constant)
        elif constant.kind == "software":
            found = self.software.constant(constant, device.generation)
        else:
            found = stated(device if constant.kind == "devices" else self.cluster.fabric, constant.key)
        if found is not None:
            return found
        if constant.default is None:
            raise LookupError(f"no profile states {constant.name}")
        return Quantity(value=constant.default, unit=constant.unit, provenance="assumed", source=constant.source)

    def default(self, constant: Constant) -> float:
        """The value that the profiles have."""
        return self.quantity(constant).value

    def value(self, constant: Constant, overlay: Overlay) -> Number:
        """The value of a constant under an overlay."""
        return overlay.get(self.path(constant), self.default(constant))


def usual_dispatcher(cluster: Cluster) -> str:
    """The dispatcher that a plan has which names none."""
    return "hybridep" if cluster.spans_nodes else "deepep"


def assumed_dispatcher(dispatcher: str, software: Software, cluster: Cluster) -> dict[str, str]:
    """The dispatcher of a mixture of experts whose plan names none, where its stack has a choice."""
    if dispatcher != "profile" or software.stack.dispatch != "once_per_domain":
        return {}
    where = "a rack is one scale-up domain" if cluster.spans_nodes else "scale-up domains are nodes"
    return {"dispatcher": f"{usual_dispatcher(cluster)} ({where})"}
