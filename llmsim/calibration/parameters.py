"""What a fit may move: families of constants, each with a prior, and which constant of a family a run depends on.

A family holds one constant for each distinct path (each generation, framework, release ...), so a run depends on
exactly one constant of each family. Constants are fitted as logarithms around their priors; fractions stay at or
below one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..hardware.devices import Device
from ..hardware.priors import SPREADS
from ..hardware.software import Software
from ..timing.constants import moe_layer_path
from .runs import RunPlan

COMPUTE_CLASSES = (
    "gemm_32bit", "gemm_16bit", "gemm_8bit", "gemm_4bit", "grouped", "attention", "scan", "memory", "permute",
    "convert",
)  # fmt: skip


@dataclass(frozen=True)
class Family:
    """Constants of one meaning.

    Attributes
    ----------
    name
        What they mean, and where composition uses them.
    path
        The constant that a run depends on.
    prior
        Its value before the fit.
    spread
        Standard deviation of the prior in logarithms.
    fraction
        Whether values stay at or below 1.
    unit
        Of the values.
    """

    name: str
    path: Callable[[RunPlan], str]
    prior: Callable[[RunPlan], float]
    spread: float
    fraction: bool
    unit: str = "1"


def _device(item: RunPlan) -> Device:
    return item.cluster.profile


def _software(item: RunPlan) -> Software:
    return item.plan.software


def _family(
    name: str,
    pattern: str,
    path: Callable[[RunPlan], str],
    prior: Callable[[RunPlan], float],
    unit: str = "1",
) -> Family:
    """A family with the spread that paths of that pattern have."""
    spread = SPREADS[pattern]
    return Family(name, path, prior, spread.log, spread.fraction, unit)


def _stack_fraction(name: str) -> Family:
    def prior(item: RunPlan) -> float:
        own = getattr(_software(item).rates, name)
        return float(own.get(_device(item).generation, own["default"]).value)

    def path(item: RunPlan) -> str:
        return f"software/{item.plan.framework}/rates/{name}/{_device(item).generation}"

    return _family(f"stack.{name}", f"software/*/rates/{name}/*", path, prior)


def _class_fraction(work: str) -> Family:
    return _family(
        f"in_situ.{work}",
        f"generations/*/in_situ/{work}",
        lambda item: f"generations/{_device(item).generation}/in_situ/{work}",
        lambda item: _device(item).kernel_rates().in_situ[work].value,  # type: ignore[index]
    )


def _profile_value(item: RunPlan, key: str) -> float:
    value = _software(item)
    for part in key.split("/"):
        value = getattr(value, part)
    return max(float(value.value), 1e-9)  # type: ignore[attr-defined]


def _own(key: str, unit: str) -> Family:
    return _family(
        key,
        f"software/*/{key}",
        lambda item: f"software/{item.plan.framework}/{key}",
        lambda item: _profile_value(item, key),
        unit,
    )


def _release(key: str) -> Family:
    return _family(
        f"release.{key}",
        f"software/*@*/{key}",
        lambda item: f"software/{item.plan.framework}@{item.plan.release}/{key}",
        lambda item: 1.0,
    )


FAMILIES: tuple[Family, ...] = (
    *(_class_fraction(work) for work in COMPUTE_CLASSES),
    _family(
        "device",
        "devices/*/in_situ",
        lambda item: f"devices/{_device(item).fitted_as}/in_situ",
        lambda item: _device(item).in_situ.value,
    ),
    _stack_fraction("in_situ"),
    _stack_fraction("attention"),
    _release("rate"),
    _release("moe_layer"),
    _own("host/launch_s", "s"),
    _family(
        "host/moe_layer_s",
        "software/*/host/moe_layer_s*",
        lambda item: moe_layer_path(_software(item), item.cluster, item.plan.dispatcher),
        lambda item: _profile_value(item, "host/moe_layer_s"),
        "s",
    ),
    _own("host/microbatch_s", "s"),
    _own("host/step_s", "s"),
    _own("overlap/gradient", "1"),
    _own("overlap/parameter", "1"),
    _own("overlap/tensor", "1"),
    _own("overlap/expert", "1"),
    _own("overlap/tensor_on", "1"),
    _own("overlap/expert_on", "1"),
    _family(
        "inner",
        "devices/*/scale_up/efficiency",
        lambda item: f"devices/{_device(item).fitted_as}/scale_up/efficiency",
        lambda item: _device(item).scale_up.efficiency.value,
    ),
    _family(
        "outer",
        "networks/*/efficiency",
        lambda item: f"networks/{item.cluster.fabric.fitted_as}/efficiency",
        lambda item: item.cluster.fabric.efficiency.value,
    ),
)


@dataclass(frozen=True)
class Layout:
    """The constants that a set of runs depends on.

    Attributes
    ----------
    families
        Those in use.
    paths
        All constants.
    prior
        Logarithms of their prior values, shape (constants,).
    spread, upper
        Of the priors; upper bounds of the logarithms.
    index
        Number of the constant of each family that each run depends on, shape (families, runs).
    """

    families: tuple[Family, ...]
    paths: tuple[str, ...]
    prior: np.ndarray
    spread: np.ndarray
    upper: np.ndarray
    index: np.ndarray

    @property
    def units(self) -> dict[str, str]:
        """Path -> unit."""
        return {
            self.paths[n]: family.unit
            for family, own in zip(self.families, self.index, strict=True)
            for n in map(int, np.unique(own))
        }

    def values(self, logarithms: np.ndarray) -> dict[str, float]:
        """Path -> value."""
        return {path: float(np.exp(v)) for path, v in zip(self.paths, logarithms, strict=True)}


def layout(items: Sequence[RunPlan], families: Sequence[Family] = FAMILIES) -> Layout:
    """The constants that these runs depend on."""
    paths: dict[str, int] = {}
    prior: list[float] = []  # a release that lacks something (an overlap) has nothing to say about it: the largest
    spread: list[float] = []
    upper: list[float] = []
    index = np.zeros((len(families), len(items)), dtype=np.int64)
    for f, family in enumerate(families):
        for r, item in enumerate(items):
            path = family.path(item)
            value = float(np.log(family.prior(item)))
            if path not in paths:
                paths[path] = len(paths)
                prior.append(value)
                spread.append(family.spread)
                upper.append(0.0 if family.fraction else np.inf)
            index[f, r] = paths[path]
            prior[paths[path]] = max(prior[paths[path]], value)
    return Layout(tuple(families), tuple(paths), np.array(prior), np.array(spread), np.array(upper), index)
