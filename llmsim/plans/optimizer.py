"""Optimizers: state of each class of tensors, and the work, traffic and transfers of an update.

Matrices, tables (embedding and head) and vectors (gains, biases, convolutions) may be updated by different rules: Muon
orthogonalises matrices and leaves the rest to AdamW.

References
----------
AdamW: Loshchilov 2019, arXiv:1711.05101. 8-bit Adam: Dettmers 2022, arXiv:2110.02861. Adafactor: Shazeer 2018,
arXiv:1804.04235. Lion: Chen 2023, arXiv:2302.06675. Muon: Liu 2025, arXiv:2502.16982. Shampoo: Shi 2023,
arXiv:2309.06497. SOAP: Vyas 2024, arXiv:2409.11321. Sharded states: Rajbhandari 2019, arXiv:1910.02054.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ..core.errors import unknown_name
from ..core.formats import get_format
from ..core.numeric import Number, ceil_div, maximum, minimum, where
from ..hardware.software import Formats

TensorClass: TypeAlias = Literal["matrix", "table", "vector"]

FP32_BYTES = 4
EIGEN_FLOPS = 9
"""Per cube of the side, for the eigenvectors of a symmetric matrix (Golub, Van Loan 2013, section 8.3)."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How one class of tensors is updated.

    Attributes
    ----------
    moments
        Tensors of state of the parameter's shape, in the format that the software profile has for moments.
    quantised_bytes
        Bytes per element of such a tensor where it is quantised by blocks; tensors below ``smallest`` elements are not.
    smallest
        See there.
    factored
        Whether a matrix keeps one 32-bit value a row and a column instead of a second moment.
    preconditioners
        32-bit square matrices on each side of a matrix.
    block
        Side of the blocks that a matrix is cut into for them; None: none.
    longest
        Sides longer than this have no preconditioner; None: all have.
    every
        Steps between two renewals of the preconditioners' roots or eigenvectors.
    products
        Products with each preconditioner in a step, statistics included.
    iterations
        Newton-Schulz steps on the whole matrix.
    flops
        Elementwise operations per element.
    temporaries
        Tensors of the moments' shape and format that an update makes where its operators are not fused.
    """

    moments: int = 0
    quantised_bytes: float = 0.0
    smallest: int = 0
    factored: bool = False
    preconditioners: int = 0
    block: int | None = None
    longest: int | None = None
    every: int = 1
    products: int = 0
    iterations: int = 0
    flops: int = 0
    temporaries: int = 0

    @property
    def whole(self) -> bool:
        """Whether an update needs the whole matrix in one place."""
        return bool(self.iterations or self.preconditioners)

    def state_bytes(self, rows: Number, columns: Number, moment_bytes: int) -> Number:
        """Of one matrix, or of a vector of so many rows, bytes."""
        elements = rows * columns
        each: Number = self.moments * moment_bytes
        if self.quantised_bytes:
            each = self.moments * where(elements < self.smallest, FP32_BYTES, self.quantised_bytes)
        vectors = (rows + columns) * FP32_BYTES if self.factored else 0
        return elements * each + vectors + self.preconditioners * FP32_BYTES * self._squares(rows, columns)

    def products_flops(self, rows: Number, columns: Number) -> Number:
        """Multiply-adds x 2 of matrix products in one update of one matrix, renewals spread over the steps."""
        short, long = minimum(rows, columns), maximum(rows, columns)
        orthogonal = self.iterations * (4 * short * short * long + 2 * short * short * short)
        if not self.preconditioners:
            return orthogonal
        sides = self._side(rows) * self._has(rows) + self._side(columns) * self._has(columns)
        return self.products * 2 * rows * columns * sides + EIGEN_FLOPS * self._cubes(rows, columns) / self.every

    def _side(self, length: Number) -> Number:
        return length if self.block is None else minimum(length, self.block)

    def _has(self, length: Number) -> Number:
        return 1 if self.longest is None else where(length <= self.longest, 1, 0)

    def _blocks(self, rows: Number, columns: Number) -> Number:
        return ceil_div(rows, self._side(rows)) * ceil_div(columns, self._side(columns))

    def _squares(self, rows: Number, columns: Number) -> Number:
        own = self._side(rows) ** 2 * self._has(rows) + self._side(columns) ** 2 * self._has(columns)
        return self._blocks(rows, columns) * own

    def _cubes(self, rows: Number, columns: Number) -> Number:
        own = self._side(rows) ** 3 * self._has(rows) + self._side(columns) ** 3 * self._has(columns)
        return self._blocks(rows, columns) * own


@dataclass(frozen=True, slots=True)
class Optimizer:
    """One optimizer.

    Attributes
    ----------
    name
        As in plans.
    matrix, table, vector
        Rules by class of tensor.
    """

    name: str
    matrix: Rule
    table: Rule
    vector: Rule

    def rule(self, tensor: TensorClass) -> Rule:
        """The rule of a class."""
        return {"matrix": self.matrix, "table": self.table, "vector": self.vector}[tensor]

    @property
    def elementwise(self) -> bool:
        """Whether an update multiplies no matrices."""
        return not any(rule.whole for rule in (self.matrix, self.table, self.vector))

    @property
    def uniform(self) -> bool:
        """Whether an element costs the same wherever it stands."""
        plain = Rule(moments=self.vector.moments, flops=self.vector.flops, temporaries=self.vector.temporaries)
        return self.matrix == self.table == self.vector == plain


def moment_bytes(formats: Formats, compute: str) -> int:
    """Bytes of an element of a moment that is not quantised."""
    return get_format(compute if formats.moments == "compute" else formats.moments).bits // 8


def master_bytes(formats: Formats, compute: str) -> int:
    """Bytes per parameter of the optimizer's own copy; parameters as wide as that need none."""
    parameter = get_format(compute if formats.parameter == "compute" else formats.parameter).bits
    own = get_format(formats.master).bits if formats.master else 0
    return own // 8 if own > parameter else 0


