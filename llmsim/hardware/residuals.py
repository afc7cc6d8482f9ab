"""What measured kernels take beyond their form, between the measured shapes.

A form has few constants; libraries choose tiles shape by shape. Where measured points are dense, the logarithm of
measured over predicted time is interpolated between them; away from all of them nothing is added and the form's own
error holds.

References
----------
Inverse distance weighting: Shepard 1968, doi:10.1145/800186.810616.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..core.errors import InputError
from ..core.numeric import Number

NEIGHBOURS = 8
"""Points that are averaged."""
SOFTENING = 0.15
"""Octaves added to distances, so that a single point does not decide alone."""
REACH = 2.0
"""Octaves beyond which a point says nothing."""


@dataclass(frozen=True, eq=False)
class Residual:
    """Points in between which is interpolated.

    Attributes
    ----------
    columns
        Names of the sizes that make a shape.
    points
        Logarithms of these to the base 2, shape (n, columns).
    log_slower, spread
        Logarithm of measured over predicted time, and its standard deviation around each point, shape (n,).
    """

    columns: tuple[str, ...]
    points: np.ndarray
    log_slower: np.ndarray
    spread: np.ndarray

    def log_factor(self, **sizes: Number) -> np.ndarray:
        """Logarithm of what to multiply a form's time with; arrays broadcast."""
        weights, near = self._weights(sizes)
        return np.asarray((weights * self.log_slower[near]).sum(-1))

    def factor(self, **sizes: Number) -> np.ndarray:
        """What to multiply a form's time with."""
        return np.asarray(np.exp(self.log_factor(**sizes)))

    def error(self, form_error: float, **sizes: Number) -> np.ndarray:
        """Standard deviation of the logarithm of the time: that around the points near them, the form's away from
        them."""
        weights, near = self._weights(sizes)
        inside = weights.sum(-1)
        variance = (weights * self.spread[near] ** 2).sum(-1) + (1 - inside) * form_error**2
        return np.asarray(np.sqrt(variance))

    def _weights(self, sizes: dict[str, Number]) -> tuple[np.ndarray, np.ndarray]:
        """Weights of the nearest points, which sum to 1 near them and to 0 far away, and the points' numbers."""
        columns = np.broadcast_arrays(*(np.asarray(sizes[name], dtype=float) for name in self.columns))
        where = np.log2(np.maximum(np.stack(columns, axis=-1), 1.0))
        squared = (where**2).sum(-1)[..., None] + (self.points**2).sum(-1) - 2 * where @ self.points.T
        distance = np.sqrt(np.maximum(squared, 0.0))
        count = min(NEIGHBOURS, len(self.points))
        near = np.argpartition(distance, count - 1, axis=-1)[..., :count]
        own = np.take_along_axis(distance, near, axis=-1)
        raw = 1 / (own + SOFTENING) ** 2
        fade = np.clip(2 - own.min(-1) / REACH * 2, 0.0, 1.0)
        return raw / raw.sum(-1, keepdims=True) * fade[..., None], near


def residual_text(residual: Residual) -> str:
    """A residual as a file holds it: names and ranges of the columns, then a byte a number, in base 64."""
    low, high = residual.points.min(0), residual.points.max(0)
    step = np.maximum((high - low) / 255, 1e-6)
    points = np.round((residual.points - low) / step)
    slower = np.clip(np.round(residual.log_slower * _SLOWER) + 128, 0, 255)
    spread = np.clip(np.round(residual.spread * _SPREAD), 0, 255)
    packed = np.concatenate([points, slower[:, None], spread[:, None]], axis=1).astype(np.uint8)
    ranges = " ".join(f"{name} {a:.6g} {s:.6g}" for name, a, s in zip(residual.columns, low, step, strict=True))
    return f"{ranges} {base64.b64encode(packed.tobytes()).decode()}"


_SLOWER, _SPREAD = 100, 200
"""Parts of a logarithm that a byte counts."""


@lru_cache(maxsize=256)
def read_residual(text: str) -> Residual:
    """A residual from its text.

    Raises
    ------
    InputError
        For a text that is none.
    """
    try:
        *ranges, packed = text.split()
        columns = tuple(ranges[::3])
        low, step = (np.array([float(v) for v in ranges[n::3]]) for n in (1, 2))
        values = np.frombuffer(base64.b64decode(packed, validate=True), np.uint8).reshape(-1, len(columns) + 2)
        points = low + step * values[:, :-2]
        if not columns or not len(points):
            raise ValueError
    except ValueError:
        raise InputError("residual", text[:60], "names and ranges of columns, then bytes in base 64") from None
    return Residual(columns, points, (values[:, -2].astype(float) - 128) / _SLOWER, values[:, -1] / _SPREAD)
