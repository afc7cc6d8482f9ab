"""Numbers as a file of one's own states them: their units, what is plausible, and how they are read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..core.errors import InputError
from ..core.provenance import Quantity
from ..core.quantities import example, parse_quantity
from .constants import CONSTANTS, Constant, constants_of
from .profiles import build


def _figure(key: str, unit: str, low: float, high: float, usual: float, meaning: str, *, fact: bool = True) -> Constant:
    """What a device states besides its constants."""
    return Constant(f"devices/{{device}}/{key}", "", meaning, unit, low=low, high=high, usual=usual, fact=fact)


PEAKS = ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "fp4")
_FIGURES = (
    *(_figure(f"peak/{name}", "FLOP/s", 1e9, 1e19, 1e15, "dense, without sparsity") for name in PEAKS),
    _figure("memory_bytes", "B", 1e8, 1e15, 1e11, "as the driver reports it"),
    *(c for c in constants_of("devices") if c.key != "in_situ"),
    _figure("host_memory_bytes", "B", 1e8, 1e15, 2.5e11, "the device's share"),
    _figure("power_w", "W", 1.0, 1e5, 700.0, "limit of the board"),
    _figure("price", "USD/h", 0.0, 1e4, 3.0, "of one device", fact=False),
    CONSTANTS["devices/*/in_situ"],
)
DEVICE_FIELDS: Mapping[str, Constant] = {c.key.replace("/", "."): c for c in _FIGURES}
FABRIC_FIELDS: Mapping[str, Constant] = {
    c.key: replace(c, meaning=f"{c.meaning}; write `per node` behind a node's") if c.key == "bandwidth" else c
    for c in constants_of("networks")
}
"""Path in a file -> what it states: figures, and the constants of the registry."""


def stated_numbers(
    data: Mapping[str, Any], fields: Mapping[str, Constant], where: str, file: str
) -> Iterator[tuple[str, Quantity]]:
    for name, field in fields.items():
        group, _, key = name.rpartition(".")
        inside = data.get(group) or {} if group else data
        value = inside.get(key) if isinstance(inside, Mapping) else None
        if value is not None:
            yield name, stated_quantity(value, field, f"{where}: {name}", file)


def stated_quantity(value: Any, field: Constant, where: str, file: str) -> Quantity:
    origin = "datasheet" if field.fact else "assumed"
    form: dict[str, Any] = dict(value) if isinstance(value, Mapping) else {"value": value}
    if "value" not in form:
        raise InputError(where, value, f"a number, a text such as {example(field.unit)}, or a mapping with value")
    number, unit = form["value"], form.pop("unit", None)
    if unit is not None and is_number(number):
        number = f"{number!r} {'' if str(unit) == '1' else unit}".strip()
    form["value"] = _plausible(parse_quantity(number, field.unit, where), field, where, value)
    return build(Quantity, {"provenance": origin, "source": file, **form, "unit": field.unit}, where)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _plausible(number: float, field: Constant, where: str, value: Any) -> float:
    if field.low <= number <= field.high:
        return number
    span = f"from {field.low:g} to {field.high:g}"
    allowed = f"{span} {'' if field.unit == '1' else field.unit}".strip() + f", such as {example(field.unit)}"
    raise InputError(where, value, allowed, _meant(number, field), why="is not plausible")


def _meant(number: float, field: Constant) -> str:
    """What a number may mean whose prefix was left out."""
    if number <= 0:
        return example(field.unit)
    if field.unit == "1":
        per_cent = number >= 2 and field.low <= number / 100 <= field.high
        return f"{number / 100:g}" if per_cent else f"{field.high:g}"
    prefixes = {"T": 1e12, "G": 1e9, "M": 1e6, "m": 1e-3, "u": 1e-6}
    own = {p: f for p, f in prefixes.items() if (p in "mu") == (field.unit == "s")}
    fitting = {p: number * f for p, f in own.items() if field.low <= number * f <= field.high}
    if not fitting or field.unit in ("W", "USD/h"):
        return example(field.unit)
    best = min(fitting, key=lambda p: abs(math.log(fitting[p] / field.usual)))
    return f"{number:g} {best}{field.unit}"


def stated_count(data: Mapping[str, Any], key: str, where: str) -> int:
    value = data[key]
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 10_000_000:
        raise InputError(f"{where}: {key}", value, "a whole number of 1 or more", 1)
    return value


def split_per_node(data: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
    """Whether a bandwidth is said to be a node's, and the fields without that word."""
    text = data.get("bandwidth")
    if not isinstance(text, str):
        return False, data
    for ending, node in ((" per node", True), (" per device", False), (" per gpu", False), ("/node", True)):
        if text.lower().endswith(ending):
            return node, {**data, "bandwidth": text[: -len(ending)]}
    return False, data
