"""What a pipeline takes at least however its layers, and their recomputation, are spread over its devices.

Moving layers changes neither what all devices do together nor what they hold together. Two bounds follow: on sums, from
the whole model as if it were one stage, and on the slowest device, from what fits each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..architecture import body_kinds, model_kinds
from ..core.numeric import Number, maximum, minimum, total, where
from ..core.pipelines import ScheduleName, schedule_facts
from ..timing.columns import Columns
from ..timing.layer_time import KindTime
from ..timing.step_constants import StepConstants
from .build_load import recomputed_layers, step_load
from .closed_forms import in_flight
from .compose import StepLoad, compose_step
from .memory import stage_states
from .orders import routes
from .problem import Problem
from .saved_activations import KeptTransfers
from .sharding import LocalParameters
from .stages import Stage

BISECTIONS = 40
"""Halvings of the interval that holds the slowest device's time."""
ROUNDING = 1e-6
"""Of a layer, that a device may seem to lack for holding a whole one."""


def whole_load(
    problem: Problem, columns: Columns, parameters: Sequence[LocalParameters], constants: StepConstants
) -> StepLoad:
    """What a step has to do if one device had all layers and both ends, as often as the schedule's devices hold them.

    What a stage takes is made of sums over its layers, of maxima of such sums (exposed transfers, an update on the
    host) and of sums and roots of bytes (messages of middling size). These are subadditive: for all stages together
    they sum to at least what they are for the whole.
    """
    names, architecture = list(problem.architecture.kinds), problem.architecture
    counts = [architecture.layers.count(name) for name in names]
    counts += [1] * (len(model_kinds(architecture)) - len(names))
    whole = Stage(tuple(problem.facts.copies * n for n in counts), 0, 1)
    load = step_load(problem, columns, [whole], parameters, (), constants)
    stages = [replace(stage, lead=None) for stage in load.stages]
    return replace(load, stages=stages, schedule="1f1b", pp=1, chunks=1, parts=())


@dataclass(frozen=True)
class Together:
    """Least seconds of all devices of a pipeline together, one entry a plan.

    Attributes
    ----------
    passes_s
        Both passes of one micro-batch.
    once_s
        Exchanges and update, once a step.
    fixed_s
        Of the step, whatever its devices do.
    """

    passes_s: Number
    once_s: Number
    fixed_s: Number


def together(
    problem: Problem, load: StepLoad, times: Sequence[KindTime], share: Number, fitted: Number, c: StepConstants
) -> Together:
    """What the devices of a pipeline take together, at least.

    Parameters
    ----------
    load
        Of :func:`whole_load`.
    times
        Of the layer kinds.
    share
        Of the layers, how many recompute.
    fitted
        Where any number of layers may recompute instead: passes are shortest with none, and under those that recompute
        most of an exchange hides.
    """

    def composed(share: Number, kept: KeptTransfers | None) -> Number:
        own = load.recomputing(lambda counts: recomputed_layers(problem, counts, share))
        return compose_step(replace(own, kept=kept), c, times)

    kept = load.kept
    if kept is not None:
        fewest = [minimum(a, b) for a, b in zip(kept.plain, kept.recomputing, strict=True)]
        plain, again = (
            [where(fitted, few, own) for few, own in zip(fewest, each, strict=True)]
            for each in (kept.plain, kept.recomputing)
        )
        kept = KeptTransfers(plain, again, kept.hidden)
    least, most = composed(where(fitted, 0.0, share), kept), composed(where(fitted, 1.0, share), None)
    stage = least.stages[0]
    passes = stage.forward_s + stage.backward_s
    if problem.facts.paired:  # pairs of passes hide expert transfers, all of them at most
        passes = passes - stage.forward.get("ep", 0) - stage.backward.get("ep", 0)
    return Together(passes, most.once_s, least.fixed_s)


