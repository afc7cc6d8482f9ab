"""Where the time of a plan goes, and what would change it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..architecture import Architecture
from ..core.errors import InputError, unknown_name
from ..core.symbolic import Symbolic
from ..hardware.cluster import Cluster
from ..hardware.fitted import Fit, checked_fit
from ..plans.training import TrainingPlan
from ..timing.step_constants import step_constants
from ..training.problem import plan_columns, plan_problem
from ..training.result import TrainingResult
from ..training.simulate import simulate_training
from .closed_form import Form, step_form
from .levers import Neighbour, RateLever, neighbours, rate_levers, size_derivatives
from .memory_form import add_memory
from .quantities import QUANTITIES, simulated
from .regimes import Decision, decisions
from .symbol_table import Definition
from .trees import symbols_of
from .waterfall import Bar, waterfall

SCHEMA = "llmsim.training-explanation/1"


@dataclass(frozen=True)
class TrainingExplanation:
    """One plan explained.

    Attributes
    ----------
    result
        The simulated step.
    quantity, unit, value, simulated
        What the closed form, the levers and the decisions are of; its value by the closed form and by the simulation.
    waterfall
        From the device's peak to the achieved rate: the bars sum to the step.
    form
        The closed form, with all its definitions.
    rates, sizes
        What rates do to the quantity; derivatives with respect to degrees and sizes.
    neighbours
        Plans that differ in one setting.
    decisions
        Where another formula would hold, the nearest first.
    """

    result: TrainingResult
    quantity: str
    unit: str
    value: float
    simulated: float
    waterfall: list[Bar]
    form: Form = field(repr=False)
    rates: list[RateLever]
    sizes: dict[str, dict[str, float]]
    neighbours: list[Neighbour]
    decisions: list[Decision]

    @property
    def definitions(self) -> list[Definition]:
        """The quantity and all that it is made of, from the whole to its parts, level by level."""
        return levels(self.form, self.quantity)

    def derivative(self, symbol: str) -> Any:
        """The derivative of the quantity with respect to a symbol as a SymPy expression of named quantities."""
        names = self.form.table.definitions
        if symbol not in names:
            raise unknown_name("symbol", symbol, [n for n, d in names.items() if d.tree is None])
        return self.form.table.derivative(self.definitions[0].name, symbol)

    def to_dict(self) -> dict[str, Any]:
        """As JSON wants it, with a schema version."""
        return {
            "schema": SCHEMA,
            "plan": self.result.plan.model_dump(),
            "model": self.result.model,
            "cluster": self.result.cluster,
            "n_devices": self.result.n_devices,
            "step_time_s": self.result.step_time_s,
            "mfu": self.result.mfu,
            "mfu_convention": self.result.mfu_convention,
            "waterfall": [asdict(bar) for bar in self.waterfall],
            "quantity": self.quantity,
            "unit": self.unit,
            "value": self.value,
            "simulated": self.simulated,
            "definitions": [
                {"symbol": d.name, "meaning": d.meaning, "unit": d.unit, "value": float(d.value),
                 "formula": None if d.tree is None else str(d.expression)}
                for d in self.definitions
            ],
            "rates": [asdict(rate) for rate in self.rates],
            "sizes": self.sizes,
            "neighbours": [asdict(own) for own in self.neighbours],
            "decisions": [asdict(own) for own in self.decisions],
            "assumed": self.result.assumed,
        }  # fmt: skip


def explain_training(
    plan: TrainingPlan | Mapping[str, Any] | str | Path,
    architecture: Architecture | str | Path,
    cluster: Cluster | Mapping[str, Any] | str | Path,
    *,
    quantity: str = "step",
    fit: Fit | None = None,
    assumed: dict[str, str] | None = None,
) -> TrainingExplanation:
    """Explain one plan: where its step's time goes, and what would change a quantity.

    Parameters
    ----------
    plan, architecture, cluster, fit, assumed
        As for :func:`~llmsim.training.simulate.simulate_training`.
    quantity
        What to give the closed form of, and what levers act on: ``step``, ``pipeline``, ``memory`` ..., see
        :data:`~llmsim.explain.quantities.QUANTITIES`.

    Raises
    ------
    InputError
        For an unknown quantity, without SymPy, and as for the simulation.
    """
    if find_spec("sympy") is None:
        raise InputError("explain", "", "pip install sympy", why="needs sympy, which is not installed")
    if not isinstance(quantity, str) or quantity not in QUANTITIES:
        raise unknown_name("quantity", quantity, QUANTITIES)
    plan, fit = TrainingPlan.parse(plan), checked_fit(fit)
    model = architecture if isinstance(architecture, Architecture) else Architecture.from_config(architecture)
    machine = Cluster.parse(cluster)
    result = simulate_training(plan, model, machine, fit=fit, assumed=assumed)
    # Balanced layers and fitted recomputation are written out in the plan of the answer.
    problem, columns = plan_problem(model, machine, result.plan), plan_columns(result.plan)
    constants = step_constants(machine, problem.structure, fit)
    form = step_form(problem, columns, constants, plan.global_batch_size)
    if quantity.startswith("memory"):
        add_memory(form)
    found = form.quantities[quantity]
    return TrainingExplanation(
        result,
        quantity,
        QUANTITIES[quantity],
        float(found),
        simulated(problem, columns, constants, plan.global_batch_size)[quantity],
        waterfall(result.plan, problem, columns, constants, result),
        form,
        rate_levers(form, quantity, problem, columns, constants),
        size_derivatives(form, quantity),
        neighbours(plan, result, model, machine, fit),
        decisions(form, found),
    )


def levels(form: Form, name: str) -> list[Definition]:
    """The definitions of a quantity from the whole to its parts: each in front of what it is made of, the first use
    deciding the level."""
    quantity = form.quantities[name]
    if not isinstance(quantity, Symbolic):
        return []
    found: dict[str, Definition] = {}
    names: Sequence[str] = symbols_of(quantity.expr)
    while names:
        found.update((n, form.table.definitions[n]) for n in names)
        names = [u for n in names for u in form.table.definitions[n].uses if u not in found]
    return list(found.values())
