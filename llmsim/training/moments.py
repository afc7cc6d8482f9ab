"""The peak of a stage that frees what nobody needs any more and allocates gradients as they are made: eager torch.

The candidates are the loss, the backward passes of the last and of the first layer, those of the ends, and the update.
Between the first and the last layer kept tensors go and gradients come, layer by layer alike, so that one of the two is
the largest. A stage with several kinds of layers takes each of them as its first and as its last one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..core.liveness import Moment, derive_moments
from ..core.saved import saved_terms
from ..core.shim import Number, maximum, minimum, total, where
from ..core.terms import Sizes
from ..core.transients import hold_terms
from ..layers.base import LayerKind
from ..plans.optimizer import get_optimizer, moment_bytes
from .columns import Columns, kind_sizes
from .prepare import Problem, recomputed_layers, state_columns
from .stages import Stage, body_kinds, model_kinds
from .structure import Structure, derivation, kind_terms

Parts = dict[str, Number]
_CACHE: dict[tuple[object, ...], tuple[object, tuple[tuple[Moment, ...], ...]]] = {}


@dataclass(frozen=True)
class Alive:
    """Bytes alive while one operator of a layer runs backward, see :class:`~llmsim.core.liveness.Moment`."""

    kept: Number
    again: Number
    flowing: Number
    gradients: Number


@dataclass(frozen=True)
class KindLife:
    """One layer of a kind on one rank, bytes.

    Attributes
    ----------
    plain, recomputing
        The moments of its backward pass where it recomputes nothing, and where it recomputes.
    kept, kept_recomputing
        What stays alive until then.
    gradients
        Of its parameters.
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


def kind_life(problem: Problem, kind: LayerKind, columns: Columns, *, recomputes: bool) -> KindLife:
    """What one layer of a kind keeps alive."""
    structure = problem.structure
    terms, sizes = kind_terms(kind, structure, recomputes=recomputes), kind_sizes(kind, columns, structure)
    plain, recomputing = _moments(kind, structure, recomputes=recomputes)
    each = moment_bytes(structure.software.formats, structure.recipe.compute)
    losses = [op for op in kind.operators if op.kind == "loss"]
    inventory, sharding = structure.inventory, structure.sharding
    return KindLife(
        tuple(_evaluated(m, sizes) for m in plain),
        tuple(_evaluated(m, sizes) for m in recomputing),
        sizes.size(t for saved in terms.plain.kept for t in saved.terms),
        sizes.size(t for saved in terms.recomputing.kept for t in saved.terms),
        sizes.size(p.local.stored("gradient") for p in terms.parameters),
        _looped([sizes.elements(p.local) * each for p in terms.parameters], problem.optimizer),
        sizes.size(t for t in saved_terms(terms.plain.kept, per_step=True) if "experts" not in dict(t.factors)),
        sizes.size(t for op in losses for t in hold_terms(op, inventory.row(op.kernel).forward_holds, sharding)),
    )


def _moments(kind: LayerKind, structure: Structure, *, recomputes: bool) -> tuple[tuple[Moment, ...], ...]:
    """The moments without and with recomputing, derived once."""
    key = (id(kind.operators), derivation(structure), structure.recompute if recomputes else None)
    found = _CACHE.get(key)
    if found is None:
        terms = kind_terms(kind, structure, recomputes=recomputes)
        formats = {name: f.name for name, f in structure.formats().items()}
        both = tuple(
            derive_moments(kind.operators, structure.sharding, structure.inventory, savings, formats=formats)
            for savings in (terms.plain, terms.recomputing)
        )
        found = _CACHE[key] = (kind.operators, both)
    return found[1]


def _evaluated(moment: Moment, sizes: Sizes) -> Alive:
    parts = (moment.kept, moment.again, moment.flowing, moment.gradients)
    return Alive(*(sizes.size(terms) for terms in parts))


