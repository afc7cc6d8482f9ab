"""What a layer keeps of a sequence from one pass to the next, as terms: keys and values of each token, or the latent
that they expand from, and what recurrences hand on.

References
----------
Windows: Beltagy 2020, arXiv:2004.05150; latent: DeepSeek-V2, arXiv:2405.04434; states: Dao 2024, arXiv:2405.21060.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .layout import home_term
from .operators import Operator, Tensor
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
        Kept of each position, over ``context``: of all of them, or of those in the layer's window.
    selected
        Kept of every position, whatever the window, so that an indexer can select from it.
    sequences
        Kept of a sequence, whatever its length.
    """

    tokens: Terms
    selected: Terms
    sequences: Terms


def derive_state(operators: Sequence[Operator], sharding: Sharding) -> State:
    """The state of a layer: what its operators mark as state, the keys that an indexer reads, what scans hand from
    chunk to chunk, and the inputs that a short convolution still needs."""
    made = {op.write.name: op for op in operators}
    kept = {name for name, op in made.items() if op.write.state}
    for name in list(kept):  # what a kept tensor was made of is not kept too
        kept -= _ancestors(made, name)
    selects = [op for op in operators if op.kind == "index_select"]
    return State(
        tuple(_positioned(op.write, sharding, CACHE) for op in operators if op.write.name in kept),
        tuple(_positioned(op.reads[1].tensor, sharding, INDEX_CACHE) for op in selects),
        tuple(term for op in operators for term in _of_sequence(op, sharding)),
    )


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


def _positioned(tensor: Tensor, sharding: Sharding, format: str) -> Term:
    return home_term(tensor, sharding, format).renamed({"sequence": "context", "steps": "context"})


def _of_sequence(op: Operator, sharding: Sharding) -> Terms:
    if op.kind == "convolution":
        taps = home_term(op.write, sharding, CACHE).without(_OF_POSITIONS)
        return (Term((*taps.factors, ("conv_taps", ())), CACHE),)
    # An element-by-element recurrence keeps the space of its products without the steps.
    dims = op.products[0].dims if op.kind == "selective_scan" else op.states
    if not dims:
        return ()
    return (home_term(Tensor(op.name, _lasting(dims)), sharding, RECURRENT_STATE),)


def _lasting(dims: Iterable[str]) -> tuple[str, ...]:
    return tuple(d for d in dims if d not in _OF_POSITIONS)
