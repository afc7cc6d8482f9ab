"""What is alive while a layer's backward pass runs, operator by operator, where each tensor is freed as soon as nobody
needs it and each gradient of a parameter is allocated when it is made.

This is what torch's autograd does without a compiler: a kept tensor lives until the first operator that kept it has run
backward, a gradient until the operator that wrote its tensor has. Every step is a list of terms; the largest is the
peak.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .inventory import Inventory
from .layout import need_term, result_term
from .operator_kinds import operator_kind
from .operators import Operator, Read
from .saved import Saved, Savings
from .sharding import Sharding
from .terms import Term, Terms
from .transients import hold_terms


@dataclass(frozen=True, slots=True)
class Moment:
    """What is alive while one operator runs backward, bytes.

    Attributes
    ----------
    kept
        Of what the layer keeps from forward to backward.
    again
        Of what recomputing made anew.
    flowing
        Gradients of activations, and new tensors of the kernel itself.
    gradients
        Gradients of parameters made so far in this layer.
    """

    kept: Terms
    again: Terms
    flowing: Terms
    gradients: Terms


@dataclass
class _Flow:
    """Gradients of activations under way: tensor -> storage, storage -> its size."""

    storage_of: dict[str, str] = field(default_factory=dict)
    size: dict[str, Term] = field(default_factory=dict)

    def shared(self, storage: str) -> bool:
        return list(self.storage_of.values()).count(storage) > 1

    def arrive(self, tensor: str, storage: str, size: Term) -> Terms:
        """A gradient for a tensor; what its sum with an earlier one makes beside it."""
        old = self.storage_of.get(tensor)
        if old is None:
            self.storage_of[tensor] = storage
            self.size.setdefault(storage, size)
            return ()
        if not self.shared(old):  # added to in place
            return (size,) if storage not in self.size else ()
        made = f"{tensor} summed"
        beside = () if storage in self.size else (size,)
        self.storage_of[tensor] = made
        self.size[made] = size
        return beside

    def release(self) -> None:
        """Free what no tensor refers to."""
        alive = set(self.storage_of.values())
        self.size = {name: size for name, size in self.size.items() if name in alive}

    @property
    def terms(self) -> Terms:
        return tuple(self.size.values())


def derive_moments(
    operators: Sequence[Operator],
    sharding: Sharding,
    inventory: Inventory,
    savings: Savings,
    *,
    formats: Mapping[str, str],
) -> tuple[Moment, ...]:
    """The moments of a layer's backward pass, in the order in which they come, those of recomputing first.

    Parameters
    ----------
    savings
        What is kept, and made again.
    formats
        Storage class -> format name: a gradient in another format than its tensor's is a tensor of its own.
    """
    place = {op.name: i for i, op in enumerate(operators)}
    flow, moments = _Flow(), list[Moment]()
    done: Terms = ()
    last = operators[-1].write
    if last.role == "activation" and operators[-1].kind != "loss":
        flow.arrive(last.name, last.name, result_term(operators[-1], sharding))
    for op in (operators[place[name]] for name in savings.recomputed):
        holds = hold_terms(op, inventory.row(op.kernel).forward_holds, sharding)
        if holds:
            kept, again = (_alive(saved, place, place[op.name]) for saved in (savings.kept, savings.again))
            names = {s.storage for s in (*savings.kept, *savings.again)}
            own = [o for o in _branch(operators, place[op.name]) if o.write.name not in names]
            variables = tuple(result_term(o, sharding) for o in own)
            moments.append(Moment(kept, again, (*flow.terms, *variables, *holds), ()))
    for position, op in reversed(list(enumerate(operators))):
        arrived = flow.storage_of.get(op.write.name)
        if arrived is None and op.kind not in ("loss", "index_select"):
            continue  # no gradient reaches it
        made = tuple(need_term(r, op, sharding, "gradient") for r in op.trained)
        converted = _unconverted(op, sharding, formats)
        kept, again = (_alive(saved, place, position) for saved in (savings.kept, savings.again))
        holds = hold_terms(op, inventory.row(op.kernel).backward_holds, sharding)
        if holds:
            moments.append(Moment(kept, again, (*flow.terms, *holds), done))
        beside: list[Term] = []
        for read in op.activations:
            storage, size = _gradient(op, read, arrived, sharding, formats)
            beside += flow.arrive(read.tensor.name, storage, size)
        fresh = () if converted else made
        moments.append(Moment(kept, again, (*flow.terms, *beside, *converted), (*done, *fresh)))
        done = (*done, *made)
        flow.storage_of.pop(op.write.name, None)
        flow.release()
        if converted:
            kept, again = (_alive(saved, place, position - 1) for saved in (savings.kept, savings.again))
            moments.append(Moment(kept, again, (*flow.terms, *converted), done))
    return tuple(moments)


def _branch(operators: Sequence[Operator], position: int) -> list[Operator]:
    """The operators of the same branch before a position: a module's variables refer to what they wrote until it
    returns."""
    before = operators[:position]
    start = max((i + 1 for i, op in enumerate(before) if op.kind == "add"), default=0)
    return list(before[start:])


def _alive(saved: Sequence[Saved], place: Mapping[str, int], position: int) -> Terms:
    return tuple(t for s in saved if place[s.operator] <= position for t in s.terms)


def _gradient(
    op: Operator, read: Read, arrived: str | None, sharding: Sharding, formats: Mapping[str, str]
) -> tuple[str, Term]:
    """The storage of a read tensor's gradient and its size."""
    size = need_term(read, op, sharding)
    same = formats.get(read.tensor.format, read.tensor.format) == formats.get(op.write.format, op.write.format)
    if operator_kind(op.kind).passes_gradient and arrived is not None and same:
        return arrived, size
    return f"{op.name}:{read.tensor.name}", size


def _unconverted(op: Operator, sharding: Sharding, formats: Mapping[str, str]) -> Terms:
    """A product's weight gradient in the format of its operands, before it is converted to the parameter's."""
    if op.kind != "contract" or formats.get("gradient") == formats.get("activation"):
        return ()
    return tuple(need_term(r, op, sharding, "activation") for r in op.weights[:1] if not r.tensor.frozen)
