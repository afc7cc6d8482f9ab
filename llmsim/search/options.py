"""Options of a search: what a plan may risk, how it is chosen, how many are shown."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.arguments import real, whole
from ..core.errors import InputError
from ..hardware.fitted import Fit, checked_fit
from .risk import check_percentile
from .simplest import SIMPLER_WITHIN


@dataclass(frozen=True)
class SearchOptions:
    """How to search, whatever the job and the cluster.

    Attributes
    ----------
    network
        Fabric instead of the cluster's.
    price
        USD per device-hour; None takes the cluster's, else the dated one of the device's profile.
    headroom
        Share of the device's memory that stays free, instead of a chance of running out.
    oom_risk
        The chance of running out of memory that a plan may have, by default 0.05. Where no measured memory says how far
        off a prediction may be, the software profile's headroom stays free.
    percentile
        Choose, of the plans with exact schedules, the one whose time at this percentile is least; None: at the median.
    simpler_within
        Take the simplest plan (:data:`~llmsim.search.simplest.ORDER`) whose step is at most this share longer than the
        fastest one's; by default 0.02, or what a comparison of two plans may be off where that is less.
    fit
        Fitted constants to use instead of those that ship, see :func:`~llmsim.calibration.own_files.calibrate_with`.
    top
        Plans that differ in kind to return.
    cores
        Processes for a large space; None takes as many as the system allows.
    progress
        Show a bar on the error stream where it takes longer than a second.

    Raises
    ------
    InputError
        For a value that cannot be used.
    """

    network: str | None = None
    price: float | None = None
    headroom: float | None = None
    oom_risk: float | None = None
    percentile: float | None = None
    simpler_within: float | None = None
    fit: Fit | None = None
    top: int = 5
    cores: int | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        for name in ("oom_risk", "percentile", "simpler_within"):
            if getattr(self, name) is not None:
                real(getattr(self, name), name)
        whole(self.top, "top")
        if self.cores is not None:
            whole(self.cores, "cores")
        checked_fit(self.fit)
        if self.percentile is not None:
            check_percentile(self.percentile)
            if self.simpler_within is not None:
                raise InputError("simpler_within", self.simpler_within, "this or a percentile, one of the two")
        if self.simpler_within is not None and not 0 <= self.simpler_within <= 1:  # so that NaN is refused
            raise InputError("simpler_within", self.simpler_within, "a share of a step from 0 to 1", SIMPLER_WITHIN)
