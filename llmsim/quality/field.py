"""Losses between published points: a law as the mean, and what related points leave over.

The logarithm of a loss is that of the relative error of what is stored, times powers of the model's size and of the
tokens that it was trained on, plus deviations that points have in common: of a class of methods, a method, a family, a
model, a text. Deviations are normally distributed with widths chosen by hand (``DEVIATIONS``); their posterior follows
from the points that are known, so that a point of the same model and method says most, and the law alone what no point
says.

References
----------
Law in size and tokens: Kumar 2024, arXiv:2411.04330, equation of post-training quantization. Conditioning: Rasmussen
and Williams 2006, Gaussian Processes for Machine Learning, section 2.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .published import Point

SIZE_EXPONENT, TOKEN_EXPONENT = -0.3439, 0.5068
"""Of parameters and of training tokens (Kumar 2024)."""
REFERENCE = (7e9, 2e12)
"""Parameters and tokens at which ``LEVEL`` holds."""
LEVEL = 4.0
"""Nats over the relative error, the order of magnitude before any point is known; of low rank, over the share of the
parameters that is gone."""
FLOOR = 0.002
"""Nats below which logarithms say nothing."""
NOISE = 0.12
"""Standard deviation of the logarithm of a point beside what digits hide: seeds, calibration data, versions."""

_Deviation = tuple[str, float, Callable[[Point], object], Callable[[Point], float] | None]


def _log_error(point: Point) -> float:
    return math.log(point.error) - _MIDDLE[point.kind]


_MIDDLE = {"weight": math.log(0.015), "gguf": math.log(0.01), "activations": math.log(0.03),
           "pruning": math.log(0.09), "low-rank": math.log(0.3)}  # fmt: skip


def _log_size(point: Point) -> float:
    return math.log(point.parameters / REFERENCE[0])


DEVIATIONS: tuple[_Deviation, ...] = (
    ("level", 0.7, lambda p: True, None),
    ("class", 0.7, lambda p: p.kind, None),
    ("method", 0.6, lambda p: (p.kind, p.method), None),
    ("groups of a class", 0.4, lambda p: (p.kind, p.fine), None),
    ("groups of a method", 0.4, lambda p: (p.kind, p.method, p.fine), None),
    ("activations", 1.0, lambda p: (p.kind, p.activations), None),
    ("activations of a method", 1.0, lambda p: (p.kind, p.method, p.activations), None),
    ("family", 0.3, lambda p: p.family, None),
    ("model", 0.2, lambda p: (p.family, p.model), None),
    ("model and class", 0.2, lambda p: (p.model, p.kind), None),
    ("model and method", 0.25, lambda p: (p.model, p.kind, p.method, p.fine, p.activations), None),
    ("text", 0.3, lambda p: (p.kind, p.data), None),
    ("protocol", 0.1, lambda p: p.protocol, None),
    ("slope of a class", 0.25, lambda p: p.kind, _log_error),
    ("slope of a method", 0.15, lambda p: (p.kind, p.method, p.fine), _log_error),
    ("size", 0.1, lambda p: True, _log_size),
    ("size of a class", 0.1, lambda p: p.kind, _log_size),
)
"""Name, standard deviation of the logarithm, what shares it, and what it multiplies (1 where None)."""


@dataclass(frozen=True)
class Logarithm:
    """A loss as a normal distribution of its logarithm."""

    mean: float
    sd: float


def law(point: Point) -> float:
    """Logarithm of the loss before any point is known."""
    size = SIZE_EXPONENT * math.log(point.parameters / REFERENCE[0])
    tokens = TOKEN_EXPONENT * math.log(point.tokens / REFERENCE[1])
    return math.log(LEVEL * point.error) + size + tokens


class QualityField:
    """Known points and what follows from them.

    Parameters
    ----------
    points
        With losses; those without are left out.
    """

    def __init__(self, points: Sequence[Point]) -> None:
        self.points = [point for point in points if math.isfinite(point.delta)]
        size = len(self.points)
        self._covariance = self._between(self.points, self.points) if size else np.zeros((0, 0))
        noise = [NOISE**2 + (point.noise / max(point.delta, FLOOR)) ** 2 for point in self.points]
        self._factor = np.linalg.cholesky(self._covariance + np.diag(noise)) if size else self._covariance
        left = [math.log(max(point.delta, FLOOR)) - law(point) for point in self.points]
        self._weights = self._solved(np.array(left)) if size else np.zeros(0)

    def at(self, point: Point) -> Logarithm:
        """The loss of a point, measurement noise included."""
        prior = sum(sd**2 * (1.0 if by is None else by(point) ** 2) for _, sd, _, by in DEVIATIONS)
        if not self.points:
            return Logarithm(law(point), math.sqrt(prior + NOISE**2))
        shared = self._between([point], self.points)[0]
        known = float(shared @ self._solved(shared))
        mean = law(point) + float(shared @ self._weights)
        digits = (point.noise / max(math.exp(mean), FLOOR)) ** 2
        return Logarithm(mean, math.sqrt(max(prior - known, 0.0) + NOISE**2 + digits))

    def _solved(self, right: np.ndarray) -> np.ndarray:
        return np.asarray(np.linalg.solve(self._factor.T, np.linalg.solve(self._factor, right)))

    @staticmethod
    def _between(first: Sequence[Point], second: Sequence[Point]) -> np.ndarray:
        found = np.zeros((len(first), len(second)))
        for _, sd, what, by in DEVIATIONS:
            numbers: dict[object, int] = {}
            rows = np.array([numbers.setdefault(what(p), len(numbers)) for p in first])
            columns = np.array([numbers.setdefault(what(p), len(numbers)) for p in second])
            same = (rows[:, None] == columns[None, :]).astype(float)
            if by is not None:
                same *= np.outer([by(p) for p in first], [by(p) for p in second])
            found += sd**2 * same
        return found
