"""What autograd keeps between forward and backward: distinct storages, by kernel inventory, under any recompute region.

A tensor that two operators keep counts once; outputs of one fused kernel share one storage, so keeping one view keeps
all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .inventory import Inventory, Keep
from .layout import home_term, local_term, read_view, result_term, space_term, view
from .messages import GatherPolicy
from .operators import Operator, Read, Tensor, names
from .sharding import Sharding
from .terms import Term, Terms


@dataclass(frozen=True, slots=True)
class Saved:
    """One storage kept for backward.

    Attributes
    ----------
    storage
        Its name: the tensor's (or fusion group's) own, or ``operator:source`` for what an operator makes itself.
    terms
        Bytes.
    operator
        The first operator that keeps it.
    per_step
        Whether it exists once a step rather than once a micro-batch.
    """

    storage: str
    terms: Terms
    operator: str
    per_step: bool


@dataclass(frozen=True)
class Region:
    """A set of operators that are computed again in backward.

    What enters is kept, what its operators keep is dropped and made again.

    Attributes
    ----------
    operators
        Their names.
    keep_outputs
        Operators of the region whose result is kept after all, and which are not computed again (selective checkpoint
        policies).
    discard
        Whether the region's results are dropped even where operators outside keep them (Megatron's output discarding;
        torch's checkpoint leaves them to their other owners).
    """

    operators: frozenset[str]
    keep_outputs: frozenset[str] = frozenset()
    discard: bool = False


@dataclass(frozen=True, slots=True)
class Savings:
    """The outcome of the pass.

    Attributes
    ----------
    kept
        Storages alive from forward to backward.
    again
        Storages that recomputing makes anew while the layer's backward runs.
    recomputed
        Names of the operators executed again, in order.
    """

    kept: tuple[Saved, ...]
    again: tuple[Saved, ...]
    recomputed: tuple[str, ...]


class _Ledger:
    """Storages by name, with aliases for fused outputs and gathered copies."""

    def __init__(
        self,
        operators: Sequence[Operator],
        sharding: Sharding,
        inventory: Inventory,
        formats: Mapping[str, str],
        gather: Mapping[str, GatherPolicy],
        shared_input: bool,
    ):
        self.sharding, self.inventory, self.formats = sharding, inventory, formats
        self.gather, self.shared_input = gather, shared_input
        self.producer = {op.write.name: op for op in operators}

    def _same(self, a: str, b: str) -> bool:
        return self.formats.get(a, a) == self.formats.get(b, b)

    def is_parameter(self, keep: Keep, op: Operator) -> bool:
        """Parameters are not activations; a copy of one in another format is."""
        if keep.read is None:
            return False
        tensor = op.reads[keep.read].tensor
        return tensor.role == "weight" and (keep.format is None or self._same(keep.format, tensor.format))

    def own(self, tensor: Tensor) -> tuple[str, Terms]:
        """A tensor's storage at rest, shared with the outputs of its fusion group."""
        op = self.producer.get(tensor.name)
        group = self.inventory.storage_group(op.name) if op else (tensor.name,)
        members = [self.producer[n].write for n in group if n in self.producer] or [tensor]
        return "+".join(m.name for m in members), tuple(home_term(m, self.sharding) for m in members)

    def seen(self, read: Read, op: Operator) -> tuple[str, Term, bool]:
        """The name and local size of a tensor as an operator reads it, and whether that is a copy (gathered and kept,
        or exchanged) rather than the tensor itself."""
        look = read_view(read, op, self.sharding)
        copied = [a for a in look.gathered if self.gather.get(a, "keep") == "keep"] + list(look.exchanged)
        carriers = {a: p for a, p in look.home.items() if a not in copied}
        carriers |= {a: look.need[a] for a in look.exchanged}
        owner = () if self.shared_input else self.inventory.group(op.name)[:1]
        name = "@".join((read.tensor.name, *copied, *owner))
        return name, local_term(read.dims, carriers, read.tensor.format), bool(copied)

    def of(self, keep: Keep, op: Operator) -> tuple[str, Terms]:
        """The storage that a row's item refers to."""
        if keep.read is not None:
            tensor = op.reads[keep.read].tensor
            name, term, copy = self.seen(op.reads[keep.read], op)
        elif keep.source == "write":
            tensor = op.write
            name, term = f"{op.name}:write", result_term(op, self.sharding)
            copy = bool(view(tensor, tensor.dims, op, self.sharding).exchanged)
        else:
            made = space_term(op, self._dims(keep, op), self.sharding).stored(keep.format).scaled(keep.copies)
            return f"{op.name}:{keep.source} as {keep.format}", (made,)
        if keep.always_new or (keep.format and not self._same(keep.format, tensor.format)):
            made = term.renamed(dict(keep.renamed)).stored(keep.format or tensor.format).scaled(keep.copies)
            # One kernel for a group of operators converts their common input once.
            owner = self.inventory.group(op.name)[0]
            name = f"{owner}:{'new ' * keep.always_new}{tensor.name}"
            return f"{name} as {keep.format}" if keep.format else name, (made,)
        return (name, (term,)) if copy else self.own(tensor)

    @staticmethod
    def _dims(keep: Keep, op: Operator) -> tuple[str, ...]:
        if keep.source == "scalar":
            return ()
        return tuple(d for d in op.write.dims if d not in op.over) if keep.source == "rows" else names(keep.source)


