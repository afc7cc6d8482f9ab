"""How far a plan is from where another formula would hold."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..core.symbolic import Switch, Symbolic
from .closed_form import SLOWEST, Form
from .symbol_table import Definition, SymbolTable
from .trees import Operand, Tree, evaluate, nodes, symbols_of, to_sympy


@dataclass(frozen=True)
class Decision:
    """A choice between two branches that a formula makes by value.

    Attributes
    ----------
    where, name, meaning
        The step of the composition; symbol and meaning of the quantity that the branch is part of.
    function
        ``max`` or ``min``.
    taken, left
        The branch that holds and the nearest other one, in named quantities.
    taken_value, left_value
        Their values.
    factor
        What the branch left over has to be multiplied with to hold as well: 1 is at the switch.
    share
        How much of the quantity that was asked for goes through here.
    """

    where: str
    name: str
    meaning: str
    function: str
    taken: str
    left: str
    taken_value: float
    left_value: float
    factor: float
    share: float

    @property
    def distance(self) -> float:
        """Logarithm of the factor, without its sign."""
        return abs(math.log(self.factor))


LEAST_SHARE = 0.001
"""Decisions that less of a quantity goes through are left out."""


def decisions(form: Form, quantity: Any) -> list[Decision]:
    """The choices that a quantity depends on, the nearest to its switch first.

    A choice whose branch ended up in no definition of the quantity has no effect and is left out; of several choices
    for one branch the nearest counts.
    """
    if not isinstance(quantity, Symbolic):
        return []
    table = form.table
    adjoints, now, values = table.adjoints(quantity), float(quantity), table.values
    home: dict[int, Definition] = {}
    for d in table.below(symbols_of(quantity.expr)):
        if d.tree is not None:
            for node in nodes(d.tree):
                home.setdefault(id(node), d)
    found: dict[tuple[int, str], Decision] = {}
    for where, switch in form.switches:
        part = home.get(id(switch.taken))
        through = "" if part is None else part.name
        if where == SLOWEST:
            part, through = _pace(form, switch), "T_pipeline"
        if part is None or switch.ratio <= 0:
            continue
        share = abs(adjoints.get(through, 0.0) * values[through] / now)
        own = _decision(table, where, switch, part, values, share)
        key = id(switch.taken), switch.function
        if share >= LEAST_SHARE and (key not in found or own.distance < found[key].distance):
            found[key] = own
    return sorted(_distinct(found.values()), key=lambda own: own.distance)


def _pace(form: Form, switch: Switch) -> Definition | None:
    """The slowest stage, where it was chosen: it sets the pace of the pipeline, although its path has passes."""
    name = switch.taken.args[0]
    return form.table.definitions[name] if name == form.slowest else None


def _decision(
    table: SymbolTable, where: str, switch: Switch, d: Definition, values: dict[str, float], share: float
) -> Decision:
    taken, left = evaluate(switch.taken, values), evaluate(switch.left, values)
    texts = _text(table, switch.taken, taken), _text(table, switch.left, left)
    return Decision(where, d.name, d.meaning, switch.function, *texts, taken, left, 1 / switch.ratio, share)


def _distinct(found: Iterable[Decision]) -> list[Decision]:
    """One of those that compare the same two numbers: the one that most goes through."""
    best: dict[tuple[str, float, float], Decision] = {}
    for own in found:
        key = own.function, own.taken_value, own.left_value
        if key not in best or own.share > best[key].share:
            best[key] = own
    return list(best.values())


def _text(table: SymbolTable, tree: Operand, value: float) -> str:
    """A branch as text: the name of what has its value, else its expression."""
    if isinstance(tree, Tree) and tree.op != "symbol":
        same = [
            d for d in table.definitions.values() if d.tree is not None and math.isclose(d.value, value, rel_tol=1e-12)
        ]
        if same:
            return same[0].name
    return str(to_sympy(tree))
