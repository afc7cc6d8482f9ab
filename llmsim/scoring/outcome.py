"""What is predicted for one row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..calibration.runs import RunPlan
from ..calibration.table import MEMORY_KINDS
from ..hardware.fitted import shipped_fit
from ..timing.intervals import around, log_width
from .predict import Predictions, Rated, predict


@dataclass(frozen=True)
class Outcome:
    """The prediction of a row.

    Attributes
    ----------
    item
        What the row describes.
    step_s
        Seconds of a step.
    memory_gib
        Kind of figure -> GiB of the fullest stage.
    fits
        Whether it stays within the device.
    log_width
        Half the width of the 80 % interval of the step time, None where it is not known.
    in_sample
        Whether a constant was fitted on the row's group.
    """

    item: RunPlan
    step_s: float
    memory_gib: Mapping[str, float]
    fits: bool
    log_width: float | None
    in_sample: bool

    @property
    def interval_s(self) -> tuple[float | None, float | None]:
        """The 80 % interval of the step time."""
        return (None, None) if self.log_width is None else around(self.step_s, self.log_width)


def outcomes(
    rated: Rated, found: Predictions, widths: list[float | None], fitted_on: frozenset[str]
) -> dict[str, Outcome]:
    """Row id -> outcome, of the rows whose prediction is a finite number above 0.

    Parameters
    ----------
    fitted_on
        Groups that constants were fitted on.
    """
    result: dict[str, Outcome] = {}
    for row, item in enumerate(rated.items):
        seconds = float(found.step_s[row])
        if np.isfinite(seconds) and seconds > 0:
            memory = {kind: found.memory_gib(row, kind) for kind in MEMORY_KINDS}
            seen = item.run.group in fitted_on
            result[item.run.id] = Outcome(item, seconds, memory, bool(found.fits[row]), widths[row], seen)
    return result


def shipped_outcomes(rated: Rated) -> dict[str, Outcome]:
    """Outcomes under the constants that ship."""
    widths = [log_width(item.architecture, item.cluster, item.plan.software) for item in rated.items]
    return outcomes(rated, predict(rated), widths, frozenset(shipped_fit().groups))
