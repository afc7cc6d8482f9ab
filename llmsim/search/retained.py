"""What a search keeps of the plans that it evaluates: all of a small space, the candidates of a large one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from ..core.records import stack_records
from .blocks import Block, Filter
from .space import Table
from .variants import Setting, Variant

SLACK = 0.02
"""How far above the best bound a plan may lie to be kept for its time: exact times of near plans may be in another
order."""
CROWDED = 200_000
"""Plans kept at which those that a better one has put out are dropped."""


@dataclass
class Candidates:
    """Evaluated plans, or those of them that may matter.

    Attributes
    ----------
    table
        Columns of the plans that divide.
    variants
        Structural choices.
    variant, setting, row
        Of each candidate: number of its variant, of its setting there, and of its row in the table.
    step_s
        Closed-form time of a step, never above the exact one; infinite for a plan that does not fit (it was not timed).
    device_bytes
        Memory of the fullest stage as the driver sees it.
    limit_bytes
        What a plan may use.
    evaluated, fitting, bounded
        Plans of the whole space; those of them that fit; those of these that were not timed, since they take longer
        than what is kept.
    slack
        All plans with a bound up to this share above the best are candidates.
    """

    table: Table
    variants: list[Variant]
    variant: np.ndarray
    setting: np.ndarray
    row: np.ndarray
    step_s: np.ndarray
    device_bytes: np.ndarray
    limit_bytes: float
    evaluated: int
    fitting: int
    bounded: int
    slack: float

    @property
    def fits(self) -> np.ndarray:
        """Whether each candidate stays below the memory limit."""
        return self.device_bytes <= self.limit_bytes

    def chosen_setting(self, index: int) -> Setting:
        """What one candidate recomputes and offloads."""
        return self.variants[int(self.variant[index])].settings[int(self.setting[index])]

    def __len__(self) -> int:
        return len(self.step_s)


@dataclass
class RetainedCandidates:
    """Plans kept so far, in pieces."""

    table: Table
    slack: float
    best: float = np.inf
    evaluated: int = 0
    fitting: int = 0
    bounded: int = 0
    least: tuple[float, tuple[np.ndarray, ...]] = (np.inf, ())
    front: list[tuple[float, float]] = field(default_factory=list)
    pieces: list[tuple[np.ndarray, ...]] = field(default_factory=list)
    kinds: dict[object, np.ndarray] = field(default_factory=dict)
    kept: int = 0

    def __post_init__(self) -> None:
        codes = np.stack([self.table[n] for n in ("tp", "pp", "cp", "ep")])
        _, self.code = np.unique(codes, axis=1, return_inverse=True)
        self.code = self.code.reshape(-1)

    def wanted(self, variant: Variant) -> Filter:
        """Rows of a variant whose bound leaves open that one of their plans is near the best, the best of its kind, or
        on the front of time and memory."""

        def choose(where: np.ndarray, offload: int, bound: np.ndarray, least: np.ndarray) -> np.ndarray:
            best = self._kind_best(variant, offload)[self.code[variant.rows[where]]]
            mask: np.ndarray = bound <= np.maximum(best, self.best) * (1 + self.slack)
            open_ = np.flatnonzero(~mask)
            if len(open_) and self.front:
                seconds, used = np.array(self.front).T  # sorted by time, so that memory falls along it
                before = np.searchsorted(seconds, bound[open_], side="right") - 1
                mask[open_] = (before < 0) | (least[open_] < used[before])
            return mask

        return choose

    def _kind_best(self, variant: Variant, offload: int) -> np.ndarray:
        kind = (
            variant.problem.sharding,
            variant.problem.structure.precision,
            variant.rank_order,
            variant.settings.offloads[offload],
        )
        return self.kinds.setdefault(kind, np.full(self.code.max() + 1, np.inf))

    def add(self, number: int, variant: Variant, block: Block) -> None:
        """Take up what may matter of a block."""
        step, memory = block.step_s, block.device_bytes
        self.evaluated += step.size
        self.fitting += block.fitting
        self.bounded += block.bounded
        if np.isinf(self.slack):
            self.keep(number, variant, block, np.ones(step.shape, bool))
            return
        fastest = float(step.min())
        self.best = min(self.best, fastest)
        if not np.isfinite(fastest):
            self._note_least(number, variant, block)
            return
        mask = step <= self.best * (1 + self.slack)
        mask |= self._best_of_kinds(variant, block)
        mask |= self._undominated(step, memory)
        self.keep(number, variant, block, mask)
        if self.kept > CROWDED:
            self._compact()

    def _note_least(self, number: int, variant: Variant, block: Block) -> None:
        """Remember the plan that needs the least memory: the nearest miss where nothing fits."""
        least = int(block.device_bytes.argmin())
        value = float(block.device_bytes.flat[least])
        if value < self.least[0]:
            mask = np.zeros(block.step_s.shape, bool)
            mask.flat[least] = True
            self.least = value, self._piece(number, variant, block, mask)

    def _best_of_kinds(self, variant: Variant, block: Block) -> np.ndarray:
        """The fastest plan of each kind in a block, where no block before had a much faster one."""
        code = self.code[variant.rows[block.where]]
        mask = np.zeros(block.step_s.shape, bool)
        column = block.step_s.min(axis=0)
        best = self._kind_best(variant, block.offload)
        order = np.lexsort((column, code))
        _, first = np.unique(code[order], return_index=True)
        rows = order[first]
        rows = rows[np.isfinite(column[rows]) & (column[rows] <= best[code[rows]] * (1 + self.slack))]
        best[code[rows]] = np.minimum(best[code[rows]], column[rows])
        mask[block.step_s[:, rows].argmin(axis=0), rows] = True
        return mask

    def _undominated(self, step: np.ndarray, memory: np.ndarray) -> np.ndarray:
        """Plans that none before beats in both time and memory; the front is brought up to date with them."""
        mask = np.isfinite(step)
        for seconds, used in self.front[:: max(1, len(self.front) // 10)]:
            mask &= (step < seconds) | (memory < used)
        where = np.flatnonzero(mask)
        own = list(zip(step.flat[where].tolist(), memory.flat[where].tolist(), strict=True))
        self.front = _undominated_points([*self.front, *own])
        on_it = set(self.front)
        found = np.zeros(step.shape, bool)
        found.flat[where] = [point in on_it for point in own]
        return found

    def _piece(self, number: int, variant: Variant, block: Block, mask: np.ndarray) -> tuple[np.ndarray, ...]:
        step, position = np.nonzero(mask)
        rows, setting = variant.rows[block.where[position]], step + block.offload * len(variant.settings.ladder)
        return np.full(len(rows), number), setting, rows, block.step_s[mask], block.device_bytes[mask]

    def keep(self, number: int, variant: Variant, block: Block, mask: np.ndarray) -> None:
        """Keep the plans of a block that a mask ``[recompute, row]`` holds."""
        piece = self._piece(number, variant, block, mask)
        if len(piece[0]):
            self.pieces.append(piece)
            self.kept += len(piece[0])

    def _compact(self) -> None:
        """Drop what is neither near the best any more nor among the last of its kind or on the front."""
        variant, setting, row, step, memory = stack_records(self.pieces)
        front = set(self.front)
        keep = step <= self.best * (1 + self.slack)
        rest = np.flatnonzero(~keep)
        keep[rest] = [p in front for p in zip(step[rest].tolist(), memory[rest].tolist(), strict=True)]
        order = np.lexsort((step, self.code[row]))
        codes = self.code[row][order]
        first = np.flatnonzero(np.diff(codes, prepend=-1))
        rank = np.arange(len(order)) - np.repeat(first, np.diff([*first, len(order)]))
        keep[order[rank < 64]] = True
        self.pieces = [tuple(v[keep] for v in (variant, setting, row, step, memory))]
        self.kept = int(keep.sum())

    def absorb(self, other: RetainedCandidates) -> None:
        """Take over what another pool kept of other plans of the same table."""
        self.evaluated += other.evaluated
        self.fitting += other.fitting
        self.bounded += other.bounded
        self.best = min(self.best, other.best)
        self.least = min(self.least, other.least, key=lambda own: own[0])
        self.front = _undominated_points([*self.front, *other.front])
        self.pieces += other.pieces
        self.kept += other.kept
        for kind, best in other.kinds.items():
            self.kinds[kind] = np.minimum(self.kinds.get(kind, np.inf), best)
        if self.kept > CROWDED:
            self._compact()

    def candidates(self, variants: list[Variant], limit: float) -> Candidates:
        """What was kept, variant by variant."""
        pieces: Iterable[tuple[np.ndarray, ...]] = self.pieces
        if not self.pieces:
            pieces = [self.least[1]]
        variant, setting, row, step, memory = stack_records(list(pieces))
        order = np.argsort(variant, kind="stable")
        variant, setting, row, step, memory = (v[order] for v in (variant, setting, row, step, memory))
        return Candidates(
            self.table, variants, variant, setting, row, step, memory, limit, self.evaluated, self.fitting,
            self.bounded, self.slack,
        )  # fmt: skip


def _undominated_points(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (time, memory) those that no other beats in both, by time."""
    front: list[tuple[float, float]] = []
    for point in sorted(points):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front