def traffic_bytes(state: Number, formats: Formats, compute: str) -> Number:
    """Device traffic per updated parameter: gradient read, state read and written, parameter written.

    Besides, the gradient is read once for its norm and read and written once for clipping; in fp16 once more to take
    the loss scale out and to look for what is not finite (Micikevicius 2018, arXiv:1710.03740).

    Parameters
    ----------
    state
        Bytes of master copy and moments per parameter.
    """
    gradient = get_format(compute if formats.gradient == "compute" else formats.gradient).bits // 8
    parameter = get_format(compute if formats.parameter == "compute" else formats.parameter).bits // 8
    own = 0 if master_bytes(formats, compute) else parameter
    unscaled = 2 * gradient if compute == "fp16" else 0
    return gradient + 2 * state + own + parameter + 3 * gradient + unscaled


def _alike(name: str, rule: Rule) -> Optimizer:
    return Optimizer(name, rule, rule, rule)


_ADAM = Rule(moments=2, flops=14, temporaries=1)
_ADAM_8BIT = Rule(moments=2, quantised_bytes=1 + FP32_BYTES / 256, smallest=4096, flops=20)
_FACTORED = Rule(factored=True, flops=12)

OPTIMIZERS = {
    o.name: o
    for o in (
        _alike("adamw", _ADAM),
        _alike("sgd-momentum", Rule(moments=1, flops=4)),
        _alike("lion", Rule(moments=1, flops=6)),
        _alike("adam-8bit", _ADAM_8BIT),
        Optimizer("adafactor", _FACTORED, _FACTORED, Rule(moments=1, flops=12)),
        Optimizer("muon", Rule(moments=1, iterations=5, flops=6), _ADAM, _ADAM),
        # Statistics and their inverse roots on blocks of 1024, with momentum (Shi 2023, section 3).
        Optimizer(
            "shampoo", Rule(moments=1, preconditioners=2, block=1024, every=50, products=2, flops=8), _ADAM, _ADAM
        ),
        # Adam in the eigenbasis: statistics and eigenvectors of sides up to 10,000; into it, back, and statistics.
        Optimizer(
            "soap", Rule(moments=2, preconditioners=2, longest=10_000, every=10, products=3, flops=20), _ADAM, _ADAM
        ),
    )
}
ALIASES = {"adam": "adamw", "sgd": "sgd-momentum", "adamw-8bit": "adam-8bit", "distributed-shampoo": "shampoo"}


def get_optimizer(name: str) -> Optimizer:
    """The optimizer of that name.

    Raises
    ------
    InputError
        For an unknown one, with the nearest names.
    """
    wanted = str(name).strip().lower()
    try:
        return OPTIMIZERS[ALIASES.get(wanted, wanted)]
    except KeyError:
        raise unknown_name("optimizer", name, [*OPTIMIZERS, *ALIASES]) from None
