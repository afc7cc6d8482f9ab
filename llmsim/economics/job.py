"""A training job in days, money and energy, from the time of a step.

References
----------
Energy as accelerator-hours times power times the building's overhead: Patterson 2021, arXiv:2104.10350.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..core.units import DAY_S, HOUR_S
from ..hardware.cluster import Cluster

POWER_USAGE_EFFECTIVENESS = 1.1
"""Facility power over device power where nobody says: 1.10 is what Patterson 2021 reports for Google's data centres."""


@dataclass(frozen=True)
class JobCost:
    """What a job takes, excludes failures and restarts.

    Attributes
    ----------
    steps
        Optimizer steps, rounded up.
    days
        Of running.
    device_hours
        Devices times hours.
    cost_usd, price_usd_per_device_hour, price_source, price_date
        At the price given with the cluster, else the device's dated one.
    energy_kwh
        At the board's power limit and the facility's overhead, an upper figure: ``energy_basis`` says so.
    energy_basis
        How the energy was obtained.
    days_interval, cost_interval_usd
        80 % intervals, as wide as that of the step; None where that is not known.
    """

    steps: int
    days: float
    device_hours: float
    cost_usd: float
    price_usd_per_device_hour: float
    price_source: str
    price_date: str
    energy_kwh: float
    energy_basis: str
    days_interval: tuple[float, float] | None = None
    cost_interval_usd: tuple[float, float] | None = None


def job_cost(
    step_time_s: float,
    tokens_per_step: int,
    tokens: float,
    cluster: Cluster,
    interval_s: tuple[float, float] | None = None,
) -> JobCost:
    """What training on ``tokens`` tokens takes.

    Parameters
    ----------
    interval_s
        80 % interval of the step time, where it is known.
    """
    device = cluster.profile
    steps = -int(-tokens // tokens_per_step)
    seconds = steps * step_time_s
    hours = cluster.n_devices * seconds / HOUR_S
    price, source, date = device_price(cluster)
    return JobCost(
        steps=steps,
        days=seconds / DAY_S,
        device_hours=hours,
        cost_usd=hours * price,
        price_usd_per_device_hour=price,
        price_source=source,
        price_date=date,
        energy_kwh=hours * device.power_w.value * POWER_USAGE_EFFECTIVENESS / 1000,
        days_interval=None if interval_s is None else _scaled(interval_s, seconds / DAY_S / step_time_s),
        cost_interval_usd=None if interval_s is None else _scaled(interval_s, hours * price / step_time_s),
        energy_basis=f"upper figure: {device.power_w.value:g} W boards, facility factor {POWER_USAGE_EFFECTIVENESS}",
    )


def _scaled(interval: tuple[float, float], factor: float) -> tuple[float, float]:
    return interval[0] * factor, interval[1] * factor


def device_price(cluster: Cluster) -> tuple[float, str, str]:
    """USD per device-hour, whose figure that is, and its date."""
    if cluster.price_usd_per_device_hour is not None:
        return cluster.price_usd_per_device_hour, "given", ""
    price = cluster.profile.price
    return price.value, f"{price.provenance}: {price.source}", price.date