def derive_saved(
    operators: Sequence[Operator],
    sharding: Sharding,
    inventory: Inventory,
    *,
    formats: Mapping[str, str],
    gather: Mapping[str, GatherPolicy] | None = None,
    regions: Sequence[Region] = (),
    early_stop: bool = True,
    shared_input: bool = True,
) -> Savings:
    """Storages kept for backward, and what is computed again.

    Parameters
    ----------
    formats
        Storage class -> format name, so that "kept as fp32" is the tensor itself where the tensor is fp32 already.
    regions
        Recompute regions; an operator belongs to at most one.
    early_stop
        Recompute up to the last operator that keeps anything (torch), or all (Megatron).
    shared_input
        As in ``derive_messages``: whether operators that gather one tensor share the copy.
    """
    ledger = _Ledger(operators, sharding, inventory, formats, gather or {}, shared_input)
    region_of = {name: region for region in regions for name in region.operators}
    dropped = {
        ledger.own(op.write)[0]
        for op in operators
        if op.name in region_of and region_of[op.name].discard and op.name not in region_of[op.name].keep_outputs
    }
    kept: dict[str, Saved] = {}
    again: dict[str, Saved] = {}

    def note(table: dict[str, Saved], storage: str, terms: Terms, op: Operator, per_step: bool = False) -> None:
        table.setdefault(storage, Saved(storage, terms, op.name, per_step))

    for op in operators:
        region = region_of.get(op.name)
        row = inventory.row(op.kernel)
        for read in op.reads if region else ():
            if read.tensor.role == "weight":
                continue
            producer = ledger.producer.get(read.tensor.name)
            if producer is None or region_of.get(producer.name) is not region:
                storage, terms = ledger.own(read.tensor)
                note(again if storage in dropped else kept, storage, terms, op)
        for keep in row.keeps:
            if not ledger.is_parameter(keep, op) and not (keep.for_weights and op.weights and not op.trained):
                storage, terms = ledger.of(keep, op)
                # What a kept operator made beside its result (a log-sum-exp) is kept with it.
                beside = region is not None and keep.read is None and op.name in region.keep_outputs
                inside = (region is not None and not beside) or storage.split("@")[0] in dropped
                note(again if inside else kept, storage, terms, op, keep.per_step)
        if region and op.name in region.keep_outputs:
            note(kept, *ledger.own(op.write), op)
    made_again = {k: v for k, v in again.items() if k not in kept}
    return Savings(
        tuple(kept.values()), tuple(made_again.values()), _recomputed(operators, regions, ledger, early_stop)
    )


def _recomputed(
    operators: Sequence[Operator], regions: Sequence[Region], ledger: _Ledger, early_stop: bool
) -> tuple[str, ...]:
    result: set[str] = set()
    for region in regions:
        inside = [op for op in operators if op.name in region.operators]
        run = inside[: _needed(inside, ledger.inventory)] if early_stop and not region.discard else inside
        result.update(op.name for op in run if op.name not in region.keep_outputs)
    return tuple(op.name for op in operators if op.name in result)


def _needed(inside: Sequence[Operator], inventory: Inventory) -> int:
    """How many operators run before the last kept tensor exists: up to the last one that keeps anything, without that
    one itself where it keeps no more than its inputs."""
    for position, op in reversed(list(enumerate(inside))):
        keeps = inventory.row(op.kernel).keeps
        if any(k.read is None for k in keeps):
            return position + 1
        if keeps:
            return position
    return 0


def weight_operands(
    operators: Sequence[Operator],
    sharding: Sharding,
    inventory: Inventory,
    *,
    formats: Mapping[str, str],
    gather: Mapping[str, GatherPolicy] | None = None,
    shared_input: bool = True,
) -> Terms:
    """What gradients of weights still need once those of inputs are there: the input of each product, and the gradient
    of what it wrote, in its format.

    References
    ----------
    Qi 2023, arXiv:2401.10241: 32 sbh bytes of a GPT layer in 16 bits.
    """
    ledger = _Ledger(operators, sharding, inventory, formats, gather or {}, shared_input)
    inputs: dict[str, Terms] = {}
    gradients: list[Term] = []
    for op in operators:
        if op.kind != "contract" or op.reads[1].tensor.role != "weight" or op.reads[1].tensor.frozen:
            continue
        gradients.append(result_term(op, sharding))
        for keep in inventory.row(op.kernel).keeps:
            if keep.read == 0:
                inputs.setdefault(*ledger.of(keep, op))
    return (*(t for terms in inputs.values() for t in terms), *gradients)


def saved_terms(saved: Sequence[Saved], *, per_step: bool = False) -> tuple[Term, ...]:
    """The terms of the storages that exist once a micro-batch (or once a step)."""
    return tuple(t for s in saved if s.per_step == per_step for t in s.terms)
