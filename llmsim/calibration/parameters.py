"""What a fit may move: the constants of the registry that step times move, and which of them a run depends on.

A constant has one value for each distinct path (each generation, framework, release ...), so a run depends on exactly
one value of each. Values are fitted as logarithms around their priors; fractions stay at or below one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..hardware.constants import Constant, moved_by_steps
from ..timing.step_constants import Place
from .runs import RunPlan


def place_of(item: RunPlan) -> Place:
    """Where the constants of a run are looked up."""
    return Place(item.cluster, item.plan.software, item.plan.dispatcher)


def prior_of(constant: Constant, place: Place) -> float:
    """The centre of a constant's prior: what the profiles say."""
    return max(place.default(constant), 1e-9)


@dataclass(frozen=True)
class Layout:
    """The constants that a set of runs depends on.

    Attributes
    ----------
    constants
        Those in use.
    paths
        All of their values.
    prior
        Logarithms of their prior values, shape (values,).
    spread, upper
        Of the priors; upper bounds of the logarithms.
    index
        Number of the value of each constant that each run depends on, shape (constants, runs).
    """

    constants: tuple[Constant, ...]
    paths: tuple[str, ...]
    prior: np.ndarray
    spread: np.ndarray
    upper: np.ndarray
    index: np.ndarray

    @property
    def units(self) -> dict[str, str]:
        """Path -> unit."""
        return {
            self.paths[n]: constant.unit
            for constant, own in zip(self.constants, self.index, strict=True)
            for n in map(int, np.unique(own))
        }

    def values(self, logarithms: np.ndarray) -> dict[str, float]:
        """Path -> value."""
        return {path: float(np.exp(v)) for path, v in zip(self.paths, logarithms, strict=True)}


def layout(items: Sequence[RunPlan], constants: Sequence[Constant] | None = None) -> Layout:
    """The constants that these runs depend on.

    Parameters
    ----------
    constants
        By default all that step times move.
    """
    moving = moved_by_steps() if constants is None else tuple(constants)
    places = [place_of(item) for item in items]
    paths: dict[str, int] = {}
    prior: list[float] = []  # a release that lacks something (an overlap) has nothing to say about it: the largest
    spread: list[float] = []
    upper: list[float] = []
    index = np.zeros((len(moving), len(items)), dtype=np.int64)
    for c, constant in enumerate(moving):
        for r, place in enumerate(places):
            path = place.path(constant)
            value = float(np.log(prior_of(constant, place)))
            if path not in paths:
                paths[path] = len(paths)
                prior.append(value)
                spread.append(float(constant.width or 0.0))
                upper.append(0.0 if constant.fraction else np.inf)
            index[c, r] = paths[path]
            prior[paths[path]] = max(prior[paths[path]], value)
    return Layout(moving, tuple(paths), np.array(prior), np.array(spread), np.array(upper), index)
