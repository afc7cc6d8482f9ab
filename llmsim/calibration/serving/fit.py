"""Constants of engines from measured servers: a Gauss-Newton fit of logarithms with priors.

What is squared are logarithms of predicted over measured latencies and throughputs. Rows that were measured in one go
(one server, one export, one release) share what they are off, as a random intercept, so that two hundred rows of a
series count as one series and not as two hundred measurements. Priors are log-normal around what profiles state; some
constants have a deviation of their own for each engine.

References
----------
Laird and Ware 1982, doi:10.2307/2529876 (random intercepts); Lange, Little and Taylor 1989,
doi:10.2307/2290063 (robust fits with the t distribution).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ...hardware.constants import moved_by_serving
from ...hardware.engines import engine_names, get_engine
from ..newton import minimise
from .batches import RunBatch, StepTable, run_batches, step_table
from .replays import replayed_run
from .runs import ServingRun

METRICS = ("tpot_s", "ttft_s", "output_tokens_per_s")
NOISE = {"tpot_s": 0.06, "ttft_s": 0.40, "output_tokens_per_s": 0.40}
"""Metric -> standard deviation of the logarithm of one row, beside what its series is off."""
INTERCEPT = {"tpot_s": 0.12, "ttft_s": 0.60, "output_tokens_per_s": 0.30}
"""The same of a series."""
OWN = (
    "host/layer_s", "host/moe_layer_s", "host/request_s", "rates/compute_16bit", "rates/compute_8bit",
    "rates/compute_4bit", "rates/experts_compute",
)  # fmt: skip
"""Constants with a deviation of each engine's own."""
OWN_WIDTH = 0.3
"""Standard deviation of the logarithm of such deviations."""
TAILS = 3.0
"""Degrees of freedom of the distribution of a row: servers that wait, warm up or speculate without saying so are far
off, and must not move constants."""
_STEP = 1e-3


@dataclass(frozen=True)
class Parameter:
    """A logarithm that a fit moves: of one constant, of all engines or of one."""

    key: str
    engine: str
    width: float


@dataclass
class ServingData:
    """Runs as a fit sees them: one residual for each measured metric of a run.

    Attributes
    ----------
    runs
        In the order of their table.
    """

    runs: Sequence[ServingRun]
    batches: list[RunBatch] = field(init=False)

    def __post_init__(self) -> None:
        self.batches = run_batches(self.runs)

    @cached_property
    def engines(self) -> list[str]:
        """Engines of the runs."""
        return sorted({batch.engine for batch in self.batches})

    @cached_property
    def parameters(self) -> list[Parameter]:
        """What moves: the constants in the registry's order, then deviations of engines."""
        shared = [Parameter(c.key, "", float(c.width or 0)) for c in moved_by_serving()]
        return shared + [Parameter(key, engine, OWN_WIDTH) for key in OWN for engine in self.engines]

    @cached_property
    def upper(self) -> np.ndarray:
        """Largest logarithm of each parameter: efficiencies stay at or below 1 for every engine."""
        found = []
        for parameter in self.parameters:
            stated = [stated_rates(b)[parameter.key] for b in self.batches if parameter.engine in ("", b.engine)]
            high = _HIGHS[parameter.key]
            found.append(np.log(high / max(stated)) if np.isfinite(high) and not parameter.engine else np.inf)
        return np.array(found)

    @cached_property
    def measured(self) -> np.ndarray:
        """Logarithms, one row a run and one column a metric; NaN where it was not measured."""
        found = np.full((len(self.runs), len(METRICS)), np.nan)
        for place, run in enumerate(self.runs):
            for column, metric in enumerate(METRICS):
                if run.requests is not None and (value := run.measured.get(metric)) and _means(run, metric):
                    found[place, column] = np.log(value)
        return found

    @cached_property
    def series(self) -> np.ndarray:
        """Number of the series of each run."""
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(run.series, len(numbers)) for run in self.runs])

    @cached_property
    def table(self) -> StepTable:
        """What the runs need priced."""
        return step_table(self.batches)

    @cached_property
    def _stated(self) -> dict[str, np.ndarray]:
        """Key of a constant -> what profiles state, one entry a row of the table."""
        by_engine = {batch.engine: stated_rates(batch) for batch in self.batches}
        engines = self.table.engine
        keys = next(iter(by_engine.values()))
        return {key: np.array([by_engine[engine][key] for engine in engines]) for key in keys}

    def predicted(self, logarithms: np.ndarray) -> np.ndarray:
        """Logarithms of predictions; shape (..., runs, metrics) for parameters of shape (..., parameters).

        NaN for runs that arrive at a rate, which no constant is fitted to.
        """
        rates: dict[str, np.ndarray] = dict(self._stated)
        for place, parameter in enumerate(self.parameters):
            here = (
                np.ones(len(self.table.rows), bool) if not parameter.engine else self.table.engine == parameter.engine
            )
            shift = np.where(here, logarithms[..., place, None], 0.0)
            rates[parameter.key] = rates[parameter.key] * np.exp(shift)
        rates = {key: np.minimum(value, _HIGHS.get(key, np.inf)) for key, value in rates.items()}
        steady = self.table.steady(rates)
        lead = logarithms.shape[:-1]
        found = np.full((*lead, len(self.runs), len(METRICS)), np.nan)
        for column, metric in enumerate(METRICS):
            found[..., self.table.rows, column] = np.log(steady[metric])
        return np.asarray(found + self.corrections)

    @cached_property
    def corrections(self) -> np.ndarray:
        """What the event simulation says beyond the closed form, logarithms, at what profiles state: no measured value
        has a part in it. Shape (runs, metrics); 0 for loads that have no queue."""
        found = np.zeros((len(self.runs), len(METRICS)))
        for batch in self.batches:
            if batch.load not in ("closed", "waves"):
                continue
            rates = stated_rates(batch)
            steady = batch.steady(rates)
            for place, row in enumerate(batch.rows):
                own = replayed_run(self.runs[row], rates)
                for column, metric in enumerate(METRICS):
                    closed = np.broadcast_to(getattr(steady, metric), batch.amount.shape)[place]
                    if own and np.isfinite(own[metric]):
                        found[row, column] = np.log(own[metric] / closed)
        return found

    def values(self, logarithms: np.ndarray) -> dict[str, float]:
        """Path of a constant of an engine -> value; engines without runs have what is common to all."""
        found: dict[str, float] = {}
        for engine in engine_names():
            profile = get_engine(engine)
            own = {key: quantity.value for key, quantity in profile.constants.items()}
            for place, parameter in enumerate(self.parameters):
                if parameter.engine in ("", engine):
                    own[parameter.key] = own[parameter.key] * float(np.exp(logarithms[place]))
            moved = {parameter.key for parameter in self.parameters}
            found |= {f"engines/{engine}/{key}": min(own[key], _HIGHS.get(key, np.inf)) for key in sorted(moved)}
        return found


