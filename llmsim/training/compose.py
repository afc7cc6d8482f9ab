"""Composition: what overlaps and what waits, from the seconds of kernels and wires to the seconds of a step.

Every function is a plain formula of numbers, arrays (one entry a plan, or a measured run) or calibration draws. Parts
always add up: what the device computes, what each kind of transfer leaves exposed, what it waits for its host, the
pipeline's bubble, the exposed rest of the gradient exchange, the optimizer and the fixed costs are the step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ..core.numeric import Number, maximum, total
from ..core.pipelines import ScheduleName, schedule_facts
from ..hardware.network import WireTime
from ..timing.kernel_times import KindSeconds
from ..timing.layer_time import LAYER_PARTS, KindTime, UnitTraffic, exposed, kind_time, wire_seconds
from ..timing.step_constants import StepConstants
from .closed_forms import StageTimes, closed_form
from .saved_activations import KeptTransfers
from .split import PartLoad, split_pipeline

STEP_PARTS = (*LAYER_PARTS, "recompute", "bubble", "gradients", "parameters", "optimizer", "fixed")
"""Parts of a step: those of the layers of the busiest stage, what it computes again, the rest of the pipeline's time,
the exposed exchange of gradients and parameters, the optimizer, fixed costs. They sum to the step."""


@dataclass(frozen=True)
class StageLoad:
    """A run of equal pipeline stages.

    Attributes
    ----------
    counts, recomputed
        Layers of each kind in one of them, and how many of those compute their forward again.
    repeats
        Stages in the run.
    gather, reduce
        Once a step: parameters gathered, gradients reduced.
    update_s
        Memory traffic of the optimizer at the full rate of elementwise kernels, seconds.
    products_s
        Class -> seconds of its matrix products alone.
    whole
        What it gathers so that matrices are whole.
    host_s
        Of the part of the update that the host does, beside the device's.
    lead
        Layers of each kind in the first chunk of a stage that has several; None where nobody asks for it.
    """

    counts: Sequence[Number]
    recomputed: Sequence[Number]
    repeats: Number
    gather: WireTime
    reduce: WireTime
    update_s: Number
    products_s: Mapping[str, Number]
    whole: WireTime
    host_s: Number = 0
    lead: Sequence[Number] | None = None


@dataclass(frozen=True)
class StepLoad:
    """Everything that a step has to do, in isolated seconds: what composition starts from.

    Attributes
    ----------
    kinds, units
        Layer kinds and what full sharding moves for each.
    stages
        In order.
    hop
        One message to the next stage.
    micro_batches, pp, chunks, schedule
        Of the pipeline.
    parts
        Of the model in order, where the schedule splits backward passes.
    kept
        Activations that go to the host and come back.
    """

    kinds: Sequence[KindSeconds]
    units: Sequence[UnitTraffic]
    stages: Sequence[StageLoad]
    hop: WireTime
    micro_batches: Number
    pp: Number
    chunks: Number
    schedule: ScheduleName
    parts: Sequence[PartLoad] = ()
    kept: KeptTransfers | None = None

    def recomputing(self, of: Callable[[Sequence[Number]], Sequence[Number]]) -> StepLoad:
        """The same with other layers computing their forward again, ``of`` the layers of a stage or part."""
        stages = [replace(stage, recomputed=of(stage.counts)) for stage in self.stages]
        return replace(self, stages=stages, parts=[replace(p, recomputed=of(p.counts)) for p in self.parts])

    def slowed(self, factor: Number) -> StepLoad:
        """The same with layers whose kernels and launches take longer by a factor."""
        return replace(self, kinds=[kind.slowed(factor) for kind in self.kinds])


@dataclass
class StageTime:
    """Seconds of one stage (of a run of equal ones).

    Attributes
    ----------
    forward, backward
        One micro-batch, by part; recomputation is a part of backward.
    gradients, parameters, optimizer
        Once a step: exposed exchanges, and the update.
    saved_s
        Of a forward and a backward pass of one micro-batch: what running side by side hides of their expert transfers.
    lead_s
        Of both passes of the first chunk, where a stage has several.
    """

    forward: dict[str, Number]
    backward: dict[str, Number]
    gradients: Number
    parameters: Number
    optimizer: Number
    saved_s: Number = 0
    lead_s: Number | None = None

    @cached_property
    def forward_s(self) -> Number:
        """Seconds of a forward pass."""
        return total(self.forward.values())

    @cached_property
    def backward_s(self) -> Number:
        """Seconds of a backward pass."""
        return total(self.backward.values())

    @cached_property
    def once_s(self) -> Number:
        """Seconds once a step."""
        return self.gradients + (self.parameters + self.optimizer)


@dataclass
class StepTime:
    """Seconds of a step.

    Attributes
    ----------
    stages
        Of the stage runs, in order.
    hop_s
        Exposed seconds from one stage to the next.
    pipeline_s
        Of the pipeline by the closed form.
    fixed_s
        Host costs per micro-batch and step.
    """

    stages: list[StageTime]
    hop_s: Number
    pipeline_s: Number
    fixed_s: Number

    @cached_property
    def once_s(self) -> Number:
        """Seconds once a step outside the pipeline: the slowest stage's exchange and update."""
        return maximum(*(s.once_s for s in self.stages))

    @property
    def seconds(self) -> Number:
        """Of the whole step."""
        return self.pipeline_s + self.once_s + self.fixed_s


