"""Numbers as a file of one's own states them: their units, what is plausible, and how they are read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..core.errors import InputError
from ..core.provenance import Quantity
from ..core.quantities import example, parse_quantity
from .profiles import build


@dataclass(frozen=True)
class Field:
    """A quantity of a profile.

    Attributes
    ----------
    unit
        Of a plain number.
    low, high
        What is plausible.
    usual
        A common value, which tells what a number without its prefix may mean.
    fact
        Whether data sheets state it; what they do not is assumed, unless the file says who measured it.
    meaning
        For templates.
    """

    unit: str
    low: float
    high: float
    usual: float
    fact: bool
    meaning: str


_PEAK = Field("FLOP/s", 1e9, 1e19, 1e15, True, "dense, without sparsity")
_SHARE = Field("1", 1e-6, 1.0, 0.8, False, "fraction of the bandwidth that large collectives reach")
_LATENCY = Field("s", 1e-9, 1.0, 1e-5, False, "of a step of a ring")
_HALF = Field("B", 0.0, 1e12, 5e6, False, "message at which a collective reaches half of its bandwidth")
PEAKS = ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "fp4")
DEVICE_FIELDS: Mapping[str, Field] = {
    **{f"peak.{name}": _PEAK for name in PEAKS},
    "memory_bytes": Field("B", 1e8, 1e15, 1e11, True, "as the driver reports it"),
    "memory_bandwidth": Field("B/s", 1e9, 1e16, 3e12, True, ""),
    "scale_up.bandwidth": Field("B/s", 1e8, 1e15, 4e11, True, "one way, of one device"),
    "scale_up.efficiency": _SHARE,
    "scale_up.latency_s": _LATENCY,
    "scale_up.half_bytes": _HALF,
    "scale_up.in_switch_traffic": Field(
        "1", 1.0, 2.0, 1.36, False, "bytes on the wire per byte of an all-reduce that the switch adds up"
    ),
    "host_bandwidth": Field("B/s", 1e7, 1e15, 5e10, True, "to the host's memory, one way"),
    "host_memory_bandwidth": Field("B/s", 1e7, 1e15, 8e10, True, "the device's share"),
    "host_memory_bytes": Field("B", 1e8, 1e15, 2.5e11, True, "the device's share"),
    "power_w": Field("W", 1.0, 1e5, 700.0, True, "limit of the board"),
    "price": Field("USD/h", 0.0, 1e4, 3.0, False, "of one device"),
    "in_situ": Field("1", 1e-6, 1.0, 0.95, False, "kernels in a step over kernels alone, from power and clocks"),
}
FABRIC_FIELDS: Mapping[str, Field] = {
    "bandwidth": Field("B/s", 1e7, 1e14, 5e10, True, "one way, of one device; write `per node` behind a node's"),
    "efficiency": _SHARE,
    "latency_s": _LATENCY,
    "half_bytes": _HALF,
}


def stated_numbers(
    data: Mapping[str, Any], fields: Mapping[str, Field], where: str, file: str
) -> Iterator[tuple[str, Quantity]]:
    for name, field in fields.items():
        group, _, key = name.rpartition(".")
        inside = data.get(group) or {} if group else data
        value = inside.get(key) if isinstance(inside, Mapping) else None
        if value is not None:
            yield name, stated_quantity(value, field, f"{where}: {name}", file)


def stated_quantity(value: Any, field: Field, where: str, file: str) -> Quantity:
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


def _plausible(number: float, field: Field, where: str, value: Any) -> float:
    if field.low <= number <= field.high:
        return number
    span = f"from {field.low:g} to {field.high:g}"
    allowed = f"{span} {'' if field.unit == '1' else field.unit}".strip() + f", such as {example(field.unit)}"
    raise InputError(where, value, allowed, _meant(number, field), why="is not plausible")


def _meant(number: float, field: Field) -> str:
    """What a number may mean whose prefix was left out."""
    if number <= 0:
        return example(field.unit)
    if field.unit == "1":
        return f"{number / 100:g}" if field.low <= number / 100 <= field.high else f"{field.high:g}"
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