def stage_peak(problem: Problem, columns: Columns, stage: Stage, states: Mapping[str, Number], flying: Number) -> Parts:
    """The parts of memory at the largest moment of a stage.

    Parameters
    ----------
    states
        Model states, of which parameters and optimizer are there throughout.
    flying
        Micro-batches in flight.
    """
    kinds = model_kinds(problem.architecture)
    body = body_kinds(problem.architecture)
    lives = [kind_life(problem, k, columns, recomputes=i < body) for i, k in enumerate(kinds)]
    again = recomputed_layers(problem, stage.counts)
    kept = [
        (n - r) * life.kept + r * life.kept_recomputing for life, n, r in zip(lives, stage.counts, again, strict=True)
    ]
    gradients = [n * life.gradients for life, n in zip(lives, stage.counts, strict=True)]
    # Micro-batches before this one left theirs behind, to which each new one is added when it is whole.
    earlier = where(columns.micro_batches > 1, total(gradients), 0)
    waiting = (flying - 1) * total(kept[: body + 1])
    peak = _Peak(states, waiting, earlier)
    for i, (life, n, some) in enumerate(zip(lives, stage.counts, again, strict=True)):
        here = minimum(n, 1)
        before, behind = total(kept[: body + 1]), total(kept[body + 1 :])
        for moments, own, present in (
            (life.plain, life.kept, here * minimum(n - some, 1)),
            (life.recomputing, life.kept_recomputing, minimum(some, 1)),
        ):
            for m in moments:
                if i > body:  # the ends behind the body: everything before them is still kept
                    made = total(gradients[body + 1 :]) - life.gradients
                    peak.offer(replace(m, kept=0), before, behind - own + m.kept, made, present)
                elif i == body:
                    peak.offer(m, 0, 0, total(gradients) - life.gradients, present)
                else:
                    peak.offer(m, before - own, 0, total(gradients[body + 1 :]), present)
                    first = total(gradients) - gradients[body] - life.gradients
                    peak.offer(m, kept[body], 0, first, present)
    beside = total(life.loss * n + life.copies * r for life, n, r in zip(lives, stage.counts, again, strict=True))
    peak.offer(Alive(0, 0, beside, 0), total(kept[: body + 1]), total(kept[body + 1 :]), 0, 1)
    temporary = _update_bytes(problem, columns, stage, lives)
    peak.offer(Alive(0, 0, temporary, 0), -waiting, 0, total(gradients) - earlier, 1)
    return peak.parts


def _update_bytes(problem: Problem, columns: Columns, stage: Stage, lives: Sequence[KindLife]) -> Number:
    """Temporaries of the update."""
    software = problem.structure.software
    rule = get_optimizer(problem.optimizer).matrix
    if software.update == "fused" or not rule.temporaries:
        return 0
    if software.update == "loop":
        return maximum(0, *(life.looped * minimum(n, 1) for life, n in zip(lives, stage.counts, strict=True)))
    each = moment_bytes(software.formats, problem.structure.recipe.compute)
    columns = state_columns(problem, columns)
    elements: Number = 0
    for kind, n in zip(model_kinds(problem.architecture), stage.counts, strict=True):
        sizes = kind_sizes(kind, columns, problem.structure)
        terms = kind_terms(kind, problem.structure)
        elements = elements + n * sizes.count(p.local for p in terms.parameters)
    return rule.temporaries * each * elements


def _looped(sizes_bytes: Sequence[Number], optimizer: str) -> Number:
    """The most beside the states in a loop over tensors: an operator's input and result, while the result of the tensor
    before is still referred to."""
    count = get_optimizer(optimizer).matrix.temporaries
    pairs = zip([0, *sizes_bytes[:-1]], sizes_bytes, strict=True)
    return maximum(0, *(count * before + (count + 1) * own for before, own in pairs)) if count else 0


class _Peak:
    """The largest moment so far."""

    def __init__(self, states: Mapping[str, Number], waiting: Number, earlier: Number):
        self._states, self._waiting, self._earlier = states, waiting, earlier
        self._most: Number = -1
        self.parts: Parts = {}

    def offer(self, moment: Alive, body: Number, ends: Number, gradients: Number, present: Number) -> None:
        """Take a moment if it is larger; ``body`` and ``ends`` are kept besides, ``gradients`` are there already.

        ``present`` is 0 where the stage has no such layer.
        """
        found = {
            **self._states,
            "gradients": self._earlier + gradients + moment.gradients,
            "activations": body + moment.kept + self._waiting,
            "head": ends,
            "recomputed": moment.again,
            "transients": moment.flowing,
        }
        size = where(present > 0, total(found.values()), 0)
        if not self.parts:
            self._most, self.parts = size, found
            return
        larger = size > self._most
        self._most = maximum(self._most, size)
        self.parts = {name: where(larger, value, self.parts[name]) for name, value in found.items()}
