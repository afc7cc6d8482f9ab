"""What would change a quantity: rates by a tenth, and plans that differ in one setting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from ..architecture import Architecture
from ..core.errors import LlmsimError
from ..core.symbolic import Symbolic
from ..hardware.cluster import Cluster
from ..hardware.constants import Constant
from ..hardware.fitted import Fit
from ..plans.rules import violations
from ..plans.training import TrainingPlan
from ..timing.columns import Columns
from ..timing.step_constants import StepConstants
from ..training.problem import Problem
from ..training.recompute import recompute_ladder
from ..training.result import TrainingResult
from ..training.simulate import simulate_training
from .closed_form import Form
from .quantities import simulated
from .rates import SHAPE, rates, scaled

STEP = 0.1
"""By how much a rate is made better: more of a bandwidth, less of a latency."""


@dataclass(frozen=True)
class RateLever:
    """What a rate does to a quantity.

    Attributes
    ----------
    symbol, meaning, unit, value
        The rate.
    derivative, elasticity
        Exact, of the closed form: d quantity / d rate, and d ln quantity / d ln rate.
    factor
        What the rate is multiplied with for the finite change.
    quantity
        The simulated quantity then.
    change
        Relative to the plan's: -0.012 is 1.2 % less.
    lever
        Whether somebody can change it (hardware, software), or it says how a kernel's form was fitted.
    """

    symbol: str
    meaning: str
    unit: str
    value: float
    derivative: float
    elasticity: float
    factor: float
    quantity: float
    change: float
    lever: bool


def rate_levers(form: Form, name: str, problem: Problem, columns: Columns, constants: StepConstants) -> list[RateLever]:
    """Every rate that a quantity depends on, the one whose finite change does most first.

    Parameters
    ----------
    name
        Of the quantity.
    problem, columns, constants
        The plan in numbers, simulated again with each rate a tenth better.
    """
    quantity = form.quantities[name]
    adjoints, now, known = form.table.adjoints(quantity), float(quantity), rates()
    found = []
    for symbol, slope in adjoints.items():
        if symbol not in known or not slope:
            continue
        rate, definition = known[symbol], form.table.definitions[symbol]
        value = float(definition.value)
        factor = _better(rate, value)
        then = now
        if factor != 1:
            then = simulated(problem, columns, scaled(constants, symbol, factor), form.global_batch)[name]
        found.append(
            RateLever(
                symbol, definition.meaning, rate.unit, value, slope, slope * value / now, factor, then, then / now - 1,
                rate.lever,
            )
        )  # fmt: skip
    return sorted(found, key=lambda lever: -abs(lever.change))


def _better(rate: Constant, value: float) -> float:
    """A tenth better, as far as the rate can be."""
    if not rate.more:
        return max(1 - STEP, rate.low / value)
    return min(1 + STEP, 1 / value) if rate.fraction else 1 + STEP


def size_derivatives(form: Form, name: str) -> dict[str, dict[str, float]]:
    """Degrees and sizes -> derivative and elasticity of a quantity."""
    quantity = form.quantities[name]
    if not isinstance(quantity, Symbolic):
        return {}
    found, known = {}, rates()
    for symbol, slope in form.table.adjoints(quantity).items():
        definition = form.table.definitions[symbol]
        if definition.tree is None and symbol not in known and symbol != SHAPE and slope:
            value = float(definition.value)
            found[symbol] = {"value": value, "derivative": slope, "elasticity": slope * value / float(quantity)}
    return found


@dataclass(frozen=True)
class Neighbour:
    """A plan that differs in one setting.

    Attributes
    ----------
    change
        What differs, in words.
    settings
        Fields of the plan, with the data-parallel degree that makes up for others.
    plan
        The plan as text.
    step_time_s, step_change
        Of its simulated step, and relative to the plan's.
    device_bytes, fits
        Its memory, and whether there is as much.
    difference_s
        Part of the step -> seconds more than in the plan's.
    slowest_moved
        Whether other layers than in the plan are on the slowest stage, whose kernels the parts are.
    """

    change: str
    settings: dict[str, Any]
    plan: str
    step_time_s: float
    step_change: float
    device_bytes: float
    fits: bool
    difference_s: dict[str, float]
    slowest_moved: bool


def neighbours(
    plan: TrainingPlan,
    result: TrainingResult,
    architecture: Architecture,
    cluster: Cluster,
    fit: Fit | None = None,
) -> list[Neighbour]:
    """Valid plans that differ in one setting, simulated, the fastest first."""
    found = []
    for change, settings in _settings(plan, architecture):
        try:
            other = plan.replace(**settings)
            if other.global_batch_size % (other.micro_batch_size * other.data_parallel):
                continue
            if violations(other, architecture, cluster.n_devices):
                continue
            then = simulate_training(other, architecture, cluster, fit=fit)
        except (ValidationError, LlmsimError):
            continue  # a neighbour that does not exist
        parts = {n: then.breakdown_s[n] - s for n, s in result.breakdown_s.items() if then.breakdown_s[n] != s}
        found.append(
            Neighbour(
                change, settings, str(other), then.step_time_s, then.step_time_s / result.step_time_s - 1,
                then.device_bytes, then.fits, parts, _slowest(then) != _slowest(result),
            )
        )  # fmt: skip
    return sorted(found, key=lambda n: n.step_time_s)


def _slowest(result: TrainingResult) -> set[str]:
    """Kinds of layers on the slowest stage."""
    return set(max(result.stages, key=lambda stage: stage.forward_s + stage.backward_s).layers)


_DEGREES = {"tensor_parallel": "TP", "context_parallel": "CP", "pipeline_parallel": "PP"}


def _settings(plan: TrainingPlan, architecture: Architecture) -> Iterator[tuple[str, dict[str, Any]]]:
    """(words, fields) of the plans next to one."""
    dp = plan.data_parallel
    for field, word in _DEGREES.items():
        degree = getattr(plan, field)
        if dp % 2 == 0:
            yield f"{word}{degree} -> {word}{2 * degree} (DP{dp // 2})", {field: 2 * degree, "data_parallel": dp // 2}
        if degree % 2 == 0:
            yield f"{word}{degree} -> {word}{degree // 2} (DP{2 * dp})", {field: degree // 2, "data_parallel": 2 * dp}
    for field, word in {
        "expert_parallel": "EP",
        "micro_batch_size": "micro-batch ",
        "virtual_pipeline": "chunks ",
    }.items():
        own = getattr(plan, field)
        for other in (2 * own, own // 2) if own % 2 == 0 else (2 * own,):
            yield f"{word}{own} -> {word}{other}", {field: other}
    for setting in recompute_ladder(architecture, plan.software):
        if setting != plan.recompute:
            yield f"recompute {plan.recompute} -> {setting}", {"recompute": setting, "recompute_layers": "uniform"}
    choices = plan.software.training.choices
    yield from ((f"{plan.sharding} -> {s}", {"sharding": s}) for s in choices.sharding if s != plan.sharding)
    yield from ((f"{plan.schedule_name} -> {s}", {"schedule": s}) for s in choices.schedule if s != plan.schedule_name)
    yield from ((f"{plan.context_kind} -> {k}", {"context_kind": k}) for k in choices.context_kind
                if plan.context_parallel > 1 and k != plan.context_kind)  # fmt: skip
    for overlap, degree in (("tensor", plan.tensor_parallel), ("expert", plan.expert_parallel)):
        if degree > 1 and plan.overlap != overlap:
            yield f"overlap {plan.overlap} -> {overlap}", {"overlap": overlap}
    if plan.expert_parallel > 1 and plan.software.stack.dispatch == "once_per_domain":
        others = (d for d in ("deepep", "hybridep") if d != plan.dispatcher)
        yield from ((f"dispatcher {plan.dispatcher} -> {d}", {"dispatcher": d}) for d in others)