def pipeline_at_least(
    schedule: ScheduleName, slowest_s: Number, passes_s: Number, micro_batches: Number, pp: Number
) -> Number:
    """Seconds of a pipeline, at least, from its slowest device and from all of them together.

    Every device has all micro-batches to do, so that no pipeline is faster than ``m max_i T_i``. Under 1F1B it takes
    ``m T_i + sum_{j<i} T_j`` for every i (:func:`~llmsim.training.closed_forms.closed_form`). The mean of these with
    weights ``w_i = (c / m) (1 - 1/m)^(p-1-i)`` is ``c sum_j T_j``, and the weights sum to 1 for ``c = 1 / (1 - (1 -
    1/m)^p)``. GPipe takes ``sum_j T_j + (m - 1) (max F + max B)``, interleaving at least the first micro-batch's way.

    Parameters
    ----------
    slowest_s
        Both passes of one micro-batch on the slowest device.
    passes_s
        On all devices together.
    """
    slowest_s = maximum(slowest_s, passes_s / pp)
    if schedule == "gpipe":
        return passes_s + (micro_batches - 1) * slowest_s
    busy = micro_batches * slowest_s
    if schedule == "1f1b":
        return maximum(busy, passes_s / (1 - (1 - 1 / micro_batches) ** pp))
    return busy if schedule_facts(schedule).split else maximum(busy, passes_s)


def held_at_least(schedule: ScheduleName, rank: Number, pp: int, chunks: Number, micro_batches: Number) -> Number:
    """Micro-batches whose results all layers of a device keep at once, at least: those that its order forwards before
    its first backward pass (:func:`~llmsim.training.orders.device_order`)."""
    m = micro_batches
    match schedule:
        case "zb-h1" | "interleaved-zb":
            size = m // maximum(1, m // pp)
            return minimum((chunks - 1) * size + pp - rank, m * chunks) / chunks
        case "zb-v":
            return (minimum(m, 2 * pp - rank - 1) + minimum(m, rank + 1)) / 2
        case "dualpipe-v":
            return pp + 0 * m
        case "dualpipe":
            return pp / 2 + 0 * m
    return in_flight(schedule, rank, pp, chunks, m) / chunks


def kind_states(problem: Problem, columns: Columns, parameters: Sequence[LocalParameters]) -> list[Number]:
    """Bytes that a layer of each kind takes whatever is kept for backward, at least."""
    freed = problem.structure.software.training.gradients == "freed" and not problem.facts.split
    names = ("parameters", "optimizer") if freed else ("parameters", "gradients", "optimizer")
    found = []
    for i in range(len(parameters)):
        one = Stage(tuple(int(i == k) for k in range(len(parameters))), 0, 1)
        states = stage_states(problem, columns, one, parameters)
        found.append(total(states[name] for name in names))
    return found


@dataclass(frozen=True)
class Layers:
    """The layers of a model that the devices of pipelines share out; arrays with one entry a plan, all of as many
    stages, or numbers.

    Attributes
    ----------
    seconds
        Both passes of one micro-batch through a layer of each kind of :func:`~llmsim.training.stages.model_kinds`, with
        what it must recompute.
    again_s
        What a layer of each kind of the body takes besides if it recomputes although it need not.
    states
        Bytes of a layer of each kind: parameters and what belongs to them.
    kept, change
        Bytes that a layer of each kind of the body keeps of one micro-batch, and by how much that changes if it
        recomputes although it need not.
    """

    seconds: Sequence[Number]
    again_s: Sequence[Number]
    states: Sequence[Number]
    kept: Sequence[Number]
    change: Sequence[Number]


def slowest_device(
    problem: Problem, layers: Layers, pp: int, chunks: Number, micro_batches: Number, room_bytes: float
) -> Number:
    """Seconds of one micro-batch on the slowest device, at least, under any spread of layers that fits; infinite where
    none does.

    Within T seconds, a device takes up ``x`` seconds of layers. It has to hold ``x mu`` bytes of them, ``mu`` those of
    the kind that takes the least for its time, and as many layers must recompute as it lacks bytes: they take ``rho``
    seconds for each byte that they spare, of the kind that takes the fewest. So ``x + rho (x mu - room)^+ / f <= T``
    with f micro-batches held. What all devices take up is all layers: the least such T bounds every spread from below.
    Of layers that are alike a device takes up whole ones: those of the most frequent kind alone are a bound too.

    Parameters
    ----------
    room_bytes
        Of a device, for model states and activations.
    """
    devices = _devices(problem, layers, pp, chunks, micro_batches, room_bytes)
    counts = [problem.architecture.layers.count(name) for name in problem.architecture.kinds]
    present = [i for i, n in enumerate(counts) if n]
    slowest = _slowest(devices, layers, counts, present)
    if len(present) == 1:
        return slowest
    return np.maximum(slowest, _slowest(devices, layers, counts, [max(present, key=lambda i: counts[i])]))


