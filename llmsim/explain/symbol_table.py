"""Named quantities: what a closed form is written in, from the whole down to degrees, sizes and rates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..core.numeric import Number
from ..core.symbolic import Symbolic
from .trees import Operand, Tree, evaluate, gradient, leaf, seconds_power, shared, symbols_of, to_sympy

SHARED = 6
"""Nodes that a repeated part of a formula has at least to get a name."""
_POWERS = {"s": 1, "FLOP/s": -1, "bytes/s": -1, "tokens/s": -1}


@dataclass(frozen=True, eq=False)
class Definition:
    """A named quantity.

    Attributes
    ----------
    name, meaning, unit
        Symbol, what it is, and its unit (empty for a count or a fraction).
    value
        Under this plan.
    tree
        What it is made of; None for a degree, a size or a rate, which stand for themselves.
    """

    name: str
    meaning: str
    unit: str
    value: float
    tree: Operand | None = None

    @property
    def uses(self) -> list[str]:
        """Names of what it is made of."""
        return [] if self.tree is None else symbols_of(self.tree)

    @property
    def expression(self) -> Any:
        """In SymPy: of itself or, for what stands for itself, its symbol."""
        return _expression(self)


@lru_cache(maxsize=4096)
def _expression(definition: Definition) -> Any:
    return to_sympy(leaf(definition.name) if definition.tree is None else definition.tree)


class SymbolTable:
    """Definitions in the order in which they were made: each uses only those in front of it."""

    def __init__(self) -> None:
        self.definitions: dict[str, Definition] = {}

    def share(self) -> None:
        """Give names to times that a definition uses more than once: what hides a transfer beside the transfer, the
        slower of computing and memory traffic.

        The nodes themselves become symbols, so that every tree that has them sees the name.
        """
        powers = {name: _POWERS.get(d.unit, 0) for name, d in self.definitions.items()}
        for d in list(self.definitions.values()):
            for node in shared(d.tree, SHARED) if d.tree is not None else ():
                if seconds_power(node, powers) != 1:
                    continue
                name = f"{d.name}_a"
                while name in self.definitions:
                    name = f"{name[:-1]}{chr(ord(name[-1]) + 1)}"
                tree = Tree(node.op, *node.args)
                self.definitions[name] = Definition(name, _part_words(d, tree), "s", evaluate(tree, self.values), tree)
                powers[name] = 1
                node.op, node.args = "symbol", (name,)
        self._sort()

    def _sort(self) -> None:
        """What a definition uses goes in front of it."""
        found: dict[str, Definition] = {}
        stack = [(d, False) for d in reversed(self.definitions.values())]
        while stack:
            d, done = stack.pop()
            if done:
                found[d.name] = d
            elif d.name not in found:
                stack.append((d, True))
                stack += [(self.definitions[u], False) for u in d.uses if u not in found]
        self.definitions = found

    @property
    def values(self) -> dict[str, float]:
        """Name -> value."""
        return {name: d.value for name, d in self.definitions.items()}

    def base(self, name: str, value: Number, meaning: str, unit: str = "") -> Symbolic:
        """A quantity that stands for itself; the same symbol where it has been named with this value before."""
        known = self.definitions.get(name)
        if known is not None and (known.value != value or known.meaning != meaning):
            return self.base(_next(name), value, meaning, unit)
        if known is None:
            self.definitions[name] = Definition(name, meaning, unit, value)
        return Symbolic(leaf(name), value)

    def define(self, name: str, quantity: Number, meaning: str, unit: str = "s") -> Number:
        """Give a quantity a name. Plain numbers and what has a name already are returned as they are."""
        if not isinstance(quantity, Symbolic) or not isinstance(quantity.expr, Tree) or quantity.expr.op == "symbol":
            return (
                quantity.value if isinstance(quantity, Symbolic) and not isinstance(quantity.expr, Tree) else quantity
            )
        while name in self.definitions:
            name = _next(name)
        self.definitions[name] = Definition(name, meaning, unit, quantity.value, quantity.expr)
        return Symbolic(leaf(name), quantity.value)

    def adjoints(self, quantity: Number) -> dict[str, float]:
        """Exact derivative of a quantity with respect to every name, through all definitions (chain rule)."""
        if not isinstance(quantity, Symbolic):
            return {}
        values = self.values
        found = gradient(quantity.expr, values)
        for name, definition in reversed(self.definitions.items()):
            weight = found.get(name, 0.0)
            if weight and definition.tree is not None:
                for used, slope in gradient(definition.tree, values).items():
                    found[used] = found.get(used, 0.0) + weight * slope
        return found

    def derivative(self, name: str, symbol: str) -> Any:
        """The derivative of a named quantity with respect to a symbol, in SymPy, written in named quantities."""
        import sympy

        known: dict[str, Any] = {}
        for d in self.below([name]):
            if d.name == symbol:
                known[d.name] = sympy.Integer(1)
                continue
            own = [u for u in d.uses if known.get(u, 0) != 0]
            known[d.name] = sympy.Add(
                *(sympy.diff(d.expression, sympy.Symbol(u, positive=True)) * known[u] for u in own)
            )
        return known[name]

    def below(self, names: Iterable[str]) -> list[Definition]:
        """Some definitions and all that they are made of, in order."""
        wanted = set(names)
        for name, definition in reversed(self.definitions.items()):
            if name in wanted:
                wanted.update(definition.uses)
        return [d for name, d in self.definitions.items() if name in wanted]

    def evaluate(self, expression: Any) -> float:
        """The number of a SymPy expression of names, each put in through its own definition's SymPy expression down to
        what stands for itself."""
        import sympy

        names = sorted(s.name for s in expression.free_symbols)
        values: dict[str, float] = {}
        for d in self.below(names):
            own = [] if d.tree is None else d.uses
            values[d.name] = d.value if d.tree is None else _number(d.expression, {u: values[u] for u in own})
        return _number(sympy.sympify(expression), {n: values[n] for n in names})


def _part_words(whole: Definition, tree: Tree) -> str:
    """What a part of a definition is: of a kernel its computing or its memory traffic."""
    uses = symbols_of(tree)
    if any(name.startswith("peak") for name in uses):
        return f"computing alone, {whole.meaning}"
    return f"memory traffic alone, {whole.meaning}" if "B_mem" in uses else f"part of {whole.meaning}"


def _number(expression: Any, values: dict[str, float]) -> float:
    import sympy

    symbols = [sympy.Symbol(name, positive=True) for name in values]
    return float(sympy.lambdify(symbols, expression, "math")(*values.values()))


def _next(name: str) -> str:
    """Another name for what would have the same."""
    head, mark, number = name.rpartition("_v")
    return f"{head}_v{int(number) + 1}" if mark and number.isdigit() else f"{name}_v2"
