"""Composition: what overlaps and what waits, from the seconds of kernels and wires to the seconds of a step.

Every function is a plain formula of numbers, arrays (one entry a plan, or a measured run) or calibration draws. Parts
always add up: what the device computes, what each kind of transfer leaves exposed, what it waits for its host, the
pipeline's bubble, the exposed rest of the gradient exchange, the optimizer and the fixed costs are the step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from ..core.pipelines import ScheduleName, schedule_facts
from ..core.shim import Number, maximum, minimum, soft_maximum, total, where
from ..hardware.network import NO_TRAFFIC, WireTime
from .closed_forms import StageTimes, closed_form
from .constants import StepConstants
from .kept import KeptTransfers
from .seconds import KindSeconds, PhaseSeconds
from .split import PartLoad, split_pipeline

HOST_SHARPNESS = 3.0
"""Of the soft maximum of what the device computes and what its host launches: the queue between them runs empty in
stretches of small kernels even where the device is the slower on the whole. Chosen on the vTrain sweep."""

MOE_FORWARD_SHARE = 0.4
"""Share of an MoE layer's host work that its forward pass does."""

LAYER_PARTS = (
    "gemm", "grouped", "attention", "scan", "memory", "permute", "convert", "tp", "cp", "ep", "fsdp", "offload", "host",
)  # fmt: skip
"""Parts of a layer's pass: compute by class, exposed transfers by axis and to the host, waiting for the host."""

STEP_PARTS = (*LAYER_PARTS, "recompute", "bubble", "gradients", "parameters", "optimizer", "fixed")
"""Parts of a step: those of the layers of the busiest stage, what it computes again, the rest of the pipeline's time,
the exposed exchange of gradients and parameters, the optimizer, fixed costs. They sum to the step."""

_OVERLAP_OF = {"tp": "tensor", "cp": "context", "ep": "expert"}


@dataclass(frozen=True)
class UnitTraffic:
    """What full sharding moves for one layer and micro-batch, beside its forward and its backward pass."""

    forward: WireTime = NO_TRAFFIC
    backward: WireTime = NO_TRAFFIC

    def map(self, change: Callable[[Number], Number]) -> UnitTraffic:
        """The same with every number changed (a selection of rows)."""
        if self.forward is NO_TRAFFIC:  # told apart by identity from a transfer that takes no time
            return self
        return UnitTraffic(self.forward.map(change), self.backward.map(change))


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

    def map(self, change: Callable[[Number], Number]) -> StageLoad:
        """The same with every number changed (a selection of rows)."""
        counts, recomputed = ([change(n) for n in own] for own in (self.counts, self.recomputed))
        wires = self.gather.map(change), self.reduce.map(change)
        products = {name: change(v) for name, v in self.products_s.items()}
        whole = self.whole.map(change)
        lead = None if self.lead is None else [change(n) for n in self.lead]
        repeats, update, host = (change(v) for v in (self.repeats, self.update_s, self.host_s))
        return StageLoad(counts, recomputed, repeats, *wires, update, products, whole, host, lead)


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

    def map(self, change: Callable[[Number], Number]) -> StepLoad:
        """The same with every number changed (a selection of rows)."""
        return StepLoad(
            [kind.map(change) for kind in self.kinds],
            [unit.map(change) for unit in self.units],
            [stage.map(change) for stage in self.stages],
            self.hop.map(change),
            change(self.micro_batches),
            change(self.pp),
            change(self.chunks),
            self.schedule,
            [part.map(change) for part in self.parts],
            self.kept and self.kept.map(change),
        )

    def recomputing(self, of: Callable[[Sequence[Number]], Sequence[Number]]) -> StepLoad:
        """The same with other layers computing their forward again, ``of`` the layers of a stage or part."""
        stages = [replace(stage, recomputed=of(stage.counts)) for stage in self.stages]
        return replace(self, stages=stages, parts=[replace(p, recomputed=of(p.counts)) for p in self.parts])


def exposed(compute: Number, transfer: Number, fraction: Number, contention: Number) -> Number:
    """Seconds that a transfer adds to the compute it may hide under.

    A ``fraction`` of the transfer may run beside the compute; while both run both slow down by ``contention``
    (Galvatron, arXiv:2211.13878: ``c min(C, X) + |C - X|``, which beside the compute is ``X - (2 - c) min(C, X)``), and
    where that loses to running one after the other it is not done. Between 0 and the transfer itself; 0 for no
    transfer.
    """
    return transfer - maximum(0, 2 - contention) * minimum(compute, fraction * transfer)


