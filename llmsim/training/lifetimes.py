"""What one layer of a kind keeps alive where every tensor is freed as soon as nobody needs it: moments of its backward
pass, in bytes on one rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..core.liveness import Moment, derive_moments
from ..core.numeric import Number, ceil_div, maximum
from ..core.parameters import Parameter
from ..core.saved import saved_terms
from ..core.terms import Sizes
from ..core.transients import hold_terms
from ..layers.base import LayerKind
from ..plans.optimizer import get_optimizer, moment_bytes
from ..timing.columns import Columns, kind_sizes
from ..timing.structure import derivation, layer_terms
from .problem import Problem
from .structure import TrainingStructure, activation_terms


@dataclass(frozen=True)
class Alive:
    """Bytes alive while one operator of a layer runs backward, see :class:`~llmsim.core.liveness.Moment`."""

    kept: Number
    again: Number
    flowing: Number
    gradients: Number


@dataclass(frozen=True)
class KindLifetimes:
    """One layer of a kind on one rank, bytes.

    Attributes
    ----------
    plain, recomputing
        The moments of its backward pass where it recomputes nothing, and where it recomputes.
    kept, kept_recomputing
        What stays alive until then.
    gradients
        Of its trained parameters.
    looped
        The most that an update tensor by tensor makes besides.
    copies
        Of weights that forward makes once a step and keeps until its end, even in a layer that recomputes: those of
        plain products, which autocast remembers.
    loss
        New tensors while its loss runs forward.
    """

    plain: tuple[Alive, ...]
    recomputing: tuple[Alive, ...]
    kept: Number
    kept_recomputing: Number
    gradients: Number
    looped: Number
    copies: Number
    loss: Number


def kind_lifetimes(problem: Problem, kind: LayerKind, columns: Columns, *, recomputes: bool) -> KindLifetimes:
    """What one layer of a kind keeps alive."""
    structure, sharded = problem.structure, problem.fully_sharded
    terms, sizes = activation_terms(kind, structure, recomputes=recomputes), kind_sizes(kind, columns, structure)
    if sharded:  # whole gradients have the format of whole parameters
        sizes = Sizes(sizes.dims, sizes.degrees, {**structure.formats(), "gradient": structure.formats()["activation"]})
    plain, recomputing = _moments(kind, structure, recomputes=recomputes, sharded=sharded)
    each = moment_bytes(structure.software.training.formats, structure.recipe.compute)
    losses = [op for op in kind.operators if op.kind == "loss"]
    inventory, sharding = structure.inventory, structure.sharding
    trained = [p for p in layer_terms(kind, structure).parameters if not p.frozen]
    return KindLifetimes(
        tuple(_evaluated(m, sizes) for m in plain),
        tuple(_evaluated(m, sizes) for m in recomputing),
        sizes.size(t for saved in terms.plain.kept for t in saved.terms),
        sizes.size(t for saved in terms.recomputing.kept for t in saved.terms),
        sizes.size(p.local.stored("gradient") for p in trained),
        _looped([each * _updated(p, sizes, columns, sharded=sharded) for p in trained], problem.optimizer),
        sizes.size(t for t in saved_terms(terms.plain.kept, per_step=True) if "experts" not in dict(t.factors)),
        sizes.size(t for op in losses for t in hold_terms(op, inventory.row(op.kernel).forward_holds, sharding)),
    )


def _updated(parameter: Parameter, sizes: Sizes, columns: Columns, *, sharded: bool) -> Number:
    """Elements of a tensor that a rank updates."""
    if not sharded:
        return sizes.elements(parameter.local)
    ranks = columns.edp if parameter.expert else columns.shard
    return ceil_div(sizes.elements(parameter.leading), ranks) * sizes.elements(parameter.rest)


def _looped(sizes_bytes: Sequence[Number], optimizer: str) -> Number:
    """The most beside the states in a loop over tensors: an operator's input and result, while the result of the tensor
    before is still referred to."""
    count = get_optimizer(optimizer).matrix.temporaries
    pairs = pairwise([0, *sizes_bytes])
    return maximum(0, *(count * before + (count + 1) * own for before, own in pairs)) if count else 0


def _moments(
    kind: LayerKind, structure: TrainingStructure, *, recomputes: bool, sharded: bool
) -> tuple[tuple[Moment, ...], ...]:
    """The moments without and with recomputing, derived once."""
    key = ("moments", derivation(structure), structure.recompute if recomputes else None, sharded)
    found: tuple[tuple[Moment, ...], ...] | None = kind.derived.get(key)
    if found is None:
        terms = activation_terms(kind, structure, recomputes=recomputes)
        formats = structure.format_names()
        if sharded:
            formats["gradient"] = formats["activation"]
        found = kind.derived[key] = tuple(
            derive_moments(kind.operators, structure.sharding, structure.inventory, savings, formats=formats)
            for savings in (terms.plain, terms.recomputing)
        )
    return found


def _evaluated(moment: Moment, sizes: Sizes) -> Alive:
    parts = (moment.kept, moment.again, moment.flowing, moment.gradients)
    return Alive(*(sizes.size(terms) for terms in parts))
