"""The passes of one layer: what of its kernels, transfers and launches adds to its forward, backward and recomputation.

Every function is a plain formula of numbers, arrays or symbols; parts add up to the pass.

References
----------
What overlaps with what: Galvatron, arXiv:2211.13878.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..core.numeric import Number, maximum, minimum, soft_maximum, total, where
from ..hardware.network import NO_TRAFFIC, WireTime
from .kernel_times import KindSeconds, PhaseSeconds
from .step_constants import StepConstants

HOST_SHARPNESS = 3.0
"""Of the soft maximum of what the device computes and what its host launches: the queue between them runs empty in
stretches of small kernels even where the device is the slower on the whole. Chosen on the vTrain sweep."""

MOE_FORWARD_SHARE = 0.4
"""Share of an MoE layer's host work that its forward pass does."""

LAYER_PARTS = (
    "gemm", "grouped", "attention", "scan", "memory", "permute", "convert", "tp", "cp", "ep", "fsdp", "offload", "host",
)  # fmt: skip
"""Parts of a layer's pass: compute by class, exposed transfers by axis and to the host, waiting for the host."""

_OVERLAP_OF = {"tp": "tensor", "cp": "context", "ep": "expert"}


@dataclass(frozen=True)
class UnitTraffic:
    """What full sharding moves for one layer and micro-batch, beside its forward and its backward pass."""

    forward: WireTime = NO_TRAFFIC
    backward: WireTime = NO_TRAFFIC

    @property
    def constant(self) -> bool:
        """Whether nothing is sharded: told apart by identity from a transfer that takes no time."""
        return self.forward is NO_TRAFFIC


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

    def summed(self, *, whole: bool = True) -> KindTime:
        """One number a pass, the sum of its parts.

        Parameters
        ----------
        whole
            False leaves exposed expert transfers apart, for schedules that hide some of them.
        """
        forward, backward, recompute = (_summed(t, whole) for t in (self.forward, self.backward, self.recompute))
        return KindTime(forward, backward, recompute, self.weight_s)


def _summed(time: LayerTime, whole: bool) -> LayerTime:
    if whole or "ep" not in time.parts:
        return LayerTime({"layer": time.seconds})
    rest = total(seconds for name, seconds in time.parts.items() if name != "ep")
    return LayerTime({"layer": rest, "ep": time.parts["ep"]})


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
        parts[axis] = exposed(under, wire_seconds(wire, c), c.overlap[_OVERLAP_OF[axis]], c.stack["contention"])
    if unit is not NO_TRAFFIC:
        parts["fsdp"] = exposed(
            compute + beside_s, wire_seconds(unit, c), c.overlap["parameter"], c.stack["contention"]
        )
    busy = total(parts.values())
    queued = phase.launches * c.stack["host/launch_s"] * (1 - c.stack["host/graphed"])
    waiting = moe_share * c.stack["host/moe_layer_s"] * (1 - c.stack["host/graphed"])
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
