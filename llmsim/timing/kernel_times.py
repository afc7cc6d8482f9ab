"""Rates of one layer kind: its counts turned into seconds by class of work, and its messages into wire time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from ..core.messages import Message
from ..core.numeric import Number, plain_number, stack, where
from ..core.operator_kinds import OPERATOR_KINDS
from ..core.records import map_numbers
from ..core.terms import Sizes, Term, Terms
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
from .columns import Columns, kind_sizes, take, visible_sizes
from .step_constants import StepConstants
from .structure import Structure, layer_terms

PHASES = ("forward", "backward", "recompute")


@dataclass
class PhaseSeconds:
    """One pass of one layer over one micro-batch on one rank.

    Attributes
    ----------
    classes
        Class of work -> seconds of its kernels alone (before the in-step efficiency).
    launches
        Kernels launched and collectives issued.
    wires
        Axis that a transfer belongs to (``tp``, ``cp``, ``ep``) -> its seconds alone.
    """

    classes: dict[str, Number] = field(default_factory=dict)
    launches: Number = 0
    wires: dict[str, WireTime] = field(default_factory=dict)

    def add(self, work_class: str, seconds: Number) -> None:
        """Add kernels of a class."""
        self.classes[work_class] = self.classes.get(work_class, 0) + seconds

    def slowed(self, factor: Number) -> PhaseSeconds:
        """The same with kernels and launches slower by a factor."""
        return PhaseSeconds({n: v * factor for n, v in self.classes.items()}, self.launches * factor, self.wires)

    def send(self, axis: str, wire: WireTime, launches: Number) -> None:
        """Add transfers, which are launched as kernels are."""
        self.wires[axis] = self.wires.get(axis, NO_TRAFFIC) + wire
        self.launches = self.launches + launches


@dataclass
class KindSeconds:
    """Forward, backward and recomputation of one layer kind.

    Attributes
    ----------
    phases
        ``forward``, ``backward`` and ``recompute`` (what backward computes again in a recomputing layer); where it
        is wanted also ``weight``, the part of backward that computes gradients of weights: products only.
    is_moe
        1 where it dispatches tokens to experts, else 0.
    """

    phases: dict[str, PhaseSeconds]
    is_moe: Number

    def slowed(self, factor: Number) -> KindSeconds:
        """The same with kernels and their launches slower by a factor, transfers as they are."""
        return KindSeconds({name: phase.slowed(factor) for name, phase in self.phases.items()}, self.is_moe)


@dataclass(frozen=True)
class Keyed:
    """The distinct plans of a table in the columns that something depends on.

    Attributes
    ----------
    columns
        One row each.
    rows
        For each plan of the table, its row here; None where each has its own.
    """

    columns: Columns
    rows: np.ndarray | None = None


class _Values:
    """Sizes of a layer kind for keyed plans; in ``seen`` the context is the mean number of visible positions."""

    def __init__(self, kind: LayerKind, structure: Structure, keyed: Keyed):
        self.columns, self.rows = keyed.columns, keyed.rows
        self.sizes = kind_sizes(kind, keyed.columns, structure)
        self.seen = visible_sizes(kind, self.sizes, structure.documents)


@dataclass(frozen=True)
class _Rated:
    """Works of one class (messages of one group) with their seconds, one row each.

    ``launched``: 1 where a member is anything at all, 0 where it is a message of a rank to itself.
    """

    name: str
    members: Sequence[Any]
    seconds: Any
    values: _Values
    launched: Number = 1

    def total(self, chosen: list[int]) -> Any:
        """Summed over some of them, one entry a plan; what does not depend on the member is the same for each."""
        axes = len(self.values.sizes.shape) + 1

        def add(seconds: Number) -> Number:
            whole = seconds[chosen].sum(axis=0) if np.ndim(seconds) == axes else seconds * len(chosen)
            return plain_number(take(whole, self.values.rows))

        return map_numbers(self.seconds, add)


class KindRates:
    """Isolated seconds of every kernel and message of a layer kind, from which those of its passes are summed.

    Recomputation says which forward work is done twice, not how long it takes: one rating serves all its settings.

    Parameters
    ----------
    whole, dense
        The plans of a table; the distinct ones for all that has no part in expert parallelism.
    named
        Given the class of some works, these and their seconds, one each, returns the seconds to take: closed forms give
        them names.
    slower
        By how much layers of these shapes take longer than that, one entry a distinct plan of ``whole``.
    """

    def __init__(
        self,
        kind: LayerKind,
        structure: Structure,
        whole: Keyed,
        dense: Keyed,
        constants: StepConstants,
        named: Callable[[str, Sequence[Work], Number], Number] | None = None,
        slower: Number | None = None,
    ):
        terms = layer_terms(kind, structure)
        routed = _Values(kind, structure, whole)
        plain = routed if dense is whole else _Values(kind, structure, dense)
        copies = 1
        if structure.software.stack.dispatch == "once_per_domain":
            copies = kind.sizes.get("top_k", 1)
        groups = kind.sizes.get("expert_groups", 1), kind.sizes.get("groups_per_token", 1)
        self._moe, self._work = int(kind.is_moe), terms.work
        # Where products do not add their weight gradients themselves, autograd adds one tensor after the other.
        apart = not structure.software.stack.accumulates_in_place
        self._accumulated = sum(not p.frozen for p in terms.parameters) if apart else 0
        self._works = list(_rated(terms.work, plain, routed, structure, constants))
        if named is not None:
            self._works = [replace(r, seconds=named(r.name, r.members, r.seconds)) for r in self._works]
        self._messages = list(_sent(terms.messages, plain, routed, constants, copies, groups))
        self._slower = None if slower is None else plain_number(take(slower, whole.rows))
        self._passes = {name: self._phase(name, frozenset()) for name in ("forward", "backward")}

    def seconds(self, again: frozenset[str], *, split: bool = False) -> KindSeconds:
        """Seconds of a layer that computes the operators ``again`` anew in backward.

        Parameters
        ----------
        split
            Whether the gradients of weights are wanted apart, as a phase ``weight`` beside the whole backward pass.
        """
        phases = {**self._passes, "recompute": self._phase("recompute", again)}
        if split:
            phases["weight"] = self._phase("weight", frozenset())
        found = KindSeconds(phases, self._moe)
        return found if self._slower is None else found.slowed(self._slower)

    def _phase(self, name: str, again: frozenset[str]) -> PhaseSeconds:
        phase = PhaseSeconds(launches=sum(w.launches for w in self._work if _belongs(w, name, again)))
        if name == "backward":
            phase.launches += self._accumulated
        for rated in self._works:
            chosen = [i for i, w in enumerate(rated.members) if _belongs(w, name, again)]
            if chosen:
                phase.add(rated.name, rated.total(chosen))
        for rated in self._messages:
            chosen = [i for i, m in enumerate(rated.members) if _carried(m, name, again)]
            if chosen:
                phase.send(rated.name, rated.total(chosen), len(chosen) * take(rated.launched, rated.values.rows))
        return phase


_EXPERT_AXES = frozenset({"ep", "etp", "edp"})


def _routed(terms: Iterable[Term]) -> bool:
    """Whether anything depends on how experts are laid out, or on the routing to them."""
    return any(t.expected or any(not _EXPERT_AXES.isdisjoint(axes) for _, axes in t.factors) for t in terms)


def _terms(work: Work) -> Terms:
    return (*work.flops, *work.bytes, *work.rows, *work.columns, *work.depth, *work.groups)


def _belongs(work: Work, phase: str, again: frozenset[str]) -> bool:
    if phase == "backward":
        return work.phase != "forward"
    if phase == "weight":
        return work.phase == "weight_gradient"
    return work.phase == "forward" and (phase == "forward" or not again.isdisjoint(work.operators))


def _rated(
    works: Sequence[Work], plain: _Values, routed: _Values, structure: Structure, c: StepConstants
) -> Iterator[_Rated]:
    """The works by class, each rated alone."""
    low = structure.recipe.converts

    def values(group: Sequence[Work]) -> _Values:
        return routed if plain is routed or any(_routed(_terms(w)) for w in group) else plain

    def rated(name: str, group: Sequence[Work], rate: Callable[[Sequence[Work], _Values], Number]) -> Iterator[_Rated]:
        if group:
            yield _Rated(name, group, rate(group, v := values(group)), v)

    dense = [w for w in works if w.kind == "gemm" and not (low and w.low_precision)]
    yield from rated(c.high_class, dense, lambda g, v: _gemms(g, v.sizes, c.high))
    if low:
        cheap = [w for w in works if w.kind == "gemm" and w.low_precision]
        yield from rated(c.low_class, cheap, lambda g, v: _gemms(g, v.sizes, c.low))
        converted = [w for w in works if w.low_precision and w.phase != "weight_gradient"]
        bytes_each = structure.recipe.conversion_bytes
        yield from rated("convert", converted, lambda g, v: _converted(g, v.sizes, bytes_each, c.high))
    grouped = [w for w in works if w.kind == "grouped_gemm"]
    if grouped:
        # A group of one is a plain product: only the rest has the in-step rate of grouped ones.
        own = values(grouped)
        seconds, one = _grouped(grouped, own.sizes, c.low if low else c.high)
        yield _Rated(c.low_class if low else c.high_class, grouped, seconds * one, own)
        yield _Rated("grouped", grouped, seconds * (1 - one), own)
    cores = [w for w in works if w.kind == "attention"]
    for backward in (False, True):
        half = [w for w in cores if (w.phase != "forward") == backward]
        yield from rated("attention", half, partial(_attention, c=c, backward=backward))
    if "ring" in structure.context_kind:
        merged = [w for w in cores if w.source == "attention"]
        yield from rated("memory", merged, lambda g, v: _ring_merges(g, v.sizes, c.high))
    for kind in ("scan", "recurrence"):
        for backward in (False, True):
            half = [w for w in works if w.kind == kind and (w.phase != "forward") == backward]
            yield from rated("scan", half, partial(_scans, c=c, backward=backward))
    for name, permutes in (("memory", False), ("permute", True)):
        moved = [w for w in works if w.kind == "memory" and _sorts_rows(w) == permutes]
        yield from rated(name, moved, lambda g, v: _moved(g, v.sizes, v.seen, c.high))


def _sorts_rows(work: Work) -> bool:
    return work.source in OPERATOR_KINDS and OPERATOR_KINDS[work.source].sorts_rows


def _moved(works: Sequence[Work], sizes: Sizes, seen: Sizes, k: KernelConstants) -> Number:
    traffic = stack([(seen if w.masked_flops else sizes).size(w.bytes) * w.passes for w in works], sizes.shape)
    return memory_seconds(traffic, _each([w.launches for w in works], traffic), k)


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


def _attention(works: Sequence[Work], values: _Values, c: StepConstants, backward: bool) -> Number:
    sizes, seen = values.sizes, values.seen
    flops = stack([(seen if w.masked_flops else sizes).count(w.flops) for w in works], sizes.shape)
    rows, width = (_column(works, sizes, part) for part in ("rows", "depth"))
    traffic = _traffic(works, sizes)
    return attention_seconds(flops, rows, width, traffic, c.high, backward=backward, peak=c.attention_peak)


def _scans(works: Sequence[Work], values: _Values, c: StepConstants, backward: bool) -> Number:
    """Scans of one kind in one phase."""
    k, sizes = c.high, values.sizes
    efficiency = k.scan_backward if backward else k.scan_forward
    if works[0].kind == "recurrence":
        efficiency = k.recurrence
    flops = stack([sizes.count(w.flops) for w in works], sizes.shape)
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


_AXIS_OF = {"tp": "tp", "etp": "tp", "cp": "cp", "ulysses": "cp", "ep": "ep"}


def _sent(
    messages: Sequence[Message],
    plain: _Values,
    routed: _Values,
    c: StepConstants,
    copies: int,
    groups: tuple[int, int],
) -> Iterator[_Rated]:
    """The messages by axis, each rated alone: those of one collective over one group are rated together."""
    alike: dict[tuple[str, tuple[str, ...]], list[Message]] = {}
    for message in messages:
        alike.setdefault((message.collective, message.axes), []).append(message)
    for (collective, axes), group in alike.items():
        own = plain if _EXPERT_AXES.isdisjoint(axes) and not _routed(m.payload for m in group) else routed
        payload = stack([own.sizes.bytes(m.payload) for m in group], own.sizes.shape)
        spans = own.columns.group(axes)
        own_copies = copies if "ep" in axes else 1
        wire = collective_time(collective, payload, *spans, c.tiers, copies=own_copies, groups=groups)
        yield _Rated(_AXIS_OF[axes[0]], group, wire, own, where(spans[0] > 1, 1.0, 0.0))


def _carried(message: Message, phase: str, again: frozenset[str]) -> bool:
    if phase == "recompute":
        return message.phase == "forward" and message.operator in again
    return message.phase == phase
