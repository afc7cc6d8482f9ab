"""What a layer keeps of a sequence from one pass to the next, as terms: keys and values of each token, or the latent
that they expand from, and what recurrences hand on; and the operators of a pass that finds such a state.

References
----------
Windows: Beltagy 2020, arXiv:2004.05150; latent: DeepSeek-V2, arXiv:2405.04434; states: Dao 2024, arXiv:2405.21060.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from .layout import home_term
from .operator_kinds import OPERATOR_KINDS, operator_kind
from .operators import Operator, Read, Tensor, renamed
from .sharding import Sharding
from .terms import Term, Terms

CACHE, INDEX_CACHE, RECURRENT_STATE = "cache", "index_cache", "recurrent_state"
"""Storage classes of keys, values and latents; of the keys of an indexer; of the states of recurrences."""

_OF_POSITIONS = frozenset({"sequence", "steps", "chunks", "context", "index_context", "memory"})


@dataclass(frozen=True, slots=True)
class State:
    """The state of one layer on one rank.

    Attributes
    ----------
    tokens
        Kept of each position, over ``cache_span``: of all of them, or of those in the layer's window.
    selected
        Kept of every position, whatever the window, so that an indexer can select from it.
    encoded
        Kept of each position of an encoder's output, over ``memory``: as large after every token.
    sequences
        Kept of a sequence, whatever its length.
    """

    tokens: Terms = ()
    selected: Terms = ()
    encoded: Terms = ()
    sequences: Terms = ()


def derive_state(operators: Sequence[Operator], sharding: Sharding) -> State:
    """The state of a layer: what its operators mark as state, the keys that an indexer reads, what scans hand from
    chunk to chunk, and the inputs that a short convolution still needs."""
    made = _makers(operators)
    kept = _kept(operators, made)
    encoded = {read.tensor.name for op in operators for read in op.reads if _looks_at(read) == "memory"}
    selected = [_selected(op) for op in operators if selects(op)]
    return State(
        tuple(_positioned(made[n].write, sharding, CACHE, "cache_span") for n in kept if n not in encoded),
        tuple(_positioned(read.tensor, sharding, INDEX_CACHE, "index_context") for read in selected),
        tuple(_positioned(made[n].write, sharding, CACHE, "memory") for n in kept if n in encoded),
        tuple(term for op in operators for term in _of_sequence(op, sharding)),
    )


def selects(operator: Operator) -> bool:
    """Whether an operator selects among all positions, whose keys are then kept whatever the window."""
    kind = OPERATOR_KINDS.get(operator.kind)
    return kind is not None and kind.selects_from is not None


def over_cache(operators: Sequence[Operator]) -> tuple[Operator, ...]:
    """The operators of a pass whose layer keeps a state.

    What lies between a kept tensor and the operator that looks at all positions is computed of all of them, cached ones
    included: the keys and values that expand from a latent. What an encoder's output alone decides is computed over
    ``encoded`` positions, which are as many as the encoder's in the first pass and none in those after it.
    """
    made = _makers(operators)
    kept = {*_kept(operators, made), *(_selected(op).tensor.name for op in operators if selects(op))}
    instead: dict[str, dict[str, str]] = {}
    for op in operators:
        for read in op.reads:
            seen = _looks_at(read)
            if seen == "memory":
                makers = [read.tensor.name, *_ancestors(made, read.tensor.name)]
                instead |= {n: {"sequence": "encoded"} for n in makers}
            elif seen is not None and read.tensor.name not in kept:
                instead |= {n: {"sequence": seen} for n in _expanded(made, read.tensor.name, kept) or ()}
    return tuple(_renamed(op, instead) for op in operators) if instead else tuple(operators)


def _makers(operators: Iterable[Operator]) -> dict[str, Operator]:
    return {op.write.name: op for op in operators}


def _kept(operators: Iterable[Operator], made: Mapping[str, Operator]) -> list[str]:
    """Names of the tensors that are marked as state, without those that others of them were made of."""
    marked = [op.write.name for op in operators if op.write.state]
    before = {name for last in marked for name in _ancestors(made, last)}
    return [name for name in marked if name not in before]


def _ancestors(made: Mapping[str, Operator], name: str) -> set[str]:
    """Names of all tensors that one was made of."""
    found: set[str] = set()
    ahead = [name]
    while ahead:
        op = made.get(ahead.pop())
        new = {read.tensor.name for read in op.reads} - found if op else set()
        found |= new
        ahead += new
    return found


def _looks_at(read: Read) -> str | None:
    """What an operator calls the positions of a tensor that it reads as others than those that ask."""
    pairs = zip(read.tensor.dims, read.dims, strict=True)
    own_names, others = ("sequence", "encoded"), ("context", "index_context", "memory")
    return next((seen for own, seen in pairs if own in own_names and seen in others), None)


def _expanded(made: Mapping[str, Operator], name: str, kept: Iterable[str]) -> set[str] | None:
    """Names of the tensors from which on a tensor follows from kept ones alone, itself included; None where it does
    not."""
    if name in kept:
        return set()
    op = made.get(name)
    inputs = [read.tensor.name for read in op.reads if read.tensor.role != "weight"] if op else []
    parts = [_expanded(made, own, kept) for own in inputs]
    if not parts or any(part is None for part in parts):
        return None
    return {name}.union(*(part for part in parts if part is not None))


def _renamed(op: Operator, instead: Mapping[str, Mapping[str, str]]) -> Operator:
    """The operator with its positions and those of its reads called what they are in a pass over a cache."""
    change = instead.get(op.write.name, {})

    def read(r: Read) -> Read:
        tensor = _of_positions(r.tensor, instead[r.tensor.name]) if r.tensor.name in instead else r.tensor
        return Read(tensor, tuple(change.get(d, d) for d in r.dims))

    return replace(op, reads=tuple(map(read, op.reads)), write=_of_positions(op.write, change))


def _of_positions(tensor: Tensor, change: Mapping[str, str]) -> Tensor:
    return replace(tensor, dims=renamed(tensor, **change).dims)


def _selected(op: Operator) -> Read:
    """The read of an operator that selects from it."""
    place = operator_kind(op.kind).selects_from
    assert place is not None
    return op.reads[place]


def _positioned(tensor: Tensor, sharding: Sharding, format: str, positions: str) -> Term:
    return home_term(tensor, sharding, format).renamed(dict.fromkeys(("sequence", "steps", "encoded"), positions))


def _of_sequence(op: Operator, sharding: Sharding) -> Iterator[Term]:
    """What an operator hands to the next pass."""
    hands_on = operator_kind(op.kind).hands_on
    if hands_on == "taps":
        taps = home_term(op.write, sharding, CACHE).without(_OF_POSITIONS)
        yield Term((*taps.factors, ("conv_taps", ())), CACHE)
    # An element-by-element recurrence keeps the space of its products without the steps.
    elif dims := op.products[0].dims if hands_on == "product" else op.states:
        yield home_term(Tensor(op.name, _lasting(dims)), sharding, RECURRENT_STATE)


def _lasting(dims: Iterable[str]) -> tuple[str, ...]:
    return tuple(d for d in dims if d not in _OF_POSITIONS)
