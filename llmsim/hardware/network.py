"""Networks: tiers of bandwidth and latency, and the seconds of a collective on them.

A cluster's network is a list of tiers from the inside out (scale-up domain, fabric). A group of ``n`` ranks whose members lie
``stride`` ranks apart fills each tier as far as its size allows; everything about tiers and shared links follows from the
pair (n, stride) and the tier sizes.

References
----------
Ring and tree forms: Thakur, Rabenseifner, Gropp 2005, "Optimization of collective communication operations in MPICH";
traffic per rank as NVIDIA nccl-tests defines bus bandwidth. In-switch reduction halves the bytes of an all-reduce.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ..core.provenance import Quantity
from ..core.shim import Number, log2, maximum, minimum
from .devices import Device
from .profiles import build, profile_names, read_profile


class Fabric(BaseModel):
    """The network between scale-up domains.

    Attributes
    ----------
    name
        Profile name.
    bandwidth
        One way, per device, bytes/s (a node's adapters shared out over its devices).
    efficiency
        Fraction of it that a large collective reaches.
    latency_s
        Per step between domains.
    ramp
        Coefficient of the square-root term, square root of seconds per square root of byte-seconds; see
        :func:`collective_seconds`.
    pod
        Devices under one non-blocking switch tree, None for all.
    oversubscription
        Factor by which bandwidth shrinks beyond a pod, at least 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    bandwidth: Quantity
    efficiency: Quantity
    latency_s: Quantity
    ramp: Quantity
    pod: int | None = Field(default=None, ge=1)
    oversubscription: float = Field(default=1.0, ge=1)
    aliases: tuple[str, ...] = ()
    notes: str = ""


@dataclass(frozen=True)
class Tier:
    """One level of a network, as plain numbers (or calibration draws).

    Attributes
    ----------
    name
        What it is.
    domain
        Devices that reach each other through it; 0 means all.
    bandwidth
        Per device and direction, bytes/s, before efficiency.
    efficiency, latency_s, ramp
        As in the profiles.
    in_switch_reduction
        Whether its switch adds.
    """

    name: str
    domain: int
    bandwidth: Number
    efficiency: Number
    latency_s: Number
    ramp: Number
    in_switch_reduction: bool = False


@lru_cache(maxsize=64)
def get_fabric(name: str) -> Fabric:
    """The fabric profile of that name.

    Raises
    ------
    InputError
        For an unknown one, with the nearest names.
    """
    return build(Fabric, {**read_profile("networks", name, "network"), "name": name}, f"network profile {name}")


def fabric_names() -> list[str]:
    """All bundled fabrics."""
    return profile_names("networks")


def compile_tiers(device: Device, fabric: Fabric, domain: int) -> tuple[Tier, ...]:
    """The tiers of a cluster of ``device`` with scale-up domains of ``domain`` devices, from the inside out."""
    up = device.scale_up
    inner = Tier(
        up.name,
        domain,
        up.bandwidth.value,
        up.efficiency.value,
        up.latency_s.value,
        up.ramp.value,
        up.in_switch_reduction,
    )
    base: dict[str, Any] = {
        "efficiency": fabric.efficiency.value,
        "latency_s": fabric.latency_s.value,
        "ramp": fabric.ramp.value,
    }
    if fabric.pod is None:
        return (inner, Tier(fabric.name, 0, fabric.bandwidth.value, **base))
    return (
        inner,
        Tier(fabric.name, fabric.pod, fabric.bandwidth.value, **base),
        Tier(f"{fabric.name} spine", 0, fabric.bandwidth.value / fabric.oversubscription, **base),
    )


def members_within(ranks: Number, stride: Number, domain: int) -> Number:
    """How many of a group's ranks lie in one domain: max(1, min(n, domain / stride)); 0 domain means everywhere."""
    if domain == 0:
        return ranks
    return maximum(minimum(ranks, domain / stride), 1)


@dataclass(frozen=True)
class WireTime:
    """A collective's time in parts: latency, and transfer through the tier that limits it.

    Attributes
    ----------
    latency_s, transfer_s
        Seconds; their sum is the time of the collective alone.
    outer_s
        The part of ``transfer_s`` that the outermost used tier would take by itself.
    """

    latency_s: Number
    transfer_s: Number
    outer_s: Number

    @property
    def seconds(self) -> Number:
        return self.latency_s + self.transfer_s


def collective_time(
    collective: str, payload_bytes: Number, ranks: Number, stride: Number, tiers: Sequence[Tier]
) -> WireTime:
    """Time of one collective, seconds; nothing at one rank.

    Parameters
    ----------
    collective
        ``all_gather`` (payload: the gathered output), ``reduce_scatter`` (the input), ``all_reduce`` (the tensor),
        ``all_to_all`` (the send buffer), ``send_recv`` (the message).
    payload_bytes
        Of one rank.
    ranks, stride
        Size of the group and distance between its members in global rank order.

    Notes
    -----
    Rings are pipelined over tiers, so the slowest tier sets the transfer time: through tier i go ``(n-1)/n`` of the payload
    shared by the members of the group that lie inside the tier below. A term ``ramp * sqrt(bytes / bandwidth)`` stands for
    the protocol switching that keeps medium-sized messages below full bandwidth.
    """
    if collective == "send_recv":
        return _send_time(payload_bytes, ranks, stride, tiers)
    share = (ranks - 1) / ranks
    latency: Number = 0
    transfer: Number = 0
    outer: Number = 0
    inside: Number = 1
    for tier in tiers:
        reach = members_within(ranks, stride, tier.domain)
        crossing = reach / inside  # groups of the tier below that meet in this one
        active = (reach - inside) / reach  # vanishes where the tier adds nobody
        if collective == "all_to_all":
            wire = payload_bytes * (reach - inside) / ranks / (tier.efficiency * tier.bandwidth)
        else:
            wire = share * payload_bytes / inside / (tier.efficiency * tier.bandwidth)
        factor: Number = 1
        steps = crossing - 1
        if collective == "all_reduce":
            factor = 1 if tier.in_switch_reduction else 2
            steps = minimum(2 * (crossing - 1), 2 * log2(crossing) + 1)
        spread = tier.ramp * (wire * factor) ** 0.5
        latency = latency + steps * tier.latency_s
        time = maximum(wire * factor + spread, 0) * _present(active)
        outer = time + outer * (1 - _present(active))
        transfer = maximum(transfer, time)
        inside = reach
    return WireTime(latency, transfer, outer)


def _present(active: Number) -> Number:
    """1 where a share is above 0, else 0."""
    return minimum(active * 1e9, 1.0)


def _send_time(payload_bytes: Number, ranks: Number, stride: Number, tiers: Sequence[Tier]) -> WireTime:
    """One message to the neighbour ``stride`` ranks away, through the innermost tier that holds both."""
    latency: Number = 0
    transfer: Number = 0
    found: Number = 0  # 1 once a tier has carried it
    for tier in tiers:
        fits = 1.0 if tier.domain == 0 else _present(maximum(minimum(ranks, tier.domain / stride) - 1, 0))
        here = fits * (1 - found)
        wire = payload_bytes / (tier.efficiency * tier.bandwidth)
        latency = latency + here * tier.latency_s
        transfer = transfer + here * (wire + tier.ramp * wire**0.5)
        found = found + here
    alone = _present(ranks - 1)
    return WireTime(latency * alone, transfer * alone, transfer * alone)