@dataclass(frozen=True)
class _Devices:
    """The devices of pipelines without layers, ``[device, plan]``.

    Attributes
    ----------
    ends_s
        Seconds of the ends of the model on them.
    room
        Bytes that are left beside the ends.
    held
        Micro-batches that they hold at least.
    copies
        Devices that share the micro-batches of one layer.
    """

    ends_s: np.ndarray
    room: np.ndarray
    held: np.ndarray
    copies: int


def _devices(
    problem: Problem, layers: Layers, pp: int, chunks: Number, micro_batches: Number, room_bytes: float
) -> _Devices:
    body, copies = body_kinds(problem.architecture), problem.facts.copies
    shape = np.broadcast_shapes(*(np.shape(v) for v in (*layers.seconds, *layers.states, *layers.kept, micro_batches)))
    ends_s, room = np.zeros((pp, *shape)), np.full((pp, *shape), room_bytes)
    for way in routes(problem.schedule, pp, 1):
        for rank, own in ((way[0][0], [body]), (way[-1][0], range(body + 1, len(layers.seconds)))):
            ends_s[rank] += total(layers.seconds[i] for i in own) / copies
            room[rank] -= total(layers.states[i] for i in own)
    ranks = np.arange(pp).reshape(pp, *[1] * len(shape))
    held = np.broadcast_to(held_at_least(problem.schedule, ranks, pp, chunks, micro_batches), room.shape)
    return _Devices(ends_s, room, held * (1 - problem.offload.activations), copies)


def _slowest(devices: _Devices, layers: Layers, counts: Sequence[int], kinds: Sequence[int]) -> np.ndarray:
    """:func:`slowest_device` with the layers of some kinds only."""
    ends_s, room, held = devices.ends_s, devices.room, devices.held
    each = {i: layers.seconds[i] / devices.copies for i in kinds}

    def lightest(kept: Sequence[Number]) -> np.ndarray:
        light = [(layers.states[i] + held * kept[i]) / each[i] for i in kinds]
        found: np.ndarray = np.maximum(np.minimum.reduce(light), 1e-300)
        return found

    bytes_per_s = lightest(layers.kept)
    most = room / lightest([k + minimum(c, 0) for k, c in zip(layers.kept, layers.change, strict=True)])
    s_per_byte = np.full(ends_s.shape[1:], np.inf)
    for i in kinds:
        spared = np.maximum(-layers.change[i], 1e-300)
        s_per_byte = np.where(layers.change[i] < 0, np.minimum(s_per_byte, layers.again_s[i] / spared), s_per_byte)
    dear = np.isfinite(s_per_byte) & (s_per_byte > 0)
    s_per_byte = np.where(dear, s_per_byte, 0.0)
    slope = np.where(dear, held + s_per_byte * bytes_per_s, 1.0)

    def taken(seconds: np.ndarray) -> np.ndarray:
        left = seconds - ends_s
        own = np.where(dear & (left * bytes_per_s > room), (left * held + s_per_byte * room) / slope, left)
        own = np.minimum(own, most)
        if len(kinds) == 1:
            own = np.floor(own / each[kinds[0]] + ROUNDING) * each[kinds[0]]
        own = np.where((left < 0) | (room < 0), -np.inf, own)
        found: np.ndarray = own.sum(axis=0)
        return found

    wanted = np.broadcast_to(total(counts[i] * layers.seconds[i] for i in kinds), ends_s.shape[1:]) * (1 - 1e-9)
    low = np.zeros(ends_s.shape[1:])
    high = wanted * (1 + 1e-6) + ends_s.sum(axis=0) + total(counts[i] * layers.again_s[i] for i in kinds)
    fits = taken(high) >= wanted
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        enough = taken(middle) >= wanted
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(fits, low, np.inf)
