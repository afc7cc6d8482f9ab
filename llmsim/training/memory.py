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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..architecture import body_kinds
from ..core.numeric import Number, maximum, minimum, total, where
from ..hardware.cluster import Cluster
from ..hardware.fitted import Fit
from ..hardware.software import Software
from ..timing.columns import Columns, distinct_rows
from ..timing.intervals import memory_width, safe_headroom
from ..timing.step_constants import StepConstants
from .build_load import Prepared, recomputed_share, state_columns
from .closed_forms import in_flight
from .orders import held
from .peak_memory import stage_peak
from .problem import Problem
from .saved_activations import KindMemory, model_memory
from .sharding import LocalParameters, updated_shares
from .stages import Stage
from .update import stage_update, updated_elements

STATE_PARTS = ("parameters", "gradients", "optimizer", "unsharded")
"""Parts that do not depend on what is kept for backward."""
MEMORY_PARTS = (
    "parameters", "gradients", "optimizer", "activations", "head", "recomputed", "transients", "unsharded", "workspace",
)  # fmt: skip
"""Parts of allocated memory: model states; activations in flight, with operands that wait for the gradients of weights
where a schedule computes these later; those of the head and its loss; what a layer in
backward makes again, and the gradients inside it; whole parameters and gradients of the units at work under full
sharding; kernel workspaces."""

MEMORY_NAMES = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer": "optimizer states",
    "activations": "activations in flight",
    "head": "logits and loss",
    "recomputed": "layer made again in backward",
    "transients": "gradients inside a layer",
    "unsharded": "gathered units",
    "workspace": "workspace",
}
"""Part of memory -> in words."""


OUT_OF_MEMORY_RISK = 0.05
"""Chance of running out of memory that a plan may have unless somebody says otherwise."""


def with_headroom(
    cluster: Cluster, software: Software, fit: Fit | None = None, risk: float = OUT_OF_MEMORY_RISK
) -> tuple[Cluster, dict[str, str]]:
    """A cluster whose headroom keeps the chance of running out of memory below ``risk``, and what was taken; one that
    states its headroom is left as it is. Without measured memory the headroom is the software profile's."""
    if cluster.memory_headroom is not None:
        return cluster, {}
    width = memory_width(fit)
    if width is None:
        headroom = software.constants["memory/headroom"].value
        why = f"{software.name} profile; no measured run says how far off memory may be"
        text = f"{100 * headroom:.0f} % stays free ({why})"
    else:
        headroom = safe_headroom(risk, width)
        text = f"{100 * headroom:.1f} % stays free, so that the chance of running out is at most {100 * risk:.0f} %"
    return cluster.model_copy(update={"memory_headroom": headroom}), {"memory": text}


def memory_limit(cluster: Cluster, software: Software) -> float:
    """What a plan may use of a device, bytes: its memory less the headroom."""
    given = cluster.memory_headroom
    return cluster.profile.memory_bytes.value * (
        1 - (software.constants["memory/headroom"].value if given is None else given)
    )


@dataclass
class StageMemory:
    """Memory of a stage at its peak (of a run of equal ones: of the one that holds the most).

    Attributes
    ----------
    allocated_bytes, reserved_bytes, device_bytes
        Tensors; what the caching allocator holds; what the driver sees.
    host_bytes
        What is offloaded.
    detail
        Gives the parts when they are wanted.
    """

    allocated_bytes: Number
    reserved_bytes: Number
    device_bytes: Number
    host_bytes: Number
    detail: Callable[[], Mapping[str, Number]]

    @cached_property
    def parts(self) -> dict[str, Number]:
        """Part -> bytes allocated; they sum to all that is."""
        found = self.detail()
        return {name: found[name] for name in MEMORY_PARTS}

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
    shares = updated_shares(problem.sharding, parameters, columns)
    share = updated_elements(shares, stage.counts)
    sharded = problem.fully_sharded
    frozen = total(_frozen(p, sharded=sharded) * n for p, n in zip(parameters, stage.counts, strict=True))
    unsharded: Number = 0
    # Stacks that free gradients have units of their own at each moment.
    if sharded and software.training.gradients == "kept":
        largest = maximum(*(p.held * minimum(n, 1) for p, n in zip(parameters, stage.counts, strict=True)))
        with_gradient = maximum(
            *((p.dense + p.expert) * minimum(n, 1) for p, n in zip(parameters, stage.counts, strict=True))
        )
        unsharded = 2 * formats["activation"].bytes(largest) + formats["reduce"].bytes(with_gradient)
    update = stage_update(shares, stage.counts, software.training.formats, problem.structure.recipe.compute)
    return {
        "parameters": formats["weight"].bytes((share if sharded else trained) + frozen),
        "gradients": formats["gradient"].bytes(share if problem.sharding in ("zero2", "zero3", "hsdp") else trained),
        "optimizer": update.state_bytes * (1 - problem.offload.optimizer),
        "unsharded": unsharded,
        "host": problem.offload.optimizer * (update.state_bytes + formats["gradient"].bytes(share)),
    }


