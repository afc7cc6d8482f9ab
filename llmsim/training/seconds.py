"""Rates of one layer kind: its counts turned into seconds by class of work, and its messages into wire time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..core.messages import Message
from ..core.shim import Number, stack
from ..core.terms import Sizes
from ..core.work import Work
from ..hardware.kernels import (
    KernelConstants,
    attention_seconds,
    gemm_seconds,
    grouped_gemm_seconds,
    memory_seconds,
    quantise_seconds,
    scan_seconds,
)
from ..hardware.network import NO_TRAFFIC, WireTime, collective_time
from ..layers.base import LayerKind
from .columns import Columns, kind_sizes, visible_sizes
from .constants import StepConstants
from .structure import Structure, kind_terms

PERMUTES = frozenset({"route", "dispatch", "combine"})
"""Operator kinds that sort rows by expert: scattered memory traffic, a class of its own."""

PHASES = ("forward", "backward", "recompute")


@dataclass
class PhaseSeconds:
    """One pass of one layer over one micro-batch on one rank.

    Attributes
    ----------
    classes
        Class of work -> seconds of its kernels alone (before the in-step efficiency).
    launches
        Kernels launched.
    wires
        Axis that a transfer belongs to (``tp``, ``cp``, ``ep``) -> its seconds alone.
    """

    classes: dict[str, Number] = field(default_factory=dict)
    launches: Number = 0
    wires: dict[str, WireTime] = field(default_factory=dict)

    def add(self, work_class: str, seconds: Number) -> None:
        """Add kernels of a class."""
        self.classes[work_class] = self.classes.get(work_class, 0) + seconds

    def map(self, change: Callable[[Number], Number]) -> PhaseSeconds:
        """The same with every number changed."""
        wires = {axis: wire.map(change) for axis, wire in self.wires.items()}
        return PhaseSeconds({name: change(v) for name, v in self.classes.items()}, self.launches, wires)

    def send(self, axis: str, wire: WireTime) -> None:
        """Add a transfer."""
        self.wires[axis] = self.wires.get(axis, NO_TRAFFIC) + wire


@dataclass
class KindSeconds:
    """Forward, backward and recomputation of one layer kind.

    Attributes
    ----------
    phases
        ``forward``, ``backward`` and ``recompute`` (what backward computes again in a recomputing layer).
    is_moe
        1 where it dispatches tokens to experts, else 0.
    """

    phases: dict[str, PhaseSeconds]
    is_moe: Number

    def map(self, change: Callable[[Number], Number]) -> KindSeconds:
        """The same with every number changed (a selection of rows)."""
        return KindSeconds({name: phase.map(change) for name, phase in self.phases.items()}, self.is_moe)


def kind_seconds(
    kind: LayerKind, structure: Structure, columns: Columns, constants: StepConstants, *, recomputes: bool = True
) -> KindSeconds:
    """Seconds of a layer kind for a table of plans; arrays have one entry a plan."""
    terms = kind_terms(kind, structure, recomputes=recomputes)
    sizes = kind_sizes(kind, columns, structure)
    seen = visible_sizes(kind, sizes)
    again = set(terms.recomputing.recomputed)
    phases = {name: PhaseSeconds() for name in PHASES}
    for work_class, works, seconds in _rated(terms.work, sizes, seen, structure, constants):
        for name, phase in phases.items():
            chosen = [i for i, w in enumerate(works) if _belongs(w, name, again)]
            if chosen:
                phase.add(work_class, seconds[chosen].sum(axis=0))
    for name, phase in phases.items():
        phase.launches = sum(w.launches for w in terms.work if _belongs(w, name, again))
    copies = 1
    if structure.software.defaults.dispatch == "once_per_domain":
        copies = kind.sizes.get("top_k", 1)
    for axis, messages, wire in _sent(terms.messages, sizes, columns, constants, copies):
        for name, phase in phases.items():
            chosen = [i for i, m in enumerate(messages) if _carried(m, name, again)]
            if chosen:
                phase.send(axis, _summed(wire, chosen, len(sizes.shape) + 1))
    return KindSeconds(phases, int(kind.is_moe))


def _summed(wire: WireTime, chosen: list[int], axes: int) -> WireTime:
    """Sum over some messages, the first of ``axes`` axes; what does not depend on the message is the same for each."""

    def add(values: Number) -> Number:
        return values[chosen].sum(axis=0) if np.ndim(values) == axes else values * len(chosen)

    return wire.map(add)


def _belongs(work: Work, phase: str, again: set[str]) -> bool:
    if phase == "backward":
        return work.phase != "forward"
    return work.phase == "forward" and (phase == "forward" or not again.isdisjoint(work.operators))


def _rated(
    works: Sequence[Work], sizes: Sizes, seen: Sizes, structure: Structure, c: StepConstants
) -> Iterator[tuple[str, list[Work], Number]]:
    """(class, works, seconds of each alone): seconds has shape (works, plans)."""
    low = structure.recipe.converts
    plain = [w for w in works if w.kind == "gemm" and not (low and w.low_precision)]
    if plain:
        yield "gemm_16bit", plain, _gemms(plain, sizes, c.high)
    if low:
        cheap = [w for w in works if w.kind == "gemm" and w.low_precision]
        if cheap:
            yield c.low_class, cheap, _gemms(cheap, sizes, c.low)
        converted = [w for w in works if w.low_precision and w.phase != "weight_gradient"]
        if converted:
            yield "convert", converted, _converted(converted, sizes, structure.recipe.conversion_bytes, c.high)
    grouped = [w for w in works if w.kind == "grouped_gemm"]
    if grouped:
        # A group of one is a plain product: only the rest has the in-step rate of grouped ones.
        seconds, one = _grouped(grouped, sizes, c.low if low else c.high)
        yield c.low_class if low else "gemm_16bit", grouped, seconds * one
        yield "grouped", grouped, seconds * (1 - one)
    for backward in (False, True):
        cores = [w for w in works if w.kind == "attention" and (w.phase != "forward") == backward]
        if cores:
            yield "attention", cores, _attention(cores, sizes, seen, c, backward)
    if structure.context_kind == "ring":
        cores = [w for w in works if w.source == "attention"]
        if cores:
            yield "memory", cores, _ring_merges(cores, sizes, c.high)
    for kind in ("scan", "recurrence"):
        for backward in (False, True):
            scans = [w for w in works if w.kind == kind and (w.phase != "forward") == backward]
            if scans:
                yield "scan", scans, _scans(scans, sizes, seen, c, backward)
    for work_class, chosen in (("memory", False), ("permute", True)):
        moved = [w for w in works if w.kind == "memory" and (w.source in PERMUTES) == chosen]
        if moved:
            traffic = stack([(seen if w.masked_flops else sizes).size(w.bytes) * w.passes for w in moved], sizes.shape)
            yield work_class, moved, memory_seconds(traffic, _each([w.launches for w in moved], traffic), c.high)


def _each(values: Sequence[float], like: np.ndarray) -> np.ndarray:
    """One value a work, shaped to broadcast over plans."""
    return np.asarray(values).reshape(-1, *[1] * (like.ndim - 1))


def _column(works: Sequence[Work], sizes: Sizes, part: str) -> np.ndarray:
    return stack([sizes.count(getattr(w, part)) for w in works], sizes.shape)


def _traffic(works: Sequence[Work], sizes: Sizes) -> np.ndarray:
    return stack([sizes.size(w.bytes) * w.passes for w in works], sizes.shape)


def _gemms(works: Sequence[Work], sizes: Sizes, k: KernelConstants) -> Number:
    m, n, d = (_column(works, sizes, part) for part in ("rows", "columns", "depth"))
    return gemm_seconds(m, n, d, _traffic(works, sizes), k)


def _grouped(works: Sequence[Work], sizes: Sizes, k: KernelConstants) -> tuple[Number, Number]:
    """Seconds of grouped products, and one over the number of groups."""
    m, n, d, g = (_column(works, sizes, part) for part in ("rows", "columns", "depth", "groups"))
    # In a weight gradient the rows after dispatch are the depth of each expert's product.
    inner = _each([1 if w.phase == "weight_gradient" else 0 for w in works], m)
    rows, depth = m * (1 - inner) + m * g * inner, d * (1 - inner) + d / g * inner
    return grouped_gemm_seconds(rows, n, depth, g, _traffic(works, sizes), k), 1 / g


def _attention(works: Sequence[Work], sizes: Sizes, seen: Sizes, c: StepConstants, backward: bool) -> Number:
    flops = stack([(seen if w.masked_flops else sizes).count(w.flops) for w in works], sizes.shape)
    rows, width = (_column(works, sizes, part) for part in ("rows", "depth"))
    traffic = _traffic(works, sizes)
    return attention_seconds(flops, rows, width, traffic, c.high, backward=backward, peak=c.attention_peak)


def _scans(works: Sequence[Work], sizes: Sizes, seen: Sizes, c: StepConstants, backward: bool) -> Number:
    """Scans of one kind in one phase."""
    k = c.high
    efficiency = k.scan_backward if backward else k.scan_forward
    if works[0].kind == "recurrence":
        efficiency = k.recurrence
    flops = stack([(seen if w.masked_flops else sizes).count(w.flops) for w in works], sizes.shape)
    traffic = _traffic(works, sizes)
    launches = _each([w.launches for w in works], traffic)
    return scan_seconds(flops, traffic, launches, k, efficiency=efficiency, peak=c.attention_peak)


RING_MERGE_BYTES = 12
"""Traffic of merging one element of a ring step into the running result: 32-bit read and write, and the new part."""


def _ring_merges(works: Sequence[Work], sizes: Sizes, k: KernelConstants) -> Number:
    """Each step of ring attention but the first is merged into the running result (Liu 2023, arXiv:2310.01889)."""
    steps = sizes.degree(("cp",)) - 1
    elements = stack([sizes.count(w.rows) * sizes.count(w.depth) for w in works], sizes.shape)
    return steps * memory_seconds(elements * RING_MERGE_BYTES, 1, k)


def _converted(works: Sequence[Work], sizes: Sizes, bytes_each: float, k: KernelConstants) -> Number:
    """Converting the activation operand of each product: rows x depth elements, once for all that read it."""
    elements = stack([sizes.count(w.rows) * sizes.count(w.depth) for w in works], sizes.shape)
    return quantise_seconds(elements * bytes_each, k)


_AXIS_OF = {"tp": "tp", "etp": "tp", "cp": "cp", "ep": "ep"}


def _sent(
    messages: Sequence[Message], sizes: Sizes, columns: Columns, c: StepConstants, copies: int
) -> Iterator[tuple[str, list[Message], WireTime]]:
    """(axis, messages, wire time of each): messages of one collective over one group are rated together."""
    alike: dict[tuple[str, tuple[str, ...]], list[Message]] = {}
    for message in messages:
        alike.setdefault((message.collective, message.axes), []).append(message)
    for (collective, axes), group in alike.items():
        payload = stack([sizes.bytes(m.payload) for m in group], sizes.shape)
        wire = collective_time(collective, payload, *columns.group(axes), c.tiers, copies=copies if "ep" in axes else 1)
        yield _AXIS_OF[axes[0]], group, wire


def _carried(message: Message, phase: str, again: set[str]) -> bool:
    if phase == "recompute":
        return message.phase == "forward" and message.operator in again
    return message.phase == phase
