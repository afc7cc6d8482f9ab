"""The answer to a planning question: plain records, ready for JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .._version import __version__
from ..economics.job import JobCost
from ..plans.training import TrainingPlan
from ..training.result import TrainingResult
from .select import Difference

SCHEMA = "llmsim.training-planning/2"


@dataclass(frozen=True)
class Tradeoff:
    """One point of the trade of time against memory."""

    plan: TrainingPlan
    step_time_s: float
    device_bytes: float


@dataclass(frozen=True)
class PlannedJob:
    """One plan of the answer.

    Attributes
    ----------
    result
        Its simulation.
    job
        What the whole job takes, where its tokens are known.
    behind
        Where it loses against the winner, part by part, in seconds; nothing for the winner.
    chance_it_wins
        The chance that it is faster than the winner; None for the winner, and where comparisons were not measured.
    """

    result: TrainingResult
    job: JobCost | None
    behind: list[Difference] = field(default_factory=list)
    chance_it_wins: float | None = None


@dataclass(frozen=True)
class Percentile:
    """What the winner was chosen by, where it was not the predicted time.

    Attributes
    ----------
    percentile
        Of the step time, of which the winner's is the least among the plans with exact schedules.
    step_time_s
        The winner's there.
    """

    percentile: float
    step_time_s: float


@dataclass(frozen=True)
class NearMiss:
    """A plan that would be faster than the winner if it fitted.

    Attributes
    ----------
    step_time_s
        By its exact schedule.
    lacking_bytes
        Of device memory beyond what a plan may use.
    """

    plan: TrainingPlan
    step_time_s: float
    lacking_bytes: float


@dataclass(frozen=True)
class Undecided:
    """Which plans of the answer the winner may in truth not beat.

    Attributes
    ----------
    log_width
        Half the width of the 80 % interval of the ratio of two plans' times on one job, as a logarithm.
    runners
        Positions in the answer of the plans that are slower by less than that.
    """

    log_width: float
    runners: list[int]


@dataclass(frozen=True)
class Preference:
    """The choice of the simplest plan among those about as fast as the fastest.

    Attributes
    ----------
    within
        Share of the fastest plan's step by which the choice may be slower.
    plans
        How many plans lie within that, by the closed form.
    fastest, step_time_s
        The fastest plan, and its exact time.
    gain
        Share of the chosen plan's step that the fastest one saves; 0 where it is the choice.
    order
        What counts as simpler, the first difference deciding.
    """

    within: float
    plans: int
    fastest: TrainingPlan
    step_time_s: float
    gain: float
    order: str


@dataclass(frozen=True)
class SpreadCounts:
    """What became of the plans that spread layers, or recomputation, in other ways than evenly.

    Attributes
    ----------
    plans
        How many there are: each row with a pipeline under each setting and each such way that the space allows.
    bounded
        Of them, those that a bound on the time of any spread ruled out.
    too_large
        Of the others, those that do not fit however their layers are spread.
    simulated, fitting
        Those that were simulated, and those of these that fit.
    left
        Those that were not looked at, because there were too many.
    """

    plans: int
    bounded: int
    too_large: int
    simulated: int
    fitting: int
    left: int


@dataclass(frozen=True)
class Counts:
    """What became of the plans of the space.

    Attributes
    ----------
    considered
        Combinations of degrees, sizes and settings that were formed, layers and recomputation spread evenly.
    rejected
        Rule -> combinations that it dropped.
    evaluated, fitting
        Plans whose memory was computed, and those that fit.
    bounded
        Of those, plans that a bound on their time ruled out before they were timed.
    simulated
        Plans whose schedule was computed exactly; those of ``spreads`` are not among them.
    proven
        Whether no other plan of the space can be faster than the winner: bounds are never above the exact time, and
        every plan whose bound is below the winner's had its schedule computed.
    bound_gap
        The winner's time over the least bound of a plan whose schedule was not, less 1: not above 0 where it is proven.
        How far the winner may be from the best.
    spreads
        Of plans that do not spread evenly; None where the space has none.
    """

    considered: int
    rejected: dict[str, int]
    evaluated: int
    fitting: int
    bounded: int
    simulated: int
    proven: bool
    bound_gap: float
    spreads: SpreadCounts | None = None


@dataclass(frozen=True)
class TrainingPlanning:
    """The answer to a planning question.

    Attributes
    ----------
    model, cluster
        Names.
    best
        The chosen plan, then others that differ in kind, fastest first; with a percentile all in its order.
    undecided
        Which of them lie within the error of comparisons; None where that is not known.
    preference
        How the first of them was chosen among plans about as fast; None where a percentile chose.
    misses
        Plans of the same kinds that would be faster if they fitted, each with the memory that it lacks.
    pareto
        Plans that no other beats in time and memory.
    counts
        What became of the space. A proof is about predicted times, also where a percentile chose.
    hints
        Changes of the job that would let its plans be better, in words.
    chosen_by
        The percentile that chose among the plans with exact schedules; None: the predicted time and ``preference``.
    assumed
        What was not said and was taken from profiles: field -> text.
    search_s
        Seconds that the search took.
    """

    model: str
    cluster: str
    best: list[PlannedJob]
    undecided: Undecided | None
    preference: Preference | None
    misses: list[NearMiss]
    pareto: list[Tradeoff]
    counts: Counts
    hints: list[str] = field(default_factory=list)
    chosen_by: Percentile | None = None
    assumed: dict[str, str] = field(default_factory=dict)
    search_s: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As JSON wants it, with schema and version."""
        data = asdict(replace(self, best=[]))
        data["best"] = [
            {
                "result": j.result.to_dict(),
                "job": asdict(j.job) if j.job else None,
                "behind": [asdict(d) for d in j.behind],
                "chance_it_wins": j.chance_it_wins,
            }
            for j in self.best
        ]
        data["pareto"] = [{**asdict(t), "plan": t.plan.model_dump()} for t in self.pareto]
        data["misses"] = [{**asdict(m), "plan": m.plan.model_dump()} for m in self.misses]
        if self.preference is not None:
            data["preference"] = {**asdict(self.preference), "fastest": self.preference.fastest.model_dump()}
        return {"schema": SCHEMA, "version": __version__, **data}
