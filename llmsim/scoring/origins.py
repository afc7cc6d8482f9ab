"""What the predictions of validated runs rest on: shares of the step time by the origin of the rates behind it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..calibration.runs import RunPlan
from ..core.errors import InputError
from ..training.simulate import simulate_training

ORIGINS = ("interpolated", "fitted", "measured", "extrapolated", "datasheet", "assumed")
"""From the strongest origin to the weakest, as :func:`~llmsim.training.provenance.provenance_shares` names them."""
KNOWN = ("interpolated", "fitted", "measured")
"""Origins that are measurements: fitted to runs, near to runs with such layers or not, or measured alone."""


@dataclass(frozen=True)
class OriginShares:
    """Of the runs of some devices.

    Attributes
    ----------
    groups, rows
        How many runs count; every group weighs the same.
    shares
        Origin -> mean share of the step time whose deciding rate has it.
    known
        Mean share of measured and fitted rates.
    """

    groups: int
    rows: int
    shares: dict[str, float]
    known: float


def origin_shares(items: Sequence[RunPlan]) -> dict[str, OriginShares]:
    """Generation of devices -> shares, under the constants that ship; ``all`` comes last.

    A plan whose last micro-batch is short cannot be simulated alone, and is left out.
    """
    groups: dict[str, dict[str, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        try:
            shares = simulate_training(item.plan, item.architecture, item.cluster).provenance
        except InputError:
            continue
        groups[item.cluster.profile.generation][item.run.group].append(shares)
    found = {name: _mean(list(groups[name].values())) for name in sorted(groups)}
    return {**found, "all": _mean([rows for own in groups.values() for rows in own.values()])} if found else {}


def _mean(groups: Sequence[Sequence[dict[str, float]]]) -> OriginShares:
    means = {
        origin: float(np.mean([np.mean([row.get(origin, 0.0) for row in rows]) for rows in groups]))
        for origin in ORIGINS
    }
    return OriginShares(len(groups), sum(map(len, groups)), means, sum(means[origin] for origin in KNOWN))
