"""Gauss-Newton steps for least squares with upper bounds, by normal equations.

A fit has a few hundred constants, each with a prior, and thousands of residuals. With priors the curvature is positive
definite, so that a Cholesky factor of it does what a decomposition of the whole Jacobian would do, hundreds of times
faster. A Jacobian may be used again for as long as the constants stay near the point that it was taken at; costs are
exact at every step.

References
----------
Nocedal and Wright 2006, Numerical Optimization, chapters 10.3 (Levenberg-Marquardt) and 16.7 (bounds).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

SETTLED = 1e-4
"""Decrease of the cost (half a sum of squares in standard deviations) below which nothing more is looked for."""
SETTLED_SHARE = 0.2
"""Of the distance for which a Jacobian is used again: one farther off is taken anew before the search ends."""
_DAMPING = 1e-3
_MOST_DAMPING = 1e8


class Objective(Protocol):
    """Half a sum of squares.

    ``cost`` is its value at a point, ``slopes`` the Jacobian there, ``normal`` its gradient and the Gauss-Newton
    curvature at a point by a Jacobian taken near it.
    """

    def cost(self, x: np.ndarray) -> float:
        """Half the sum of squares."""

    def slopes(self, x: np.ndarray) -> np.ndarray:
        """Derivatives of what is squared, before weights that change from step to step."""

    def normal(self, x: np.ndarray, slopes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradient and curvature."""


@dataclass(frozen=True)
class Linearisation:
    """A Jacobian and the point that it was taken at."""

    point: np.ndarray
    slopes: np.ndarray

    def distance(self, x: np.ndarray) -> float:
        """Largest change of a constant between the point and another."""
        return float(np.abs(x - self.point).max(initial=0.0))


def minimise(
    objective: Objective,
    start: np.ndarray,
    upper: np.ndarray,
    *,
    known: Linearisation | None = None,
    near: float = 0.0,
    max_steps: int = 40,
) -> tuple[np.ndarray, float]:
    """The point of least cost with every constant at or below its upper bound, and that cost.

    Parameters
    ----------
    known
        A Jacobian of a point near ``start``.
    near
        Largest change of a constant for which a Jacobian is used again.
    max_steps
        Steps at most.
    """
    x = np.minimum(start, upper)
    cost, damping = objective.cost(x), _DAMPING
    at = known
    for _ in range(max_steps):
        if at is None or at.distance(x) > near:
            at = Linearisation(x, objective.slopes(x))
        away = at.distance(x)
        gradient, curvature = objective.normal(x, at.slopes)
        while True:
            step = bounded_step(gradient, curvature + damping * np.diag(np.diag(curvature)), upper - x)
            reached = objective.cost(x + step)
            if reached <= cost or damping > _MOST_DAMPING:
                break
            damping *= 10
        gain = max(0.0, cost - reached)
        if gain > 0:
            x, cost, damping = np.minimum(x + step, upper), reached, max(_DAMPING, damping / 10)
        if gain < SETTLED:
            if away <= near * SETTLED_SHARE:
                break
            at, damping = None, _DAMPING
    return x, cost


def bounded_step(gradient: np.ndarray, curvature: np.ndarray, room: np.ndarray) -> np.ndarray:
    """The step to the least of a quadratic, no component above its room: those that would be are held there one after
    the other and the rest moves freely.

    Parameters
    ----------
    gradient, curvature
        Of the quadratic; the latter positive definite.
    room
        Largest step of each component, 0 or more.
    """
    from scipy.linalg import cho_factor, cho_solve

    step = np.zeros(len(gradient))
    free = np.ones(len(gradient), bool)
    while free.any():
        own = np.ix_(free, free)
        pull = gradient[free] + curvature[np.ix_(free, ~free)] @ step[~free]
        step[free] = -cho_solve(cho_factor(curvature[own], check_finite=False), pull, check_finite=False)
        over = free & (step > room)
        if not over.any():
            break
        step[over] = room[over]
        free &= ~over
    return step
