"""How far a predicted step time may be off: an 80 % interval from predictions for runs that a fit had not seen.

References
----------
Split conformal prediction by group: Vovk 2005, Algorithmic Learning in a Random World; with one score a group, the
``ceil(0.8 (G + 1))``-th smallest of G.
"""

from __future__ import annotations

import math

from ..architecture import Architecture
from ..hardware.cluster import Cluster
from ..hardware.fitted import Fit, shipped_fit
from ..hardware.software import Software

NEW_HARDWARE, NEW_FRAMEWORK = "new hardware", "new framework"
DIFFERENCE, MEMORY = "difference", "memory"
NORMAL_80 = 1.2816
"""Half the width of the central 80 % of a normal distribution, in standard deviations."""


MODEL_CLASSES = ("dense", "moe")
"""Kinds of models that a fit tells apart."""


def model_class(architecture: Architecture) -> str:
    """``moe`` for mixtures of experts, else ``dense``."""
    return "moe" if any(kind.is_moe for kind in architecture.kinds.values()) else "dense"


def log_width(
    architecture: Architecture,
    cluster: Cluster,
    software: Software,
    fit: Fit | None = None,
    *,
    adapters: bool = False,
) -> float | None:
    """Half the width of the 80 % interval of a step time whose constants were learned, as a logarithm; None where
    nothing is known.

    It is read from the narrowest regime that has runs enough (kind of model and lineage of the software, else kind of
    model). Where a fit had not seen the hardware or the framework, what predictions for new ones are off beyond those
    for known ones comes on top, as a variance.

    The interval of a plan is wider by what it rests on that no run has moved
    (:mod:`llmsim.training.prior_uncertainty`). Coverage on measured runs is that of this width alone: it was read from
    such runs, with these constants at their priors, and a wider one would hide whether it holds.

    Parameters
    ----------
    fit
        By default the one that ships.
    adapters
        Whether low-rank adapters are trained, which no run of a fit did: as far off as a framework that had no run.
    """
    known = shipped_fit() if fit is None else fit
    kind = model_class(architecture)
    usual = known.intervals.get(kind)
    regime = known.intervals.get(f"{kind}/{software.lineage}") or usual
    novel = []
    if cluster.profile.fitted_as not in known.hardware:
        novel.append(NEW_HARDWARE)
    if adapters or software.name not in known.frameworks:
        novel.append(NEW_FRAMEWORK)
    new = [known.intervals.get(f"{novelty}/{kind}") for novelty in novel]
    if regime is None or usual is None or None in new:
        return None
    extra = sum(max(0.0, width.log80**2 - usual.log80**2) for width in new if width is not None)
    return math.sqrt(regime.log80**2 + extra)


def unseen(cluster: Cluster, software: Software, fit: Fit | None = None) -> bool:
    """Whether a fit has no run on these devices, or none of this framework."""
    known = shipped_fit() if fit is None else fit
    return cluster.profile.fitted_as not in known.hardware or software.name not in known.frameworks


def around(value: float, width: float) -> tuple[float, float]:
    """The interval of a value with half a width that is a logarithm."""
    return value * math.exp(-width), value * math.exp(width)


def difference_width(architecture: Architecture, software: Software, fit: Fit | None = None) -> float | None:
    """Half the width of the 80 % interval of the ratio of two plans' step times on one job, as a logarithm: what they
    are off together cancels. None where nothing is known."""
    intervals = (shipped_fit() if fit is None else fit).intervals
    kind = f"{DIFFERENCE}/{model_class(architecture)}"
    known = intervals.get(f"{kind}/{software.lineage}") or intervals.get(kind)
    return None if known is None else known.log80


def memory_width(fit: Fit | None = None) -> float | None:
    """Half the width of the 80 % interval of the memory that the driver sees, as a logarithm; None where nothing is
    known."""
    known = (shipped_fit() if fit is None else fit).intervals.get(MEMORY)
    return None if known is None else known.log80


def out_of_memory_chance(device_bytes: float, memory_bytes: float, width: float | None) -> float | None:
    """The chance that a plan needs more than the device has, from a log-normal error with that 80 % interval.

    Parameters
    ----------
    device_bytes, memory_bytes
        Predicted, and what there is.
    """
    if width is None:
        return None
    return 0.5 * math.erfc(math.log(memory_bytes / device_bytes) * NORMAL_80 / width / math.sqrt(2))


def safe_headroom(chance: float, width: float) -> float:
    """The share of the memory that must stay free for a chance of running out of it."""
    from statistics import NormalDist

    return 1 - math.exp(-max(0.0, NormalDist().inv_cdf(1 - chance)) * width / NORMAL_80)
