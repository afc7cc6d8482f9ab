"""The answer to "how far off are the predictions": one entry a row and metric, and the scores that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .._version import __version__
from ..hardware.software import LIKE_NEWEST
from .ranking import RankedSet

SCHEMA = "llmsim.validation/1"

METRICS = ("step_time_s", "tokens_per_s_per_device", "memory_gib", "out_of_memory")
"""What is scored, by the name of the measured column; a throughput only where no step time is given."""


@dataclass(frozen=True)
class Entry:
    """One row and metric.

    Attributes
    ----------
    id, line, group
        Of the row.
    metric
        Name of the measured column.
    measured, predicted
        In the column's unit; true or false for ``out_of_memory``. Predicted is None where the row is skipped.
    low, high
        80 % interval of what a measurement may find, None where it is not known.
    skipped
        Why the row cannot be simulated, or None.
    assumed
        What the row does not say and was taken from a profile: field -> text.
    in_sample
        Whether a constant was fitted on the row's group.
    model, kind, hardware, framework
        Model by name and as ``dense`` or ``moe``; device; framework.
    memory_kind
        What a memory figure counts, empty for other metrics.
    traits
        What sets the run apart: ``fine-tuning``, ``one node, no pipeline``.
    """

    id: str
    line: int
    group: str
    metric: str
    measured: float | bool
    predicted: float | bool | None
    skipped: str | None
    assumed: Mapping[str, str]
    in_sample: bool
    model: str
    kind: str
    hardware: str
    framework: str
    low: float | None = None
    high: float | None = None
    memory_kind: str = ""
    traits: tuple[str, ...] = ()

    @property
    def error(self) -> float:
        """``|predicted / measured - 1|``; 1 for a skipped row, and for a wrong answer to yes or no."""
        if self.predicted is None:
            return 1.0
        if isinstance(self.measured, bool):
            return float(self.predicted != self.measured)
        if not self.measured:
            return float(self.predicted != self.measured)
        return abs(self.predicted / self.measured - 1)


@dataclass(frozen=True)
class Score:
    """Errors over groups, so that a source with many rows does not decide.

    Attributes
    ----------
    groups, rows, skipped
        How many; skipped rows are among the rows and count as an error of 1.
    median, p90
        Of the groups' median errors.
    bias
        Median of the groups' median of ``predicted / measured - 1``, of the rows that were predicted; None for none.
    coverage
        Mean over groups of the share of rows inside their interval; None where no row has one.
    """

    groups: int
    rows: int
    skipped: int
    median: float
    p90: float
    bias: float | None
    coverage: float | None


@dataclass(frozen=True)
class Ranking:
    """How well predictions order comparable runs.

    Attributes
    ----------
    sets
        How many sets of comparable runs there are.
    tau_median, tau_mean, tau_min
        Kendall's tau-b over the sets.
    regret_median, regret_mean, regret_max
        Over the sets.
    """

    sets: int
    tau_median: float
    tau_mean: float
    tau_min: float
    regret_median: float
    regret_mean: float
    regret_max: float


@dataclass(frozen=True)
class Feasibility:
    """Whether what runs is predicted to fit, and what does not is not.

    Attributes
    ----------
    right, wrong
        Rows whose ``out_of_memory`` cell was predicted rightly and wrongly; skipped rows are wrong.
    ran, ran_unpredicted
        Rows with a measured time, and the ids of those that are predicted not to fit.
    """

    right: int
    wrong: int
    ran: int
    ran_unpredicted: tuple[str, ...]


@dataclass(frozen=True)
class Baseline:
    """What a simple rule scores on the same folds.

    Attributes
    ----------
    scores
        Label (``all``, ``dense``, ``moe``) -> score.
    ranking
        None where there are no sets.
    """

    scores: Mapping[str, Score]
    ranking: Ranking | None


@dataclass(frozen=True)
class GroupScore:
    """The rows of one group and metric.

    Attributes
    ----------
    group, metric, rows
        Which.
    median, p90, bias
        Of its rows; bias as in :class:`Score`.
    in_sample
        Whether a constant was fitted on it.
    """

    group: str
    metric: str
    rows: int
    median: float
    p90: float
    bias: float | None
    in_sample: bool


@dataclass(frozen=True)
class ValidationReport:
    """Predictions against measured runs.

    Attributes
    ----------
    file, sha256
        The table, and the digest of its contents.
    constants
        What the predictions rest on, in words.
    refit_without
        What was left out of the refit that predicted it, or None for the constants that ship.
    row_count
        Rows of the table.
    rows
        One entry a row and metric, in the table's order.
    groups
        Scores by group.
    scores
        Metric -> part (``all``, ``in_sample``, ``held_out``) -> label (``all``, ``dense``, ``framework/nemo`` ...) ->
        score.
    feasibility, ranking, ranked_sets
        See the classes; ``ranking`` is None without sets of comparable runs.
    baselines
        Name -> what it scores; only with a refit.
    implausible
        Row id -> what is wrong with its measured time; it is scored as it stands.
    """

    file: str
    sha256: str
    constants: str
    refit_without: str | None
    row_count: int
    rows: Sequence[Entry]
    groups: Sequence[GroupScore]
    scores: Mapping[str, Mapping[str, Mapping[str, Score]]]
    feasibility: Feasibility
    ranking: Ranking | None
    ranked_sets: Sequence[RankedSet]
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    implausible: Mapping[str, str] = field(default_factory=dict)

    @property
    def skipped(self) -> dict[str, list[str]]:
        """Reason -> ids of the rows that it holds for."""
        found: dict[str, list[str]] = {}
        for entry in self.rows:
            if entry.skipped is not None and entry.id not in found.setdefault(entry.skipped, []):
                found[entry.skipped].append(entry.id)
        return found

    @property
    def without_profile(self) -> dict[str, list[str]]:
        """Framework or release that no profile knows, and what it was simulated as -> ids of its rows."""
        found: dict[str, list[str]] = {}
        for entry in self.rows:
            texts = [f"framework: {entry.assumed['framework']}"] if "framework" in entry.assumed else []
            release = entry.assumed.get("framework_release", "")
            texts += [f"release: {release}"] if LIKE_NEWEST in release else []
            for text in texts:
                if entry.id not in found.setdefault(text, []):
                    found[text].append(entry.id)
        return found

    def to_dict(self) -> dict[str, Any]:
        """As JSON wants it, with a schema version."""
        own = {"skipped": self.skipped, "without_profile": self.without_profile}
        return {"schema": SCHEMA, "version": __version__, **asdict(self), **own}