_HIGHS = {c.key: c.high for c in moved_by_serving()}


def stated_rates(batch: RunBatch) -> Mapping[str, float]:
    """What the engine's profile states, without any fit."""
    return {key: own.value for key, own in batch.prepared.plan.profile.constants.items()}


def _means(run: ServingRun, metric: str) -> bool:
    """Whether a metric of a run says something of the constants: in static batches and offline runs latencies follow
    from the throughput, and a rate below saturation is what was asked for."""
    if run.load in ("offline", "static"):
        return metric == "output_tokens_per_s"
    if run.load == "first token":
        return metric == "ttft_s"
    return metric in ("tpot_s", "ttft_s")


@dataclass
class _Objective:
    """Half the sum of squares of whitened residuals and of priors."""

    data: ServingData
    chosen: np.ndarray

    def __post_init__(self) -> None:
        self.widths = np.array([p.width for p in self.data.parameters])
        arriving = np.array([run.load == "open" for run in self.data.runs])
        self.mask = (self.chosen & ~arriving)[:, None] & np.isfinite(self.data.measured)
        self.weights = _group_weights(self.data)

    def residuals(self, x: np.ndarray) -> np.ndarray:
        """Predicted less measured, NaN where nothing was measured or a run is left out."""
        own = self.data.predicted(x) - self.data.measured
        return np.asarray(np.where(self.mask, own, np.nan))

    def whitened(self, residuals: np.ndarray) -> np.ndarray:
        """Residuals in standard deviations: of their series the mean by its own, the rest by that of a row."""
        found = np.zeros_like(residuals)
        for column, metric in enumerate(METRICS):
            noise, common = NOISE[metric], INTERCEPT[metric]
            own = residuals[..., column]
            there = self.mask[:, column]
            if not there.any():
                continue
            series = self.data.series[there]
            count = np.bincount(series, minlength=int(self.data.series.max()) + 1)
            values = own[..., there]
            sums = values @ np.eye(len(count))[series]
            share = 1 - noise / np.sqrt(noise**2 + np.maximum(count, 1) * common**2)
            means = sums / np.maximum(count, 1)
            found[..., there, column] = (values - (share * means)[..., series]) / noise
        return found

    def cost(self, x: np.ndarray) -> float:
        own = self.whitened(self.residuals(x))
        data = (self.weights[:, None] * (TAILS + 1) / 2 * np.log1p(own**2 / TAILS)).sum()
        return float(data + ((x / self.widths) ** 2).sum() / 2)

    def slopes(self, x: np.ndarray) -> np.ndarray:
        points = np.concatenate([x[None], x + _STEP * np.eye(len(x))])
        own = self.whitened(self.residuals(points))
        return np.asarray((own[1:] - own[:1]) / _STEP).reshape(len(x), -1)

    def normal(self, x: np.ndarray, slopes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own = self.whitened(self.residuals(x)).reshape(-1)
        weight = np.repeat(self.weights, len(METRICS)) * (TAILS + 1) / (TAILS + own**2)
        gradient = slopes @ (weight * own) + x / self.widths**2
        curvature = (slopes * weight) @ slopes.T + np.diag(1 / self.widths**2)
        return gradient, curvature


def _group_weights(data: ServingData) -> np.ndarray:
    """Weight of each run: that of a group grows with the root of its rows, so that none decides alone."""
    count = Counter(run.group for run in data.runs)
    return np.array([min(1.0, (GROUP_ROWS / count[run.group]) ** 0.5) for run in data.runs])


GROUP_ROWS = 20
"""Rows of a group up to which each counts in full."""


def fit_serving(data: ServingData, chosen: np.ndarray) -> np.ndarray:
    """Logarithms of the parameters that some runs lead to.

    Parameters
    ----------
    chosen
        Which runs; the others have no part in it, and neither have those that arrive at a rate.
    """
    found, _ = minimise(_Objective(data, chosen), np.zeros(len(data.parameters)), data.upper)
    return found


def standard_errors(data: ServingData, chosen: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Standard errors of the logarithms, from the curvature."""
    objective = _Objective(data, chosen)
    _, curvature = objective.normal(at, objective.slopes(at))
    return np.asarray(np.sqrt(np.diag(np.linalg.inv(curvature))))
