"""What measured steps say of layers of one shape, beyond what smooth laws of kernels say.

Kernels of one shape run faster or slower than their law: tiles that do not divide, launches that a queue does not hide.
Runs show it, and layers of nearly the same shape share it. A table holds by how much layers of each measured shape took
longer than predicted, for the stacks of one lineage on one generation of devices in one format, dense models and
mixtures of experts apart; in between it is interpolated, away from all of them nothing is added.

References
----------
Gaussian process regression: Rasmussen and Williams 2006, algorithm 2.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..core.errors import InputError
from ..core.numeric import Number

COLUMNS = ("hidden", "tensor_parallel", "tokens", "sequence")
"""What makes a shape: width of the model, ranks that share a layer, tokens of a micro-batch on one rank, sequence."""
REACH = (0.5, 0.5, 0.5, 0.7)
"""Distance in octaves over which layers of one shape say something of another, by column; assumed."""
SPREAD = 0.08
"""Standard deviation of the logarithm by which layers of a shape differ from the law; assumed."""
_FIELDS = (*COLUMNS, "runs", "log_slower", "error", "weight")


@dataclass(frozen=True, eq=False)
class ShapeTable:
    """Layers of measured shapes.

    Attributes
    ----------
    points
        Logarithms to the base 2 of the columns, shape (n, 4).
    runs
        How many were measured at each, shape (n,).
    log_slower, error
        Logarithm of by how much layers take longer than predicted, and its standard error, shape (n,).
    weight
        Of each point in an interpolation, shape (n,): the logarithm anywhere is the sum of weights times covariances.
    """

    points: np.ndarray
    runs: np.ndarray
    log_slower: np.ndarray
    error: np.ndarray
    weight: np.ndarray

    def factor(self, hidden: Number, tensor_parallel: Number, tokens: Number, sequence: Number) -> Number:
        """By how much layers take longer than predicted: an array where any argument is one.

        The mean of a Gaussian process with a squared exponential covariance between the logarithms of shapes.

        References
        ----------
        Rasmussen and Williams 2006, *Gaussian Processes for Machine Learning*, algorithm 2.1.
        """
        where = self._log2(hidden, tensor_parallel, tokens, sequence)
        result = np.exp(covariance(where, self.points) @ self.weight)
        return result if self._is_array(hidden, tensor_parallel, tokens, sequence) else float(result[0])

    def known(self, hidden: Number, tensor_parallel: Number, tokens: Number, sequence: Number) -> Number:
        """How much of the doubt about a shape its nearest measured one removes: 0 far from all of them, near 1 at a
        shape that was measured often."""
        like = covariance(self._log2(hidden, tensor_parallel, tokens, sequence), self.points) / SPREAD**2
        result = (like**2 * (1 - np.minimum(self.error / SPREAD, 1) ** 2)).max(axis=-1)
        return result if self._is_array(hidden, tensor_parallel, tokens, sequence) else float(result[0])

    @staticmethod
    def _is_array(*values: Number) -> bool:
        return any(np.ndim(value) > 0 for value in values)

    @staticmethod
    def _log2(*values: Number) -> np.ndarray:
        columns = np.broadcast_arrays(*(np.atleast_1d(np.asarray(v, dtype=float)) for v in values))
        return np.asarray(np.log2(np.stack(columns, axis=-1)))


def covariance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Covariance of shapes, (rows of a, rows of b)."""
    reach = np.asarray(REACH)
    left, right = a / reach, b / reach
    squared = (left**2).sum(-1)[:, None] + (right**2).sum(-1)[None, :] - 2 * left @ right.T
    return np.asarray(SPREAD**2 * np.exp(-np.maximum(squared, 0) / 2))


def shape_key(lineage: str, generation: str, format_class: str, model_class: str) -> str:
    """The table that layers belong to."""
    return f"{lineage}/{generation}/{format_class}/{model_class}"


def shape_text(table: ShapeTable) -> str:
    """A table as a file holds it: a line of names, then a line a shape."""
    lines = [" ".join(_FIELDS)]
    for point, runs, *values in zip(table.points, table.runs, table.log_slower, table.error, table.weight, strict=True):
        slower, error, weight = values
        lines.append(
            " ".join(
                [*(f"{2**v:.6g}" for v in point), str(int(runs)), f"{slower:.4f}", f"{error:.4f}", f"{weight:.6g}"]
            )
        )
    return "\n".join(lines) + "\n"


@lru_cache(maxsize=256)
def shape_table(text: str) -> ShapeTable:
    """A table from its text.

    Raises
    ------
    InputError
        For a line that is none.
    """
    head, *lines = text.strip().splitlines()
    if tuple(head.split()) != _FIELDS:
        raise InputError("shapes", head, " ".join(_FIELDS))
    rows: list[list[float]] = []
    for line in lines:
        try:
            row = [float(cell) for cell in line.split()]
        except ValueError:
            row = []
        if len(row) != len(_FIELDS) or not all(map(math.isfinite, row)) or min(*row[:5], row[6]) <= 0:
            raise InputError("shapes", line, f"{len(_FIELDS)} numbers, all but {_FIELDS[5]} and {_FIELDS[7]} above 0")
        rows.append(row)
    if not rows:
        raise InputError("shapes", head, "one line a shape below it")
    values = np.array(rows)
    return ShapeTable(np.log2(values[:, :4]), *values[:, 4:].T)


def shape_texts(tables: Mapping[str, ShapeTable]) -> dict[str, str]:
    """Tables as texts, by key."""
    return {key: shape_text(table) for key, table in sorted(tables.items())}
