"""What a step may be off because nobody has measured some of its constants: draws of these, through the formulas.

The interval of a step is read from runs whose constants were mostly learned. A plan may rest on one that no run has
moved (an overlap that only the profile states); that doubt is its own. Constants that the fit has not learned are drawn
from their priors, and the closed form of the step is evaluated once with arrays in their place. The draws of a constant
follow from its path alone, so that what two plans share cancels in their ratio.

By how much a release differs from its stack is not drawn: the residuals of runs of many releases hold it already.

References
----------
Antithetic draws: Hammersley and Morton 1956, Proc. Camb. Phil. Soc. 52, 449.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from ..core.deferred import Deferred
from ..core.numeric import Number
from ..hardware.cluster import Cluster
from ..hardware.constants import Constant, constant_at
from ..hardware.fitted import Fit
from ..timing.intervals import NORMAL_80
from ..timing.step_constants import overlaid_constants
from ..timing.structure import Structure
from .compose import StepLoad, compose_step

DRAWS = 128
"""Of each constant. One more hardly costs: a formula of arrays takes as long as its number of operators."""


@dataclass(frozen=True)
class Draws:
    """An overlay with the learned values of a fit, and draws of what it has not learned.

    Attributes
    ----------
    fit
        The fit.
    """

    fit: Fit

    def get(self, path: str, default: Number, /) -> Number:
        """The value of a constant, or its draws around the value: an array of shape (DRAWS,)."""
        known = self.fit.values.get(path)
        value = default if known is None else known.value
        constant = constant_at(path)
        if constant is None or constant.width is None or constant.moved_by != "step" or value <= 0:
            return value
        learned = known is not None and constant.learned(known.error)
        if learned or is_release_factor(path):
            return value
        return drawn(path, float(value), constant)


def is_release_factor(path: str) -> bool:
    """Whether a constant is by how much a release differs from its stack."""
    return "@" in path.split("/")[1]


@lru_cache(maxsize=1024)
def drawn(path: str, value: float, constant: Constant) -> np.ndarray:
    """Draws of a constant around a value, shape (DRAWS,), in its unit.

    The logarithm is normal; that of a fraction is cut off where the fraction would pass 1.
    """
    normal, width = deviates(path), float(constant.width or 0.0)
    if constant.fraction:
        one = NormalDist()
        below = one.cdf(max(0.0, -math.log(value)) / width)
        normal = np.array([one.inv_cdf(below * one.cdf(z)) for z in normal])
    found = value * np.exp(width * normal)
    found.setflags(write=False)
    return found


@lru_cache(maxsize=1024)
def deviates(path: str) -> np.ndarray:
    """Standard normal deviates of a constant, shape (DRAWS,): one half is the other's negative, and their variance is
    one."""
    half = np.random.default_rng(zlib.crc32(path.encode())).standard_normal(DRAWS // 2)
    half /= np.sqrt(np.mean(half**2))
    return np.concatenate([half, -half])


def log_draws(load: StepLoad, step_s: float, cluster: Cluster, structure: Structure, fit: Fit) -> np.ndarray:
    """Logarithm of a step under each draw over the step, by the closed form; shape (DRAWS,).

    What kernels and wires take alone does not depend on what is drawn, so that the load serves as it is.

    Parameters
    ----------
    load
        What the step has to do.
    step_s
        What it takes by the closed form.
    """
    constants = overlaid_constants(cluster, structure, Draws(fit))
    return np.asarray(np.log(np.broadcast_to(compose_step(load, constants).seconds / step_s, (DRAWS,))))


class PriorUncertainty:
    """What a step may be off because of constants that no run has moved: evaluated when it is first asked for.

    Parameters
    ----------
    log_ratios
        Gives the logarithm of the step under each draw over the step, see :func:`log_draws`.
    counted
        Whether the widths that measured runs give hold it already: those for hardware or frameworks that a fit had not
        seen come from refits with these very constants at their priors. For a device of one's own they do not: it may
        differ from any that was left out.
    """

    def __init__(self, log_ratios: Callable[[], np.ndarray], *, counted: bool = False):
        self._log_ratios = Deferred(log_ratios)
        self.counted = counted

    @property
    def log_ratios(self) -> np.ndarray:
        """Logarithm of the step under each draw over the step, shape (DRAWS,)."""
        return self._log_ratios.value

    @property
    def log_error(self) -> float:
        """Standard deviation of the logarithm of the step."""
        return float(np.std(self.log_ratios))

    def widened(self, residual_width: float) -> float:
        """Half the width of the 80 % interval of a step as a logarithm, from that of runs whose constants are known."""
        return residual_width if self.counted else math.hypot(residual_width, NORMAL_80 * self.log_error)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PriorUncertainty):
            return NotImplemented
        return self.counted == other.counted and np.array_equal(self.log_ratios, other.log_ratios)

    __hash__ = None  # type: ignore[assignment]  # equal by draws, which come later
