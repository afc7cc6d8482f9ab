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

from ..core.shim import Number, maximum, minimum, total, where
from ..hardware.cluster import Cluster
from ..hardware.software import Software
from .closed_forms import in_flight
from .columns import Columns, distinct_rows
from .constants import StepConstants
from .kept import KindMemory, model_memory
from .moments import stage_peak
from .orders import held
from .prepare import Prepared, Problem, recomputed_layers, state_columns
from .sharding import LocalParameters, updated_shares
from .stages import Stage, body_kinds
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


@dataclass
class StageMemory:
    """Memory of a stage at its peak (of a run of equal ones: of the one that holds the most).

    Attributes
    ----------
    parts
        Part -> bytes allocated.
    reserved_bytes, device_bytes
        What the caching allocator holds, and what the driver sees.
    host_bytes
        What is offloaded.
    """

    parts: dict[str, Number]
    reserved_bytes: Number
    device_bytes: Number
    host_bytes: Number = 0

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
    """What a stage holds whatever is kept for backward, bytes by part: model states, and whole units at work; under
    ``host`` what the host holds of the optimizer's states, with the gradients that it takes.

    Parameters
    ----------
    parameters
        Of one layer of each kind on one rank.
    """
    software, formats = problem.structure.software, problem.structure.formats()
    columns = state_columns(problem, columns)
    trained = total((p.dense + p.expert) * n for p, n in zip(parameters, stage.counts, strict=True))
    frozen = total((p.frozen.dense + p.frozen.expert) * n for p, n in zip(parameters, stage.counts, strict=True))
    shares = updated_shares(problem.sharding, parameters, columns)
    share = updated_elements(shares, stage.counts)
    sharded = problem.fully_sharded
    unsharded: Number = 0
    if sharded and software.gradients == "kept":
        largest = maximum(*(p.held * minimum(n, 1) for p, n in zip(parameters, stage.counts, strict=True)))
        with_gradient = maximum(
            *((p.dense + p.expert) * minimum(n, 1) for p, n in zip(parameters, stage.counts, strict=True))
        )
        unsharded = 2 * formats["activation"].bytes(largest) + formats["reduce"].bytes(with_gradient)
        frozen = total(
            (p.frozen.dense_shard + p.frozen.expert_shard) * n for p, n in zip(parameters, stage.counts, strict=True)
        )
    update = stage_update(shares, stage.counts, software.formats, problem.structure.recipe.compute)
    return {
        "parameters": formats["weight"].bytes((share if sharded else trained) + frozen),
        "gradients": formats["gradient"].bytes(share if problem.sharding in ("zero2", "zero3", "hsdp") else trained),
        "optimizer": update.state_bytes * (1 - problem.offload.optimizer),
        "unsharded": unsharded,
        "host": problem.offload.optimizer * (update.state_bytes + formats["gradient"].bytes(share)),
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
        return _with_rates({**found, "workspace": constants.workspace_bytes}, constants, states["host"])
    head = body_kinds(problem.architecture) + 1
    recomputed = recomputed_layers(problem, stage.counts, stage.share)
    if problem.facts.split:
        kept, ends, again = _split_activations(problem, columns, stage, kinds, recomputed, head)
    else:
        flying = in_flight(problem.schedule, stage.first, columns.pp, columns.chunks, columns.micro_batches)
        kept, ends, again = _activations(kinds, stage.counts, recomputed, flying / columns.chunks, head)
    away: Number = 0
    if problem.offload.activations:
        kept, away = _offloaded(problem, kinds[:head], stage.counts, recomputed, kept)
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
    return _with_rates(found, constants, states["host"] + away)


def _with_rates(found: Mapping[str, Number], constants: StepConstants, host_bytes: Number) -> StageMemory:
    """The parts with what the allocator and the driver add."""
    parts = {name: found[name] for name in MEMORY_PARTS}
    reserved = total(parts.values()) * constants.reserved_factor
    return StageMemory(parts, reserved, reserved + constants.context_bytes, host_bytes)


def _offloaded(
    problem: Problem,
    kinds: Sequence[KindMemory],
    counts: Sequence[Number],
    recomputed: Sequence[Number],
    kept: Number,
) -> tuple[Number, Number]:
    """Activations in flight that stay on the device, and those on the host, bytes. Of the latter two layers are on the
    device too: one that leaves or comes back, and its neighbour at work."""
    layers = list(zip(kinds, counts, recomputed, strict=False))
    moving = problem.offload.activations * (kept - total(n * k.per_step for k, n, _ in layers))
    means = (((n - some) * k.plain + some * k.recomputing) / maximum(n, 1) for k, n, some in layers)
    return kept - moving + minimum(moving, 2 * maximum(*means)), moving


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
