"""Memory of a training step on each stage: what is allocated, reserved and seen by the driver, and when the peak is.

References
----------
Model states: Rajbhandari 2019, arXiv:1910.02054; activations in flight: Narayanan 2021, arXiv:2104.04473, and
Korthikanti 2022, arXiv:2205.05198; operands of weight gradients: Qi 2023, arXiv:2401.10241. DualPipe's two copies of
the parameters: DeepSeek-V3, arXiv:2412.19437, and the table beside its published code, which counts parameters twice
and leaves the rest to the trainer. Here each copy has its accumulated gradient, since both compute one, and optimizer
states are shared among the ranks of both copies as among any that hold the same parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.saved import saved_terms
from ..core.shim import Number, maximum, minimum, total, where
from ..core.terms import Sizes
from ..hardware.cluster import Cluster
from ..hardware.software import Software
from .closed_forms import in_flight
from .columns import Columns, distinct_rows, kind_sizes
from .constants import StepConstants
from .moments import stage_peak
from .orders import held
from .prepare import Prepared, Problem, recomputed_layers, state_columns
from .sharding import LocalParameters, updated_shares
from .stages import Stage, body_kinds, model_kinds
from .structure import KindTerms, kind_terms
from .update import stage_update, updated_elements

MEMORY_PARTS = (
    "parameters", "gradients", "optimizer", "activations", "head", "recomputed", "transients", "unsharded", "workspace",
)  # fmt: skip
"""Parts of allocated memory: model states; activations in flight, with operands that wait for the gradients of weights
where a schedule computes these later; those of the head and its loss; what a layer in
backward makes again, and the gradients inside it; whole parameters and gradients of the units at work under full
sharding; kernel workspaces."""


def memory_limit(cluster: Cluster, software: Software) -> float:
    """What a plan may use of a device, bytes: its memory less the headroom."""
    return cluster.profile.memory_bytes.value * (1 - software.memory.headroom.value)


@dataclass(frozen=True)
class KindMemory:
    """Activations of one layer and one micro-batch, bytes.

    Attributes
    ----------
    plain, recomputing
        Kept from forward to backward by a layer that recomputes nothing, and by one that recomputes.
    again
        Made anew while a recomputing layer's backward runs.
    per_step
        Kept once a step, however many micro-batches there are.
    transients
        The most that is alive beside that while one of its kernels runs backward.
    holds
        New tensors that its kernels say are alive while they run backward (a loss and its gradient in 32 bits).
    operands
        Kept between the gradients of inputs and those of weights.
    """

    plain: Number
    recomputing: Number
    again: Number
    per_step: Number
    transients: Number
    holds: Number
    operands: Number = 0


def kind_memory(terms: KindTerms, sizes: Sizes) -> KindMemory:
    """What one layer keeps."""
    return KindMemory(
        sizes.size(saved_terms(terms.plain.kept)),
        sizes.size(saved_terms(terms.recomputing.kept)),
        sizes.size(saved_terms(terms.recomputing.again)),
        sizes.size(saved_terms(terms.plain.kept, per_step=True)),
        maximum(0, *(sizes.size(t) for t in terms.transients)),
        sizes.size(terms.holds),
        sizes.size(terms.operands),
    )


@dataclass
class StageMemory:
    """Memory of a stage at its peak (of a run of equal ones: of the one that holds the most).

    Attributes
    ----------
    parts
        Part -> bytes allocated.
    reserved_bytes, device_bytes
        What the caching allocator holds, and what the driver sees.
    """

    parts: dict[str, Number]
    reserved_bytes: Number
    device_bytes: Number

    @property
    def allocated_bytes(self) -> Number:
        """Sum of the parts."""
        return total(self.parts.values())

    @property
    def owner(self) -> str:
        """The largest part (of a single plan)."""
        return max(self.parts, key=lambda name: float(self.parts[name]))

    @property
    def moment(self) -> str:
        """When the peak is (of a single plan): at the loss where the head holds something, else in backward."""
        return "at the loss" if float(self.parts["head"]) > 0 else "start of the first backward pass"


def model_memory(problem: Problem, columns: Columns) -> list[KindMemory]:
    """What one layer of each kind keeps."""
    body = body_kinds(problem.architecture)
    return [
        kind_memory(kind_terms(k, problem.structure, recomputes=i < body), kind_sizes(k, columns, problem.structure))
        for i, k in enumerate(model_kinds(problem.architecture))
    ]


def stage_memory(problem: Problem, prepared: Prepared, constants: StepConstants) -> list[StageMemory]:
    """Memory of each run of stages."""
    kinds = model_memory(problem, prepared.columns)
    return [
        memory_of_stage(
            problem,
            prepared.columns,
            stage,
            stage_states(problem, prepared.columns, stage, prepared.parameters),
            kinds,
            constants,
        )
        for stage in prepared.stages
    ]


def stage_states(
    problem: Problem, columns: Columns, stage: Stage, parameters: Sequence[LocalParameters]
) -> dict[str, Number]:
    """What a stage holds whatever is kept for backward, bytes by part: model states, and whole units at work.

    Parameters
    ----------
    parameters
        Of one layer of each kind on one rank.
    """
    software, formats = problem.structure.software, problem.structure.formats()
    columns = state_columns(problem, columns)
    everything = total((p.dense + p.expert) * n for p, n in zip(parameters, stage.counts, strict=True))
    shares = updated_shares(problem.sharding, parameters, columns)
    share = updated_elements(shares, stage.counts)
    sharded = problem.fully_sharded
    unsharded: Number = 0
    if sharded and software.gradients == "kept":
        largest = maximum(
            *((p.dense + p.expert) * minimum(n, 1) for p, n in zip(parameters, stage.counts, strict=True))
        )
        unsharded = 2 * formats["activation"].bytes(largest) + formats["reduce"].bytes(largest)
    update = stage_update(shares, stage.counts, software.formats, problem.structure.recipe.compute)
    return {
        "parameters": formats["weight"].bytes(share if sharded else everything),
        "gradients": formats["gradient"].bytes(share if problem.sharding in ("zero2", "zero3", "hsdp") else everything),
        "optimizer": update.state_bytes,
        "unsharded": unsharded,
    }


def memory_of_stage(
    problem: Problem,
    columns: Columns,
    stage: Stage,
    states: Mapping[str, Number],
    kinds: Sequence[KindMemory],
    constants: StepConstants,
) -> StageMemory:
    """Memory of one run of stages.

    Parameters
    ----------
    states
        Of :func:`stage_states`.
    kinds
        Activations of one layer of each kind on one rank.
    """
    if problem.structure.software.gradients == "freed" and not problem.facts.split:
        flying = in_flight(problem.schedule, stage.first, columns.pp, columns.chunks, columns.micro_batches)
        found = stage_peak(problem, columns, stage, states, flying / columns.chunks)
        return _with_rates({**found, "workspace": constants.workspace_bytes}, constants)
    head = body_kinds(problem.architecture) + 1
    recomputed = recomputed_layers(problem, stage.counts)
    if problem.facts.split:
        kept, ends, again = _split_activations(problem, columns, stage, kinds, recomputed, head)
    else:
        flying = in_flight(problem.schedule, stage.first, columns.pp, columns.chunks, columns.micro_batches)
        kept, ends, again = _activations(kinds, stage.counts, recomputed, flying / columns.chunks, head)
    present = [(k, minimum(n, 1)) for k, n in zip(kinds, stage.counts, strict=True)]
    transients = maximum(*(k.transients * some for k, some in present[:head]))
    holds = maximum(*(k.holds * some for k, some in present[head:]))
    at_loss = holds > again + transients
    found = {
        **states,
        "activations": kept,
        "head": ends + where(at_loss, holds, 0),
        "recomputed": where(at_loss, 0, again),
        "transients": where(at_loss, 0, transients),
        "workspace": constants.workspace_bytes,
    }
    return _with_rates(found, constants)


def _with_rates(found: Mapping[str, Number], constants: StepConstants) -> StageMemory:
    """The parts with what the allocator and the driver add."""
    parts = {name: found[name] for name in MEMORY_PARTS}
    reserved = total(parts.values()) * constants.reserved_factor
    return StageMemory(parts, reserved, reserved + constants.context_bytes)


def _activations(
    memories: Sequence[KindMemory], counts: Sequence[Number], recomputed: Sequence[Number], held: Number, head: int
) -> tuple[Number, Number, Number]:
    """Activations at a stage's peak, bytes: kept by the body, kept by the head, made again by the layer in backward.

    Parameters
    ----------
    counts, recomputed
        Layers of each kind, and how many of them recompute.
    held
        Micro-batches in flight (a fraction where chunks are in flight).
    head
        Index of the head, whose own activations live for one micro-batch only: its backward follows at once.
    """
    body: Number = 0
    ends: Number = 0
    again: Number = 0
    for index, (kind, count, some) in enumerate(zip(memories, counts, recomputed, strict=True)):
        kept = (count - some) * kind.plain + some * kind.recomputing
        if index >= head:
            ends = ends + kept
        else:
            body = body + kept * held + count * kind.per_step
            again = maximum(again, kind.again * minimum(some, 1))
    return body, ends, again


def _split_activations(
    problem: Problem,
    columns: Columns,
    stage: Stage,
    kinds: Sequence[KindMemory],
    recomputed: Sequence[Number],
    head: int,
) -> tuple[Number, Number, Number]:
    """:func:`_activations` under a schedule that splits backward passes: chunks that wait for the gradients of inputs
    hold all that they keep, those that wait for the gradients of weights their operands. The fullest of a run of stages
    is its first or its last."""
    whole, ends, again = _activations(kinds, stage.counts, recomputed, 1, head)
    none, _, _ = _activations(kinds, stage.counts, recomputed, 0, head)
    operands = total(k.operands * n for k, n in zip(kinds[: head - 1], stage.counts, strict=False))
    share = 1 / columns.chunks if problem.facts.shape == "loop" else 0.5
    most: Number = 0
    for rank in (stage.first, stage.first + maximum(stage.repeats, 1) - 1):
        for plain, late in _held(problem, columns, rank):
            most = maximum(most, (whole - none) * plain * share + operands * late * share)
    return none + most, ends, again


def _held(problem: Problem, columns: Columns, rank: Number) -> Sequence[tuple[Number, Number]]:
    """:func:`~llmsim.training.orders.held` for a table of plans, as many pairs as the longest has."""
    shape = (rank, columns.pp, columns.chunks, columns.micro_batches)
    rows, inverse = distinct_rows(shape)
    each = [held(problem.schedule, *row) for row in rows]
    if inverse is None:
        return each[0]
    longest = max(map(len, each))
    padded = np.array([[*pairs, *[pairs[-1]] * (longest - len(pairs))] for pairs in each])[inverse]
    return [(padded[:, k, 0], padded[:, k, 1]) for k in range(longest)]