@dataclass
class LayerTime:
    """Seconds of one pass of one layer by part."""

    parts: dict[str, Number] = field(default_factory=dict)

    @property
    def seconds(self) -> Number:
        """Their sum."""
        return total(self.parts.values())


@dataclass
class KindTime:
    """Forward, backward and recomputation of one layer.

    Attributes
    ----------
    weight_s
        The part of backward that may run later: the products that make gradients of weights, without what the device
        waits for. Known where it is wanted.
    """

    forward: LayerTime
    backward: LayerTime
    recompute: LayerTime
    weight_s: Number = 0

    def map(self, change: Callable[[Number], Number], *, whole: bool = True) -> KindTime:
        """One number a pass, changed (a selection of rows); the parts are summed first.

        Parameters
        ----------
        whole
            False leaves exposed expert transfers apart, for schedules that hide some of them.
        """

        def one(time: LayerTime) -> LayerTime:
            return LayerTime(_summed(time, change, whole))

        return KindTime(one(self.forward), one(self.backward), one(self.recompute), change(self.weight_s))


def _summed(time: LayerTime, change: Callable[[Number], Number], whole: bool) -> dict[str, Number]:
    if whole or "ep" not in time.parts:
        return {"layer": change(time.seconds)}
    rest = total(seconds for name, seconds in time.parts.items() if name != "ep")
    return {"layer": change(rest), "ep": change(time.parts["ep"])}


def layer_time(
    phase: PhaseSeconds,
    c: StepConstants,
    *,
    moe_share: Number = 0,
    unit: WireTime = NO_TRAFFIC,
    beside_s: Number = 0,
) -> LayerTime:
    """One pass of one layer.

    Kernels wait for their launches only where launching takes longer; the sizes that a dropless dispatcher fetches from
    the device drain its queue, so that the host's work on them is always waited for.

    Parameters
    ----------
    moe_share
        Share of the host's work on a mixture-of-experts layer that falls on this pass.
    unit
        Fully sharded parameters and gradients moved during this pass.
    beside_s
        Compute of other passes that such a transfer may hide under as well (recomputation, in backward).
    """
    parts: dict[str, Number] = {}
    for work, seconds in phase.classes.items():
        name = "gemm" if work.startswith("gemm") else work
        parts[name] = parts.get(name, 0) + seconds / c.in_situ[work]
    compute = total(parts.values())
    for axis, wire in phase.wires.items():
        under = parts.get("attention", 0) if axis == "cp" else compute
        parts[axis] = exposed(under, wire_seconds(wire, c), c.overlap[_OVERLAP_OF[axis]], c.contention)
    if unit is not NO_TRAFFIC:
        parts["fsdp"] = exposed(compute + beside_s, wire_seconds(unit, c), c.overlap["parameter"], c.contention)
    busy = total(parts.values())
    queued = phase.launches * c.launch_s * (1 - c.graphed)
    waiting = moe_share * c.moe_layer_s * (1 - c.graphed)
    parts["host"] = soft_maximum(busy, queued, HOST_SHARPNESS) - busy + waiting
    return LayerTime(parts)


def wire_seconds(wire: WireTime, c: StepConstants) -> Number:
    """Seconds of a transfer alone."""
    return wire.seconds(c.inner_efficiency, c.outer_efficiency)


def kind_time(kind: KindSeconds, unit: UnitTraffic, c: StepConstants) -> KindTime:
    """The passes of one layer kind with everything that is exposed in them."""
    again = kind.phases["recompute"]
    recompute = layer_time(again, c, moe_share=kind.is_moe * MOE_FORWARD_SHARE * where(again.launches > 0, 1, 0))
    forward = layer_time(kind.phases["forward"], c, moe_share=kind.is_moe * MOE_FORWARD_SHARE, unit=unit.forward)
    backward = layer_time(
        kind.phases["backward"],
        c,
        moe_share=kind.is_moe * (1 - MOE_FORWARD_SHARE),
        unit=unit.backward,
        beside_s=recompute.seconds,
    )
    weight: Number = 0
    if "weight" in kind.phases:
        weight = total(seconds / c.in_situ[work] for work, seconds in kind.phases["weight"].classes.items())
    return KindTime(forward, backward, recompute, weight)


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
    fixed = c.step_s + load.micro_batches * c.microbatch_s
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
    return transfer - exposed(beside, transfer, fraction, c.contention)


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
        exposed(beside_backward, wire_seconds(stage.reduce, c), c.overlap["gradient"], c.contention),
        exposed(beside_forward, wire_seconds(stage.gather, c), c.overlap["parameter"], c.contention),
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
