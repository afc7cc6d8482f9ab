"""Networks: tiers of bandwidth and latency, and the seconds of a collective on them.

A cluster's network is a list of tiers from the inside out (scale-up domain, fabric). A group of ``n`` ranks whose
members lie ``stride`` ranks apart fills each tier as far as its size allows; everything about tiers and shared links
follows from the pair (n, stride) and the tier sizes.

References
----------
Ring and tree forms: Thakur, Rabenseifner, Gropp 2005, "Optimization of collective communication operations in MPICH";
traffic per rank as NVIDIA nccl-tests defines bus bandwidth; in-switch reduction as NCCL's NVLS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from ..core.numeric import Number, log2, maximum, minimum, product, where
from ..core.provenance import Quantity
from .devices import Device, taken_in_words
from .profiles import build, profile_names, read_profile

TYPICAL_FABRIC = "infiniband-ndr-400"
"""Stands for what a fabric of one's own leaves out."""


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
    half_bytes
        Payload at which a collective reaches half of its bandwidth.
    pod
        Devices under one non-blocking switch tree, None for all.
    oversubscription
        Factor by which bandwidth shrinks beyond a pod, at least 1.
    per_node
        Whether the bandwidth is a node's, to be shared out over its devices.
    file, inherits, taken, same_as
        Of a fabric of one's own, as :class:`~llmsim.hardware.devices.Device` has them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    name: str
    bandwidth: Quantity
    efficiency: Quantity
    latency_s: Quantity
    half_bytes: Quantity
    pod: int | None = Field(default=None, ge=1)
    oversubscription: float = Field(default=1.0, ge=1)
    per_node: bool = False
    aliases: tuple[str, ...] = ()
    notes: str = ""
    file: str = ""
    inherits: str = ""
    taken: dict[str, str] = Field(default_factory=dict)
    same_as: str = ""

    @property
    def fitted_as(self) -> str:
        """The name under which fits know it."""
        return self.same_as or self.name

    def shared_by(self, devices: int) -> Fabric:
        """The same with the bandwidth of a device, in nodes of so many devices."""
        if not self.per_node:
            return self
        own = self.bandwidth.replace(value=self.bandwidth.value / devices)
        return self.model_copy(update={"bandwidth": own, "per_node": False})

    def assumed(self) -> dict[str, str]:
        """Of a fabric of one's own: what its file leaves open, for an answer to list."""
        if not self.file:
            return {}
        said = f"{self.name} ({Path(self.file).name})"
        if self.same_as:
            return {"fabric": f"{said}, as {self.same_as} in all that step times rest on"}
        numbers = taken_in_words(self.taken, {}, self.inherits, self.inherits or TYPICAL_FABRIC)
        return {"fabric": f"{said}: no measured runs", **{f"fabric, {key}": text for key, text in numbers.items()}}


@dataclass(frozen=True)
class Tier:
    """One level of a network, as plain numbers.

    Attributes
    ----------
    name
        What it is.
    domain
        Devices that reach each other through it; 0 means all.
    bandwidth
        Per device and direction, bytes/s, before efficiency.
    efficiency, latency_s, half_bytes
        As in the profiles.
    in_switch_traffic
        Bytes on the wire per byte of an all-reduce that its switch adds up; None where it does not add.
    """

    name: str
    domain: int
    bandwidth: Number
    efficiency: Number
    latency_s: Number
    half_bytes: Number
    in_switch_traffic: float | None = None


@lru_cache(maxsize=64)
def bundled_fabric(name: str) -> Fabric:
    """The bundled fabric of that name.

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
        up.half_bytes.value,
        up.in_switch_traffic.value if up.in_switch_traffic else None,
    )
    rates = (fabric.efficiency.value, fabric.latency_s.value, fabric.half_bytes.value)
    if fabric.pod is None:
        return (inner, Tier(fabric.name, 0, fabric.bandwidth.value, *rates))
    spine = fabric.bandwidth.value / fabric.oversubscription
    return (inner, Tier(fabric.name, fabric.pod, fabric.bandwidth.value, *rates), Tier("spine", 0, spine, *rates))


Stride: TypeAlias = Number | tuple[tuple[Number, Number], ...]
"""Distance between the members of a group in global rank order; or (ranks, stride) of each part of a group whose ranks
are not evenly apart, from the nearest to the farthest."""


def members_within(ranks: Number, stride: Stride, domain: int) -> Number:
    """How many of a group's ranks lie in one domain: max(1, min(n, domain / stride)); domain 0 means everywhere."""
    if domain == 0:
        return ranks
    if isinstance(stride, tuple):
        return product(members_within(n, apart, domain) for n, apart in stride)
    return maximum(minimum(ranks, domain / stride), 1)


@dataclass(frozen=True)
class WireTime:
    """What a collective takes at the full bandwidth of each tier, seconds.

    Attributes
    ----------
    latency_s
        Of its steps.
    inner_s, outer_s
        Transfer through the scale-up domain and through the fabric. Collectives are pipelined over the tiers, so the
        slower one sets the time.
    """

    latency_s: Number = 0
    inner_s: Number = 0
    outer_s: Number = 0

    def __add__(self, other: WireTime) -> WireTime:
        return WireTime(self.latency_s + other.latency_s, self.inner_s + other.inner_s, self.outer_s + other.outer_s)

    def scaled(self, factor: Number) -> WireTime:
        """That many of them."""
        return WireTime(self.latency_s * factor, self.inner_s * factor, self.outer_s * factor)

    def seconds(self, inner_efficiency: Number, outer_efficiency: Number) -> Number:
        """Time alone at the bandwidths that large collectives reach."""
        return self.latency_s + maximum(self.inner_s / inner_efficiency, self.outer_s / outer_efficiency)