def compose_step(load: StepLoad, c: StepConstants, times: Sequence[KindTime] | None = None) -> StepTime:
    """The time of a step from what it has to do.

    Parameters
    ----------
    times
        Of the layer kinds, where they are known already.
    """
    if times is None:
        times = [kind_time(kind, unit, c) for kind, unit in zip(load.kinds, load.units, strict=True)]
    facts = schedule_facts(load.schedule)
    found = [_stage_time(stage, times, c, load.kept) for stage in load.stages]
    hop = wire_seconds(load.hop, c) * (1 - c.overlap["pipeline"])
    fixed = c.stack["host/step_s"] + load.micro_batches * c.stack["host/microbatch_s"]
    if facts.split:
        if facts.paired:
            found = [replace(s, saved_s=_saved(s, c)) for s in found]
        saved = maximum(*(s.saved_s for s in found))
        numbers = load.micro_batches, load.pp, load.chunks
        return StepTime(
            found, hop, split_pipeline(load.schedule, load.parts, times, numbers, hop, saved, load.kept), fixed
        )
    passes = [s.forward_s for s in found], [s.backward_s for s in found]
    shape = StageTimes(*passes, [s.repeats for s in load.stages], [s.lead_s for s in found])
    pipeline = closed_form(load.schedule, shape, load.micro_batches, load.pp, load.chunks, hop)
    return StepTime(found, hop, pipeline, fixed)


def _saved(stage: StageTime, c: StepConstants) -> Number:
    """Seconds of expert transfers that hide under the other pass of a pair: as much of them as the stack hides where it
    overlaps them, less what is hidden anyway."""
    transfer = stage.forward.get("ep", 0) + stage.backward.get("ep", 0)
    beside = stage.forward_s + stage.backward_s - transfer
    fraction = maximum(0, c.overlap["expert_on"] - c.overlap["expert"])
    return transfer - exposed(beside, transfer, fraction, c.stack["contention"])


def _stage_time(
    stage: StageLoad, times: Sequence[KindTime], c: StepConstants, kept: KeptTransfers | None = None
) -> StageTime:
    forward: dict[str, Number] = {}
    backward: dict[str, Number] = {}
    recompute: Number = 0
    for kind, count, again in zip(times, stage.counts, stage.recomputed, strict=True):
        if isinstance(count, int) and count == 0:
            continue
        for into, layer in ((forward, kind.forward), (backward, kind.backward)):
            for name, seconds in layer.parts.items():
                into[name] = into.get(name, 0) + count * seconds
        if not (isinstance(again, int) and again == 0):
            recompute = recompute + again * kind.recompute.seconds
    backward["recompute"] = recompute  # last, so that columns of many settings are added up once
    beside_forward, beside_backward = total(forward.values()), total(backward.values())
    if kept is not None:
        transfer = kept.seconds(stage.counts, stage.recomputed)
        forward["offload"] = kept.exposed(beside_forward, transfer)
        backward["offload"] = kept.exposed(beside_backward, transfer)
    here = stage.update_s / c.in_situ["memory"] + total(s / c.in_situ[n] for n, s in stage.products_s.items())
    return StageTime(
        forward,
        backward,
        exposed(beside_backward, wire_seconds(stage.reduce, c), c.overlap["gradient"], c.stack["contention"]),
        exposed(beside_forward, wire_seconds(stage.gather, c), c.overlap["parameter"], c.stack["contention"]),
        maximum(here, stage.host_s) + wire_seconds(stage.whole, c),
        lead_s=None if stage.lead is None else _lead_seconds(stage, stage.lead, times),
    )


def _lead_seconds(stage: StageLoad, lead: Sequence[Number], times: Sequence[KindTime]) -> Number:
    """Both passes of a stage's first chunk, without what it sends to the host."""
    seconds: Number = 0
    for kind, n, count, again in zip(times, lead, stage.counts, stage.recomputed, strict=True):
        if isinstance(n, int) and n == 0:
            continue
        own = kind.forward.seconds + kind.backward.seconds
        seconds = seconds + n * own
        if not (isinstance(again, int) and again == 0):
            seconds = seconds + again * (n / maximum(count, 1) * kind.recompute.seconds)
    return seconds
