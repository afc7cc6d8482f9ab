"""Expressions as trees of operations: cheap to build while a formula runs, turned into SymPy for what is kept of them.

A formula tries many branches (30 tiles for each matrix product) of which one holds. Building a SymPy expression of
each would take most of the time; a tree of the branch that holds is converted, and differentiated, afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Operand: TypeAlias = "Tree | int | float"


class Tree:
    """A symbol, or an operation on trees and numbers.

    Attributes
    ----------
    op
        ``symbol``, ``+``, ``*``, ``/``, ``**``, ``-`` (of one operand) or ``log2``.
    args
        Its operands; of a symbol, its name.
    """

    __slots__ = ("args", "op")

    def __init__(self, op: str, *args: Any):
        self.op, self.args = op, args

    def __add__(self, other: Operand) -> Operand:
        return self if _is(other, 0) else Tree("+", self, other)

    def __radd__(self, other: Operand) -> Operand:
        return self if _is(other, 0) else Tree("+", other, self)

    def __sub__(self, other: Operand) -> Operand:
        return self if _is(other, 0) else Tree("+", self, -other)

    def __rsub__(self, other: Operand) -> Operand:
        return other + (-self)

    def __mul__(self, other: Operand) -> Operand:
        if _is(other, 0):
            return 0
        return self if _is(other, 1) else Tree("*", self, other)

    def __rmul__(self, other: Operand) -> Operand:
        return self.__mul__(other)

    def __truediv__(self, other: Operand) -> Operand:
        return self if _is(other, 1) else Tree("/", self, other)

    def __rtruediv__(self, other: Operand) -> Operand:
        return 0 if _is(other, 0) else Tree("/", other, self)

    def __pow__(self, other: Operand) -> Operand:
        return self if _is(other, 1) else Tree("**", self, other)

    def __rpow__(self, other: Operand) -> Operand:
        return Tree("**", other, self)

    def __neg__(self) -> Operand:
        return self.args[0] if self.op == "-" else Tree("-", self)

    def log2(self) -> Tree:
        """Its binary logarithm."""
        return Tree("log2", self)

    def __repr__(self) -> str:
        return f"Tree({self.op}, {', '.join(map(repr, self.args))})"


def _is(value: Operand, number: int) -> bool:
    return not isinstance(value, Tree) and value == number


def leaf(name: str) -> Tree:
    """A symbol."""
    return Tree("symbol", name)


def nodes(tree: Operand) -> list[Tree]:
    """The nodes of a tree, each once, operands before what is made of them."""
    found: list[Tree] = []
    seen: set[int] = set()
    stack: list[tuple[Operand, bool]] = [(tree, False)]
    while stack:
        node, done = stack.pop()
        if not isinstance(node, Tree) or (not done and id(node) in seen):
            continue
        if done:
            found.append(node)
            continue
        seen.add(id(node))
        stack.append((node, True))
        if node.op != "symbol":
            stack += [(arg, False) for arg in reversed(node.args)]
    return found


def symbols_of(tree: Operand) -> list[str]:
    """Names of the symbols in a tree, in the order in which they appear."""
    return list(dict.fromkeys(node.args[0] for node in nodes(tree) if node.op == "symbol"))


def shared(tree: Operand, least: int) -> list[Tree]:
    """Operations that a tree uses more than once and that have at least so many nodes, operands before what is made of
    them."""
    order = nodes(tree)
    uses: dict[int, int] = {}
    size: dict[int, int] = {}
    for node in order:
        own = [] if node.op == "symbol" else [a for a in node.args if isinstance(a, Tree)]
        size[id(node)] = 1 + sum(size[id(a)] for a in own)
        for arg in own:
            uses[id(arg)] = uses.get(id(arg), 0) + 1
    return [n for n in order if n.op != "symbol" and uses.get(id(n), 0) > 1 and size[id(n)] >= least]


def seconds_power(tree: Operand, known: Mapping[str, int]) -> int:
    """The power of seconds in a tree's unit: 1 for a time, -1 for a rate, 0 for a count.

    Parameters
    ----------
    known
        Symbol -> power.
    """
    found: dict[int, int] = {}

    def of(arg: Operand) -> int:
        return found[id(arg)] if isinstance(arg, Tree) else 0

    for node in nodes(tree):
        match node.op:
            case "symbol":
                found[id(node)] = known.get(node.args[0], 0)
            case "*":
                found[id(node)] = of(node.args[0]) + of(node.args[1])
            case "/":
                found[id(node)] = of(node.args[0]) - of(node.args[1])
            case "**":
                power = node.args[1]
                found[id(node)] = 0 if isinstance(power, Tree) else round(of(node.args[0]) * power)
            case "log2":
                found[id(node)] = 0
            case _:
                found[id(node)] = max((of(a) for a in node.args), key=abs)
    return of(tree)


_APPLY: dict[str, Callable[..., Any]] = {
    "+": lambda a, b: a + b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "**": lambda a, b: a**b,
    "-": lambda a: -a,
    "log2": math.log2,
}


def evaluate(tree: Operand, values: Mapping[str, float]) -> float:
    """The value of a tree."""
    return _values(tree, values)[id(tree)] if isinstance(tree, Tree) else float(tree)


def _values(tree: Operand, values: Mapping[str, float]) -> dict[int, float]:
    found: dict[int, float] = {}
    for node in nodes(tree):
        if node.op == "symbol":
            found[id(node)] = values[node.args[0]]
        else:
            found[id(node)] = _APPLY[node.op](*(found[id(a)] if isinstance(a, Tree) else a for a in node.args))
    return found


def gradient(tree: Operand, values: Mapping[str, float]) -> dict[str, float]:
    """Exact derivatives of a tree with respect to each of its symbols, by reverse accumulation.

    References
    ----------
    Griewank and Walther 2008, *Evaluating Derivatives*, chapter 3.
    """
    if not isinstance(tree, Tree):
        return {}
    known = _values(tree, values)
    weights: dict[int, float] = {id(tree): 1.0}
    found: dict[str, float] = {}
    for node in reversed(nodes(tree)):
        weight = weights.pop(id(node), 0.0)
        if node.op == "symbol":
            found[node.args[0]] = found.get(node.args[0], 0.0) + weight
            continue
        operands = [known[id(a)] if isinstance(a, Tree) else float(a) for a in node.args]
        for arg, slope in zip(node.args, _slopes(node.op, operands), strict=True):
            if isinstance(arg, Tree):
                weights[id(arg)] = weights.get(id(arg), 0.0) + weight * slope
    return found


def _slopes(op: str, x: list[float]) -> tuple[float, ...]:
    """Partial derivatives of an operation at its operands."""
    match op:
        case "+":
            return 1.0, 1.0
        case "*":
            return x[1], x[0]
        case "/":
            return 1 / x[1], -x[0] / x[1] ** 2
        case "**":
            power = x[0] ** x[1]
            base = x[1] * power / x[0] if x[0] else float(x[1] == 1)
            return base, power * math.log(x[0]) if x[0] > 0 else 0.0
        case "-":
            return (-1.0,)
        case _:
            return (1 / (x[0] * math.log(2)),)


def to_sympy(tree: Operand) -> Any:
    """The same expression in SymPy; every symbol is positive."""
    import sympy

    def number(value: float) -> Any:
        exact = sympy.Rational(value)
        short = exact if exact.q <= 1 << 20 else exact.limit_denominator(1000)
        return short if float(short) == value else sympy.Float(value)

    apply = {**_APPLY, "log2": lambda a: sympy.log(a, 2)}
    found: dict[int, Any] = {}
    for node in nodes(tree):
        if node.op == "symbol":
            found[id(node)] = sympy.Symbol(node.args[0], positive=True)
        else:
            found[id(node)] = apply[node.op](*(found[id(a)] if isinstance(a, Tree) else number(a) for a in node.args))
    return found[id(tree)] if isinstance(tree, Tree) else number(tree)
