"""How far constants may lie from what their profiles say before any run has spoken: the priors of a fit, and the doubt
about what it has not learned."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

LEARNED = 0.9
"""A constant counts as learned where its standard error is below this part of its prior's spread."""


@dataclass(frozen=True)
class Spread:
    """Of the prior of a constant.

    Attributes
    ----------
    log
        Standard deviation of the logarithm.
    fraction
        Whether values stay at or below 1.
    """

    log: float
    fraction: bool

    def learned(self, error: float | None) -> bool:
        """Whether runs have narrowed it to a standard error of the logarithm; None: nobody states one."""
        return error is None or error < LEARNED * self.log


def _fraction(log: float) -> Spread:
    return Spread(log, True)


def _free(log: float) -> Spread:
    return Spread(log, False)


SPREADS: dict[str, Spread] = {
    "generations/*/in_situ/gemm_32bit": _fraction(0.15),
    "generations/*/in_situ/gemm_16bit": _fraction(0.12),
    "generations/*/in_situ/gemm_8bit": _fraction(0.15),
    "generations/*/in_situ/gemm_4bit": _fraction(0.15),
    "generations/*/in_situ/grouped": _fraction(0.25),
    "generations/*/in_situ/attention": _fraction(0.20),
    "generations/*/in_situ/scan": _fraction(0.60),  # no figure of its law is published
    "generations/*/in_situ/memory": _fraction(0.20),
    "generations/*/in_situ/permute": _fraction(0.40),
    "generations/*/in_situ/convert": _fraction(0.25),
    "devices/*/in_situ": _fraction(0.06),
    "devices/*/scale_up/efficiency": _fraction(0.15),
    "networks/*/efficiency": _fraction(0.30),
    "software/*/rates/in_situ/*": _fraction(0.15),
    "software/*/rates/attention/*": _fraction(0.25),
    "software/*@*/rate": _fraction(0.08),
    "software/*@*/moe_layer": _free(0.30),
    "software/*/host/launch_s": _free(0.60),
    "software/*/host/moe_layer_s*": _free(0.80),
    "software/*/host/microbatch_s": _free(0.80),
    "software/*/host/step_s": _free(0.80),
    "software/*/overlap/gradient": _fraction(0.25),
    "software/*/overlap/parameter": _fraction(0.25),
    "software/*/overlap/tensor": _fraction(0.40),
    "software/*/overlap/expert": _fraction(0.40),
    "software/*/overlap/tensor_on": _fraction(0.25),
    "software/*/overlap/expert_on": _fraction(0.25),
}
"""Pattern of the path of a constant -> the spread of its prior. What is not here no fit of step times moves."""


@lru_cache(maxsize=1024)
def prior_spread(path: str) -> Spread | None:
    """The spread of the prior of a constant; None for one that no fit of step times moves.

    Parameters
    ----------
    path
        Of one constant, such as ``software/megatron-core/overlap/parameter``.
    """
    return next((spread for pattern, spread in SPREADS.items() if fnmatchcase(path, pattern)), None)
