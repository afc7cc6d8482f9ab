"""Rates of every layer kind of a model, on the distinct plans that they depend on."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from ..architecture import Architecture, model_kinds
from ..core.numeric import Number
from .columns import Columns, distinct, take
from .intervals import model_class
from .kernel_times import Keyed, KindRates
from .step_constants import StepConstants
from .structure import Structure

TIME_KEYS = ("sequence", "micro_batch", "tp", "cp", "ulysses", "ep", "etp", "imbalance")
"""Columns that the seconds and the activations of a layer depend on."""
DENSE_KEYS = ("sequence", "micro_batch", "tp", "cp", "ulysses")
"""Those of them that matter outside of expert parallelism."""


def keyed(columns: Columns) -> Keyed:
    """The distinct plans for what layers take and keep."""
    return Keyed(columns) if len(columns) == 1 else Keyed(*distinct(columns, TIME_KEYS))


@dataclass(frozen=True)
class _OnePlan:
    """A single plan as far as layers' rates depend on it."""

    values: tuple[float, ...]
    columns: Columns = field(compare=False)


def known_rates(
    architecture: Architecture, structure: Structure, columns: Columns, constants: StepConstants
) -> list[KindRates]:
    """Rates of each layer kind, remembered for single plans: many differ in what rates do not depend on."""
    values = tuple(getattr(columns, name) for name in TIME_KEYS)
    if not all(isinstance(v, (int, float)) for v in values):
        return model_rates(architecture, structure, keyed(columns), constants)
    return _rates_of(architecture, structure, constants, _OnePlan(values, columns))


@lru_cache(maxsize=64)
def _rates_of(
    architecture: Architecture, structure: Structure, constants: StepConstants, plan: _OnePlan
) -> list[KindRates]:
    plans = Keyed(plan.columns)
    slower = shape_factor(architecture, plan.columns, constants)
    return [KindRates(kind, structure, plans, plans, constants, slower=slower) for kind in model_kinds(architecture)]


def model_rates(
    architecture: Architecture, structure: Structure, plans: Keyed, constants: StepConstants
) -> list[KindRates]:
    """Rates of each layer kind, whatever is recomputed."""
    dense = plans
    if len(plans.columns) > 1:
        columns, rows = distinct(plans.columns, DENSE_KEYS)
        dense = Keyed(columns, take(rows, plans.rows))
    slower = shape_factor(architecture, plans.columns, constants)
    return [KindRates(kind, structure, plans, dense, constants, slower=slower) for kind in model_kinds(architecture)]


def shape_factor(architecture: Architecture, columns: Columns, constants: StepConstants) -> Number | None:
    """By how much layers take longer than predicted where measured runs have layers of their shape; None without."""
    table = constants.shapes.get(model_class(architecture))
    return None if table is None else table.factor(*layer_shape(architecture, columns))


def shape_known(architecture: Architecture, columns: Columns, constants: StepConstants) -> float:
    """How much of the doubt about a single plan's layers runs with such layers remove, from 0 to 1."""
    table = constants.shapes.get(model_class(architecture))
    return 0.0 if table is None else float(table.known(*layer_shape(architecture, columns)))


def layer_shape(architecture: Architecture, columns: Columns) -> tuple[Number, Number, Number, Number]:
    """The shape of a plan's layers, see :data:`~llmsim.hardware.shapes.COLUMNS`."""
    tokens = columns.micro_batch * columns.sequence / columns.cp
    return architecture.hidden, columns.tp, tokens, columns.sequence
