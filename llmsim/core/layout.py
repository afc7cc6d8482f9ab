"""The one law from which every message follows: what an operator needs against where its tensors live.

An operator's iteration space is the union of the dimensions of what it touches; the mesh axes are laid on that space.
Of each tensor, ``missing`` are the axes of the space that the tensor, as seen in this operator, does not carry: what
is written is a partial sum over them, and so is the gradient of what is read. Weights and activations obey the same
sentence.
"""

from __future__ import annotations

from dataclasses import dataclass

from .operators import Operator, Read, Tensor
from .sharding import Placement, Sharding
from .terms import Term


@dataclass(frozen=True, slots=True)
class View:
    """A tensor as one operator sees it, axis by axis.

    Attributes
    ----------
    need, home
        Axis -> positions (in the tensor's dimensions) that carry it, inside the operator and at rest.
    missing
        Axes of the operator's space that the tensor does not carry in the operator.
    """

    need: dict[str, tuple[int, ...]]
    home: dict[str, tuple[int, ...]]
    missing: tuple[str, ...]

    @property
    def gathered(self) -> tuple[str, ...]:
        """Axes at home that the operator wants whole."""
        return tuple(a for a in self.home if a not in self.need)

    @property
    def exchanged(self) -> tuple[str, ...]:
        """Axes that sit on another dimension in the operator than at home."""
        return tuple(a for a in self.home if a in self.need and self.need[a] != self.home[a])

    @property
    def reduced(self) -> tuple[str, ...]:
        """Axes missing in the operator and not at home: the value (or gradient) is summed over them."""
        return tuple(a for a in self.missing if a not in self.home)


def _positions(dims: tuple[str, ...], place: Placement) -> dict[str, tuple[int, ...]]:
    found = {axis: tuple(i for i, d in enumerate(dims) if d in carriers) for axis, carriers in place.items()}
    return {axis: where for axis, where in found.items() if where}


def view(tensor: Tensor, dims: tuple[str, ...], operator: Operator, sharding: Sharding, *, added: bool = False) -> View:
    """How ``operator`` sees ``tensor``, whose dimensions it names ``dims``.

    What is ``added`` to a product meets only what is written, not the dimensions that the product sums over.
    """
    space = sharding.place(operator.space, operator.kind)
    need = _positions(dims, space)
    home = _positions(tensor.dims, sharding.place(tensor.dims))
    met = [a for a, carriers in space.items() if not added or set(carriers) & {*operator.write.dims, *dims}]
    return View(need, home, tuple(a for a in met if a not in need))


def read_view(read: Read, operator: Operator, sharding: Sharding) -> View:
    """How an operator sees a tensor that it reads."""
    return view(read.tensor, read.dims, operator, sharding, added=read in operator.addends)


def local_term(dims: tuple[str, ...], carriers: dict[str, tuple[int, ...]], format: str | None = None) -> Term:
    """The local size of a tensor with these dimensions, each divided by the axes that it carries."""
    axes_of: dict[int, tuple[str, ...]] = {}
    for axis, positions in carriers.items():
        for position in positions:
            axes_of[position] = (*axes_of.get(position, ()), axis)
    return Term(tuple((dim, axes_of.get(i, ())) for i, dim in enumerate(dims)), format)


def home_term(tensor: Tensor, sharding: Sharding, format: str | None = None) -> Term:
    """The local size of a tensor at rest, in its own format unless another is named."""
    carriers = _positions(tensor.dims, sharding.place(tensor.dims))
    return local_term(tensor.dims, carriers, format or tensor.format)


def need_term(read: Read, operator: Operator, sharding: Sharding, format: str | None = None) -> Term:
    """The local size of a read tensor as the operator needs it (gathered where it is gathered)."""
    seen = read_view(read, operator, sharding)
    return local_term(read.dims, seen.need, format or read.tensor.format)


def result_term(operator: Operator, sharding: Sharding, format: str | None = None) -> Term:
    """The local size of what the operator itself writes, before any reduction or exchange."""
    seen = view(operator.write, operator.write.dims, operator, sharding)
    return local_term(operator.write.dims, seen.need, format or operator.write.format)


def space_term(operator: Operator, dims: tuple[str, ...], sharding: Sharding) -> Term:
    """The product of the local sizes of some dimensions, laid out as in the operator's space.

    Dimensions outside of it (of a tensor that only the kernel knows) are sharded by an axis that they share with a
    dimension inside.
    """
    place = sharding.place(tuple(dict.fromkeys((*operator.space, *dims))), operator.kind)
    return local_term(dims, _positions(dims, place))