NO_TRAFFIC = WireTime()


def collective_time(
    collective: str,
    payload_bytes: Number,
    ranks: Number,
    stride: Stride,
    tiers: Sequence[Tier],
    *,
    copies: Number = 1,
    groups: tuple[int, int] = (1, 1),
) -> WireTime:
    """Time of one collective; nothing at one rank.

    Parameters
    ----------
    collective
        ``all_gather`` (payload: the gathered output), ``reduce_scatter`` (the input), ``all_reduce`` (the tensor),
        ``all_to_all`` (the send buffer), ``send_recv`` (the message).
    payload_bytes
        Of one rank.
    ranks, stride
        Size of the group and distance between its members in global rank order.
    copies
        All-to-all of a dispatcher that sends a token once to each domain and forwards it inside: rows of one token in
        the payload. The expected number of distinct domains among ``N`` for ``K`` uniform choices is ``N (1 - (1 -
        1/N)**K)`` (arXiv:2412.19437, section 3.2.2).
    groups
        How many groups the experts form, and in how many of them those of one token lie: ``N`` is then the domains that
        these reach.

    Notes
    -----
    Through tier i go ``(n-1)/n`` of the payload, shared by the members of the group that lie inside the tier below. A
    factor ``1 + sqrt(half / bytes)`` stands for the protocol switching that keeps medium-sized messages below full
    bandwidth.
    """
    if collective == "send_recv":
        return _send_time(payload_bytes, ranks, stride, tiers)
    parts: list[Number] = []
    latency: Number = 0
    inside: Number = 1
    for tier in tiers:
        reach = members_within(ranks, stride, tier.domain)
        crossing = reach / inside  # groups of the tier below that meet in this one
        if collective == "all_to_all":
            wire = _exchanged(payload_bytes, ranks, inside, reach, copies, groups)
        else:
            wire = payload_bytes * (ranks - 1) / ranks / inside
        steps = crossing - 1
        if collective == "all_reduce":
            added = tier.in_switch_traffic
            wire = 2 * wire if added is None else minimum(2 * wire, added * payload_bytes / inside)
            steps = minimum(2 * (crossing - 1), 2 * log2(crossing) + 1)
        used = where(reach > inside, 1.0, 0.0)
        latency = latency + used * steps * tier.latency_s
        parts.append(used * _transfer(wire, tier))
        inside = reach
    return WireTime(latency, parts[0], maximum(*parts[1:]) if parts[1:] else 0)


def _exchanged(
    payload_bytes: Number, ranks: Number, inside: Number, reach: Number, copies: Number, groups: tuple[int, int]
) -> Number:
    """Bytes that an all-to-all sends through one tier, whose domains of ``inside`` ranks meet in one of ``reach``."""
    if isinstance(copies, int) and copies == 1:
        return payload_bytes * (reach - inside) / ranks
    domains = reachable_domains(reach / inside, *groups)
    distinct = domains * (1 - (1 - 1 / domains) ** copies) / copies
    sent_once = payload_bytes * (reach - inside) / ranks * distinct
    forwarded = payload_bytes * (reach - inside) / reach
    return where(inside > 1, sent_once, forwarded)


def reachable_domains(domains: Number, groups: int, chosen: int) -> Number:
    """Expected domains over which experts in ``chosen`` of ``groups`` equal groups lie.

    A group spans domains where there are more of these; else a domain holds ``g = groups / domains`` of them, and
    none of the chosen ones with probability ``C(groups - g, chosen) / C(groups, chosen)``.
    """
    if chosen >= groups:
        return domains
    held = groups / minimum(domains, groups)
    missed: Number = 1
    for i in range(chosen):
        missed = missed * maximum(groups - held - i, 0) / (groups - i)
    return maximum(domains, groups) / groups * minimum(domains, groups) * (1 - missed)


def _transfer(wire_bytes: Number, tier: Tier) -> Number:
    return (wire_bytes + (wire_bytes * tier.half_bytes) ** 0.5) / tier.bandwidth


def _send_time(payload_bytes: Number, ranks: Number, stride: Stride, tiers: Sequence[Tier]) -> WireTime:
    """One message to the neighbour ``stride`` ranks away, through the innermost tier that holds the whole group: the
    slowest hop of a chain is the one that everybody waits for."""
    latency: Number = 0
    parts: list[Number] = []
    waiting: Number = where(ranks > 1, 1.0, 0.0)  # 0 once a tier has carried it
    for tier in tiers:
        holds = where(members_within(ranks, stride, tier.domain) >= ranks, 1.0, 0.0) * waiting
        latency = latency + holds * tier.latency_s
        parts.append(holds * _transfer(payload_bytes, tier))
        waiting = waiting - holds
    return WireTime(latency, parts[0], maximum(*parts[1:]) if parts[1:] else 0)


def collective_seconds(
    collective: str, payload_bytes: Number, ranks: Number, stride: Number, tiers: Sequence[Tier]
) -> Number:
    """Seconds of one collective at the efficiencies of the tiers."""
    outer = tiers[-1].efficiency if len(tiers) > 1 else 1.0
    return collective_time(collective, payload_bytes, ranks, stride, tiers).seconds(tiers[0].efficiency, outer)
