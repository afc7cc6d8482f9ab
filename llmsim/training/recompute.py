"""Which recomputation a plan needs when nobody says: the lightest under which it fits its devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from ..architecture import Architecture
from ..core.numeric import maximum
from ..core.units import GIB
from ..hardware.software import Software
from ..layers.mla import is_latent
from ..plans.recompute import parse_recompute
from ..timing.columns import Columns
from ..timing.step_constants import StepConstants
from .build_load import kind_parameters
from .memory import memory_of_stage, stage_states
from .problem import Problem
from .saved_activations import model_memory


def recompute_ladder(architecture: Architecture, software: Software) -> tuple[str, ...]:
    """Recompute settings worth trying, from none to everything."""
    modules = ["layernorm", "mlp_act"]
    if any(k.is_moe for k in architecture.kinds.values()):
        modules.append("moe_act")
    if any(map(is_latent, architecture.kinds.values())):
        modules.append("mla_up_proj")
    ladder = ["none", f"selective:{','.join(modules)}"]
    if software.training.early_stop:  # stacks on torch's checkpoint have policies rather than modules
        ladder = ["none", "selective:alternate"]
    return (*ladder, *(f"full@{Fraction(n, 4)}" for n in (1, 2, 3)), "full")


@dataclass(frozen=True)
class RecomputeChoice:
    """A recompute setting that nobody asked for, and why it was taken.

    Attributes
    ----------
    setting
        As a plan says it.
    reason
        In words, with the gibibytes.
    fits
        Whether it does; else it is the heaviest there is.
    """

    setting: str
    reason: str
    fits: bool = True


def lightest_recomputes(problem: Problem, columns: Columns, constants: StepConstants) -> list[RecomputeChoice]:
    """The lightest recomputation under which each plan of a table fits; the plans' own setting is not looked at.

    The ladder starts with what the plan's software does by default. What counts is memory as the driver sees it,
    without headroom: a run that somebody has measured was not stopped by a margin. Where nothing fits it is the
    heaviest.
    """
    software = problem.structure.software
    usual = software.training.defaults.recompute
    ladder = recompute_ladder(problem.architecture, software)
    rungs = [usual, *ladder[ladder.index(usual) + 1 if usual in ladder else 1 :]]
    limit = problem.cluster.profile.memory_bytes.value
    needs: list[np.ndarray] = []
    for setting in rungs:
        needs.append(device_bytes(_with_recompute(problem, setting), columns, constants))
        if np.all(np.minimum.reduce(needs) <= limit):
            break
    fits = np.stack(needs) <= limit
    chosen = np.where(fits.any(axis=0), fits.argmax(axis=0), len(needs) - 1)
    return [_choice(rungs, int(rung), [n[row] for n in needs], limit, software) for row, rung in enumerate(chosen)]


def _with_recompute(problem: Problem, setting: str) -> Problem:
    return replace(problem, structure=replace(problem.structure, recompute=parse_recompute(setting)))


def _choice(
    rungs: Sequence[str], rung: int, needs: Sequence[float], limit: float, software: Software
) -> RecomputeChoice:
    usual, setting = rungs[0], rungs[rung]
    if rung == 0:
        return RecomputeChoice(setting, f"{usual} ({software.name} profile)", bool(needs[0] <= limit))
    bounds = f"{usual} would need {needs[0] / GIB:.0f} GiB of {limit / GIB:.0f} GiB"
    if needs[rung] > limit:
        text = f"{setting} (nothing fits: {bounds}, {setting} {needs[rung] / GIB:.0f} GiB)"
        return RecomputeChoice(setting, text, fits=False)
    return RecomputeChoice(setting, f"{setting} (the lightest that fits: {bounds})")


def device_bytes(problem: Problem, columns: Columns, constants: StepConstants) -> np.ndarray:
    """Memory of the fullest stage as the driver sees it, one entry a plan; nothing is timed."""
    parameters = kind_parameters(problem, columns)
    kinds = model_memory(problem, columns)
    runs = problem.stages(columns)
    states = [stage_states(problem, columns, run, parameters) for run in runs]
    each = [
        memory_of_stage(problem, columns, run, own, kinds, constants).device_bytes
        for run, own in zip(runs, states, strict=True)
    ]
    return np.broadcast_to(np.asarray(maximum(*each), dtype=float), (len(columns),))
