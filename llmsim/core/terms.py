"""Terms: every count in a Transformer layer is a sum of monomials, coefficient x product of local sizes x bytes.

Deriving terms needs names only; evaluating them needs values only. The same term gives a Python int (one plan), an
int64 array (a table of plans) or a SymPy expression (a closed form).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np

from .formats import FORMATS, Format
from .numeric import Number, ceil_div, is_symbolic
from .operators import EXPECTED_DIMS

Factor: TypeAlias = tuple[str, tuple[str, ...]]
"""(dimension, mesh axes that shard it)."""

_INT64_LIMIT = 1 << 63


@dataclass(frozen=True, slots=True)
class Term:
    """A monomial.

    Attributes
    ----------
    factors
        (dimension, axes) pairs; the local size of each is the size divided by the degrees of its axes, rounded up.
    format
        Storage class for bytes, or None for a pure count (elements, FLOPs).
    coefficient
        A whole number.
    """

    factors: tuple[Factor, ...]
    format: str | None = None
    coefficient: int = 1

    def scaled(self, factor: int) -> Term:
        """The same monomial times a whole number."""
        return Term(self.factors, self.format, self.coefficient * factor)

    def stored(self, format: str | None) -> Term:
        """The same elements in another storage class."""
        return Term(self.factors, format, self.coefficient)

    def without(self, dims: Iterable[str]) -> Term:
        """The monomial with some dimensions left out."""
        gone = set(dims)
        return Term(tuple(f for f in self.factors if f[0] not in gone), self.format, self.coefficient)

    def renamed(self, change: Mapping[str, str]) -> Term:
        """The monomial with some dimensions replaced by others, sharded alike."""
        return Term(tuple((change.get(d, d), axes) for d, axes in self.factors), self.format, self.coefficient)

    @property
    def expected(self) -> bool:
        """Whether the value is an expectation (over the routing of tokens to experts)."""
        return any(dim in EXPECTED_DIMS for dim, _ in self.factors)

    def __str__(self) -> str:
        parts = [dim + (f"/({'·'.join(axes)})" if axes else "") for dim, axes in self.factors]
        text = "·".join(([str(self.coefficient)] if self.coefficient != 1 or not parts else []) + parts)
        return f"{text} [{self.format}]" if self.format else text


Terms: TypeAlias = tuple[Term, ...]


class Sizes:
    """Values of dimensions and degrees of mesh axes, with the local sizes and products remembered.

    Parameters
    ----------
    dims
        Dimension -> global size (int, int64 array or symbol).
    degrees
        Mesh axis -> degree; an axis that is absent has degree 1.
    formats
        Storage class (``activation``, ``weight``, ``gradient`` ...) -> format; names of formats stand for themselves.
    """

    def __init__(
        self,
        dims: Mapping[str, Number],
        degrees: Mapping[str, Number],
        formats: Mapping[str, Format] | None = None,
    ):
        self.dims, self.degrees, self.formats = dict(dims), dict(degrees), {**FORMATS, **(formats or {})}
        self._local: dict[Factor, Number] = {}
        self._product: dict[tuple[Factor, ...], Number] = {}

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of the table of plans that the values describe; () for a single plan."""
        values = (*self.dims.values(), *self.degrees.values())
        return np.broadcast_shapes(*(np.shape(v) for v in values if isinstance(v, np.ndarray)))

    def with_dims(self, **change: Number) -> Sizes:
        """The same sizes with some dimensions replaced."""
        return Sizes({**self.dims, **change}, self.degrees, self.formats)

    def degree(self, axes: Iterable[str]) -> Number:
        """The product of the degrees of some axes."""
        result: Number = 1
        for axis in axes:
            result = result * self.degrees.get(axis, 1)
        return result

    def local(self, dim: str, axes: tuple[str, ...] = ()) -> Number:
        """The local size of a dimension that some axes shard."""
        key = (dim, axes)
        if key not in self._local:
            size = self.dims[dim]
            self._local[key] = ceil_div(size, self.degree(axes)) if axes else size
        return self._local[key]

    def elements(self, term: Term) -> Number:
        """Elements (or FLOPs) of a term."""
        value = self._product.get(term.factors)
        if value is None:
            value = 1
            for dim, axes in term.factors:
                value = value * self.local(dim, axes)
            self._product[term.factors] = value
        return value * term.coefficient

    def bytes(self, term: Term) -> Number:
        """Bytes of a term in the format of its storage class."""
        if term.format is None:
            raise ValueError(f"{term} has no storage class")
        return self.formats[term.format].bytes(self.elements(term))

    def count(self, terms: Iterable[Term]) -> Number:
        """Sum of elements."""
        result: Number = 0
        for term in terms:
            result = result + self.elements(term)
        return result

    def size(self, terms: Iterable[Term]) -> Number:
        """Sum of bytes."""
        result: Number = 0
        for term in terms:
            result = result + self.bytes(term)
        return result

    def check_range(self, terms: Iterable[Term]) -> None:
        """Refuse a table whose largest plan would leave int64, which NumPy would let wrap around silently.

        Raises
        ------
        OverflowError
            Naming the term.
        """
        if is_symbolic(*self.dims.values(), *self.degrees.values()):
            return
        upper = Sizes(
            {k: int(np.max(v)) for k, v in self.dims.items()},
            {k: int(np.min(v)) for k, v in self.degrees.items()},
        )
        for term in terms:
            if upper.elements(term) * 8 >= _INT64_LIMIT:
                raise OverflowError(f"{term} exceeds the range of 64-bit counts")
