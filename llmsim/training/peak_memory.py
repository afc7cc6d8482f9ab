"""The peak of a stage that frees what nobody needs any more and allocates gradients as they are made: eager torch.

The candidates are the loss, the backward passes of the ends, those of the last two and of the first two layers, the
reduction of gradients, and the update. In between, kept tensors go and gradients come, layer by layer alike, so that
one end of the row is the largest. A stage with several kinds of layers takes each of them for its first and its last.

References
----------
Fully sharded: FSDP2 (``torch.distributed.fsdp.fully_shard``) gathers a layer while the one before it in backward still
works, keeps the flat input of a reduction until the next one, and holds the root (both ends) whole from the forward
pass to its own reduction, the last of a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ..architecture import body_kinds, model_kinds
from ..core.numeric import Number, maximum, minimum, total, where
from ..plans.optimizer import get_optimizer, moment_bytes
from ..timing.columns import Columns
from .build_load import kind_parameters, recomputed_layers, state_columns
from .lifetimes import Alive, KindLifetimes, kind_lifetimes
from .problem import Problem
from .sharding import LocalParameters
from .stages import Stage

Parts = dict[str, Number]


@dataclass(frozen=True)
class Units:
    """Units of full sharding on one rank, bytes; zeros where nothing is sharded.

    Attributes
    ----------
    own
        Whole parameters of one layer of each kind.
    scattered
        The flat input of the reduction of its gradients.
    root
        Whole parameters of both ends.
    largest, largest_scattered
        Of the body's kinds.
    """

    own: Sequence[Number]
    scattered: Sequence[Number]
    root: Number
    largest: Number
    largest_scattered: Number


@dataclass(frozen=True)
class _Row:
    """A stage as numbers: by kind, layers and how many of them recompute, what they keep, gradients that stay."""

    counts: Sequence[Number]
    again: Sequence[Number]
    kept: Sequence[Number]
    gradients: Sequence[Number]
    body: int

    @property
    def layers(self) -> Number:
        """Of the body."""
        return total(self.counts[: self.body])

    def ends(self, values: Sequence[Number]) -> Number:
        """A sum over what stands behind the body."""
        return total(values[self.body + 1 :])

    def before(self, values: Sequence[Number]) -> Number:
        """A sum over the body and what stands before it."""
        return total(values[: self.body + 1])


def stage_peak(problem: Problem, columns: Columns, stage: Stage, states: Mapping[str, Number], flying: Number) -> Parts:
    """The parts of memory at the largest moment of a stage.

    Parameters
    ----------
    states
        Model states, of which parameters and optimizer are there throughout.
    flying
        Micro-batches in flight.
    """
    kinds, body = model_kinds(problem.architecture), body_kinds(problem.architecture)
    lives = [kind_lifetimes(problem, k, columns, recomputes=i < body) for i, k in enumerate(kinds)]
    parameters = kind_parameters(problem, columns)
    again = recomputed_layers(problem, stage.counts, stage.share)
    counts = stage.counts
    kept = [(n - r) * life.kept + r * life.kept_recomputing for life, n, r in zip(lives, counts, again, strict=True)]
    final = _gradient_bytes(problem, parameters)
    row = _Row(counts, again, kept, [n * g for n, g in zip(counts, final, strict=True)], body)
    units = _units(problem, columns, parameters, counts)
    # Micro-batches before this one left theirs behind, to which each new one is added when it is whole.
    earlier = where(columns.micro_batches > 1, total(row.gradients), 0)
    waiting = (flying - 1) * row.before(kept)
    peak = _Peak(states, waiting, earlier)
    _offer_ends(peak, row, lives, units, problem.architecture.tied)
    _offer_body(peak, row, lives, units, final)
    if problem.fully_sharded:
        _offer_reductions(peak, row, lives, units, final)
    beside = total(life.loss * n + life.copies * r for life, n, r in zip(lives, counts, again, strict=True))
    peak.offer(Alive(0, 0, beside, 0), row.before(kept), row.ends(kept), 0, units.root)
    temporary = _update_bytes(problem, stage, lives, parameters)
    peak.offer(Alive(0, 0, temporary, 0), -waiting, 0, total(row.gradients) - earlier, 0)
    return peak.parts


def _gradient_bytes(problem: Problem, parameters: Sequence[LocalParameters]) -> list[Number]:
    """Of the gradients of one layer of each kind that a rank keeps until the update."""
    format = problem.structure.formats()["gradient"]
    if problem.fully_sharded:
        return [format.bytes(p.dense_shard + p.expert_shard) for p in parameters]
    return [format.bytes(p.dense + p.expert) for p in parameters]


def _units(
    problem: Problem, columns: Columns, parameters: Sequence[LocalParameters], counts: Sequence[Number]
) -> Units:
    nothing = [0] * len(parameters)
    if not problem.fully_sharded:
        return Units(nothing, nothing, 0, 0, 0)
    formats, body = problem.structure.formats(), body_kinds(problem.architecture)
    columns = state_columns(problem, columns)
    trained = [p.dense_shard * columns.shard + p.expert_shard * columns.edp for p in parameters]
    frozen = [p.frozen.dense_shard * columns.shard + p.frozen.expert_shard * columns.edp for p in parameters]
    own = [formats["activation"].bytes(a + b) for a, b in zip(trained, frozen, strict=True)]
    scattered = [formats["reduce"].bytes(n) for n in trained]
    present = [minimum(n, 1) for n in counts]
    return Units(
        own,
        scattered,
        total(a * n for a, n in zip(own[body:], counts[body:], strict=True)),
        maximum(0, *(a * n for a, n in zip(own[:body], present, strict=False))),
        maximum(0, *(a * n for a, n in zip(scattered[:body], present, strict=False))),
    )


def _cases(row: _Row, lives: Sequence[KindLifetimes], i: int) -> Iterator[tuple[Alive, Number, Number]]:
    """(moment, what its layer keeps until then, whether the stage has such a layer) of one kind."""
    life, n, some = lives[i], row.counts[i], row.again[i]
    for moments, own, present in (
        (life.plain, life.kept, minimum(n - some, 1)),
        (life.recomputing, life.kept_recomputing, minimum(some, 1)),
    ):
        for moment in moments:
            yield moment, own, present


def _offer_ends(peak: _Peak, row: _Row, lives: Sequence[KindLifetimes], units: Units, tied: bool) -> None:
    """Backward of the head, while everything before is still kept; of the embedding, when everything behind is done."""
    after = [n * life.gradients for n, life in zip(row.counts, lives, strict=True)]
    for i in range(row.body, len(lives)):
        for m, own, present in _cases(row, lives, i):
            if i > row.body:
                kept = row.ends(row.kept) - own + m.kept
                made = row.ends(after) - lives[i].gradients
                peak.offer(replace(m, kept=0), row.before(row.kept), kept, made, units.root, present)
            else:
                made = total(row.gradients[: row.body]) + row.ends(after)
                behind = units.largest_scattered * minimum(row.layers, 1)
                peak.offer(m, 0, 0, made, units.root + behind, present)


def _offer_body(peak: _Peak, row: _Row, lives: Sequence[KindLifetimes], units: Units, final: Sequence[Number]) -> None:
    """Backward of the last two and of the first two layers."""
    made = row.ends([n * life.gradients for n, life in zip(row.counts, lives, strict=True)])
    inside = total(row.gradients[: row.body])
    several, many = minimum(maximum(row.layers - 1, 0), 1), minimum(maximum(row.layers - 2, 0), 1)
    for i in range(row.body):
        here = units.root + units.own[i]
        for m, own, present in _cases(row, lives, i):
            whole = row.before(row.kept)
            places = (
                # kept before, gradients behind, units gathered ahead and reduced behind, whether there is such a layer
                (whole - own, 0, several, 0, 1),
                (whole - 2 * own, final[i], many, 1, several),
                (row.kept[row.body] + own, inside - 2 * final[i], 1, many, several),
                (row.kept[row.body], inside - final[i], 0, several, 1),
            )
            for before, gradients, ahead, behind, there in places:
                beside = here + ahead * units.largest + behind * units.largest_scattered
                peak.offer(m, before, 0, made + gradients, beside, present * there)


def _offer_reductions(
    peak: _Peak, row: _Row, lives: Sequence[KindLifetimes], units: Units, final: Sequence[Number]
) -> None:
    """Whole gradients and the flat copy of them that is reduced: of the last layer, and of the root at the end."""
    ends = row.ends([n * life.gradients for n, life in zip(row.counts, lives, strict=True)])
    for i in range(row.body):
        for m, own, present in _cases(row, lives, i):
            reduced = replace(m, kept=0, again=0, gradients=lives[i].gradients)
            beside = units.root + units.largest + units.scattered[i]
            peak.offer(reduced, row.before(row.kept) - own, 0, ends, beside, present)
    root = total(n * life.gradients for n, life in zip(row.counts[row.body :], lives[row.body :], strict=True))
    flat = total(n * s for n, s in zip(row.counts[row.body :], units.scattered[row.body :], strict=True))
    peak.offer(Alive(0, 0, 0, root), 0, 0, total(row.gradients[: row.body]), flat)


def _update_bytes(
    problem: Problem, stage: Stage, lives: Sequence[KindLifetimes], parameters: Sequence[LocalParameters]
) -> Number:
    """Temporaries of the update."""
    software = problem.structure.software
    count = get_optimizer(problem.optimizer).matrix.temporaries
    if software.training.update == "fused" or not count:
        return 0
    if software.training.update == "loop":
        return maximum(0, *(life.looped * minimum(n, 1) for life, n in zip(lives, stage.counts, strict=True)))
    each = moment_bytes(software.training.formats, problem.structure.recipe.compute)
    sharded = problem.fully_sharded
    local = [p.dense_shard + p.expert_shard if sharded else p.dense + p.expert for p in parameters]
    return count * each * total(p * n for p, n in zip(local, stage.counts, strict=True))


class _Peak:
    """The largest moment so far."""

    def __init__(self, states: Mapping[str, Number], waiting: Number, earlier: Number):
        self._states, self._waiting, self._earlier = states, waiting, earlier
        self._most: Number = -1
        self.parts: Parts = {}

    def offer(
        self, moment: Alive, body: Number, ends: Number, gradients: Number, units: Number, present: Number = 1
    ) -> None:
        """Take a moment if it is larger.

        Parameters
        ----------
        body, ends
            Kept besides.
        gradients
            There already.
        units
            Whole parameters and flat buffers.
        present
            0 where the stage has no such layer.
        """
        found = {
            **self._states,
            "gradients": self._earlier + gradients + moment.gradients,
            "activations": body + moment.kept + self._waiting,
            "head": ends,
            "recomputed": moment.again,
            "transients": moment.flowing,
            "unsharded": units,
        }
        size = where(present > 0, total(found.values()), 0)
        if not self.parts:
            self._most, self.parts = size, found
            return
        larger = size > self._most
        self._most = maximum(self._most, size)
        self.parts = {name: where(larger, value, self.parts[name]) for name, value in found.items()}