def _frozen(parameters: LocalParameters, *, sharded: bool) -> Number:
    """Elements that a rank holds of one layer's parameters without gradients."""
    own = parameters.frozen
    return own.dense_shard + own.expert_shard if sharded else own.dense + own.expert


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
    if problem.structure.software.training.gradients == "freed" and not problem.facts.split:
        flying = in_flight(problem.schedule, stage.first, columns.pp, columns.chunks, columns.micro_batches)
        found = {**stage_peak(problem, columns, stage, states, flying / columns.chunks)}
        found["workspace"] = constants.stack["memory/workspace_bytes"]
        whole = total(found[name] for name in MEMORY_PARTS)
        return _with_rates(whole, constants, states["host"], lambda: found)
    head = body_kinds(problem.architecture) + 1
    share = recomputed_share(problem, stage.share)
    if problem.facts.split:
        kept, ends, again = _split_activations(problem, columns, stage, kinds, share, head)
    else:
        flying = in_flight(problem.schedule, stage.first, columns.pp, columns.chunks, columns.micro_batches)
        kept, ends, again = _activations(kinds, stage.counts, share, flying / columns.chunks, head)
    away: Number = 0
    if problem.offload.moves_activations:
        kept, away = _offloaded(problem, kinds[: head - 1], stage.counts, share, kept)
    present = [(k, minimum(n, 1)) for k, n in zip(kinds, stage.counts, strict=True)]
    transients = maximum(*(k.transients * some for k, some in present[:head]))
    holds = maximum(*(k.holds * some for k, some in present[head:]))
    fixed = total(states[name] for name in STATE_PARTS) + constants.stack["memory/workspace_bytes"] + ends

    def detail() -> dict[str, Number]:
        at_loss = holds > again + transients
        return {
            **states,
            "activations": kept,
            "head": ends + where(at_loss, holds, 0),
            "recomputed": where(at_loss, 0, again),
            "transients": where(at_loss, 0, transients),
            "workspace": constants.stack["memory/workspace_bytes"],
        }

    whole = fixed + kept + maximum(holds, again + transients)
    return _with_rates(whole, constants, states["host"] + away, detail)


def _with_rates(
    allocated: Number, constants: StepConstants, host_bytes: Number, detail: Callable[[], Mapping[str, Number]]
) -> StageMemory:
    """What is allocated with what the allocator and the driver add."""
    return StageMemory(allocated, *seen_memory(allocated, constants), host_bytes, detail)


def seen_memory(allocated_bytes: Number, constants: StepConstants) -> tuple[Number, Number]:
    """What the caching allocator holds and what the driver sees where tensors take ``allocated_bytes``, bytes."""
    reserved = allocated_bytes * constants.stack["memory/reserved_factor"]
    return reserved, reserved + constants.stack["memory/context_bytes"]


def allocated_room(device_bytes: Number, constants: StepConstants) -> Number:
    """What tensors may take where the driver may see ``device_bytes``, bytes: :func:`seen_memory` the other way."""
    return (device_bytes - constants.stack["memory/context_bytes"]) / constants.stack["memory/reserved_factor"]


def _offloaded(
    problem: Problem,
    kinds: Sequence[KindMemory],
    counts: Sequence[Number],
    share: Number,
    kept: Number,
) -> tuple[Number, Number]:
    """Activations in flight that stay on the device, and those on the host, bytes. Of the latter two layers are on the
    device too: one that leaves or comes back, and its neighbour at work."""
    layers = list(zip(kinds, counts, strict=False))  # the ends send nothing
    moving = problem.offload.activations * (kept - total(n * k.per_step for k, n in layers))
    means = (minimum(n, 1) * (k.plain + share * k.change) for k, n in layers)
    return kept - moving + minimum(moving, 2 * maximum(*means)), moving


def _activations(
    memories: Sequence[KindMemory], counts: Sequence[Number], share: Number, held: Number, head: int
) -> tuple[Number, Number, Number]:
    """Activations at a stage's peak, bytes: kept by the body, kept by the head, made again by the layer in backward.

    Parameters
    ----------
    counts
        Layers of each kind.
    share
        Of the body's layers, how many recompute.
    held
        Micro-batches in flight (a fraction where chunks are in flight).
    head
        Index of the head, whose own activations live for one micro-batch only: its backward follows at once.
    """
    body: Number = 0
    ends: Number = 0
    saved: list[Number] = []
    again: list[Number] = []
    some = where(share > 0, 1, 0)
    for index, (kind, count) in enumerate(zip(memories, counts, strict=True)):
        if index >= head:
            ends = ends + count * kind.plain
            continue
        flying = count * held
        body = body + flying * kind.plain + count * kind.per_step
        if index < head - 1:  # embeddings never recompute
            saved.append(flying * kind.change)
            again.append(minimum(count, 1) * kind.again)
    return body + share * total(saved), ends, some * maximum(*again)


def _split_activations(
    problem: Problem,
    columns: Columns,
    stage: Stage,
    kinds: Sequence[KindMemory],
    recomputing: Number,
    head: int,
) -> tuple[Number, Number, Number]:
    """:func:`_activations` under a schedule that splits backward passes: chunks that wait for the gradients of inputs
    hold all that they keep, those that wait for the gradients of weights their operands. The fullest of a run of stages
    is its first or its last."""
    whole, ends, again = _activations(kinds, stage.counts, recomputing, 1, head)
    none, _, _ = _activations(kinds, stage.counts, recomputing, 0, head)
    operands = total(k.operands * n for k, n in zip(kinds[: head - 1], stage.counts, strict=False))
    share = 1 / columns.chunks if problem.facts.shape == "loop" else 0.5
    each = whole - none
    ranks = (stage.first, stage.first + maximum(stage.repeats, 1) - 1)
    held = (pair for rank in ranks for pair in _held(problem, columns, rank))
    most = maximum(*(each * (plain * share) + operands * (late * share) for plain, late in held))
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
