"""Quantities as data sheets and people write them (``4.9 TB/s``, ``400 Gb/s``, ``989 TFLOP/s``), in SI units."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

from .errors import InputError

_NUMBER = r"[+-]?(?:\d[\d_,]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_TEXT = re.compile(rf"\s*\$?\s*({_NUMBER})\s*(.*?)\s*")
_PREFIXES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
_BINARY = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50}
_SECONDS = {"s": 1, "ms": 10**3, "us": 10**6, "µs": 10**6, "μs": 10**6, "ns": 10**9}
_LONGEST = 100
_EXAMPLES = {
    "FLOP/s": "989 TFLOP/s",
    "B/s": "4.9 TB/s",
    "B": "96 GB",
    "s": "5 us",
    "W": "700 W",
    "USD/h": "3.5 USD/h",
    "1": "0.8",
    "element": "2887",
}
"""SI unit -> how a value of that unit may be written."""
_NEAREST = {
    "B/s": ("GB/s", "Gb/s"),
    "FLOP/s": ("TFLOP/s",),
    "B": ("GB",),
    "s": ("us",),
    "W": ("W",),
    "USD/h": ("USD/h",),
}


def example(unit: str) -> str:
    """A value of a unit as it may be written."""
    return _EXAMPLES[unit]


def parse_quantity(value: Any, unit: str, field: str) -> float:
    """A number in SI, from a plain number in that unit or a text with a unit of the same kind.

    A capital B is a byte, a small one a bit.

    Parameters
    ----------
    unit
        ``FLOP/s``, ``B/s``, ``B``, ``s``, ``W``, ``USD/h``, ``element`` or ``1``.
    field
        For messages.

    Raises
    ------
    InputError
        For what is no finite number, and for a unit of another kind, with one that is right.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _finite(float(value), value, unit, field)
    short = isinstance(value, str) and len(value) <= _LONGEST
    match = _TEXT.fullmatch(value) if short else None
    if match is None:
        raise InputError(field, value, f"a number in {_spoken(unit)}, or a text such as {example(unit)}", example(unit))
    number = match[1].replace(",", "").replace("_", "")
    factor = _factor(match[2], unit)
    if factor is None:
        near = f"{match[1]} {_nearest_unit(match[2], unit)}".strip()
        allowed = f"a number in {_spoken(unit)}, or with a unit such as {example(unit)}"
        raise InputError(field, value, allowed, near, why=f"has the unit {match[2]!r}, not one of {_spoken(unit)}")
    try:
        return _finite(float(Fraction(number) * factor), value, unit, field)
    except OverflowError:
        raise InputError(field, value, "a finite number", example(unit)) from None


def _finite(number: float, value: Any, unit: str, field: str) -> float:
    if not math.isfinite(number):
        raise InputError(field, value, "a finite number", example(unit))
    return number


def _spoken(unit: str) -> str:
    return {"1": "plain numbers", "element": "elements"}.get(unit, unit)


_WORDS: dict[str, dict[str, Fraction]] = {
    "1": {"%": Fraction(1, 100)},
    "element": {"element": Fraction(1), "elements": Fraction(1)},
    "s": {name: Fraction(1, parts) for name, parts in _SECONDS.items()},
    "W": {"W": Fraction(1), "kW": Fraction(1000)},
    "USD/h": dict.fromkeys(("USD/h", "USD/hour", "/h", "/hour", "USD per hour"), Fraction(1)),
}


def _factor(text: str, unit: str) -> Fraction | None:
    """What one of a written unit is in the SI unit; None for a unit of another kind."""
    if text == "":
        return Fraction(1)
    if unit in _WORDS:
        return _WORDS[unit].get(text)
    if unit == "FLOP/s":
        match = re.fullmatch(r"([kKMGTPE]?)(?:FLOP/s|FLOPs/s|FLOPS|FLOPs|flop/s|flops)", text)
        return Fraction(_PREFIXES[match[1]]) if match else None
    per_second = r"(?:/s|ps|/sec)" if unit == "B/s" else ""
    match = re.fullmatch(rf"([kKMGTPE]|[KMGTP]i)?(B|b|bit|byte|bytes){per_second}", text) or re.fullmatch(
        rf"([kmgtp])(b){per_second}", text
    )
    if match is None or (unit == "B" and match[2] in ("b", "bit")):
        return None
    prefix = match[1] or ""
    size = _BINARY.get(prefix) or _PREFIXES.get(prefix) or _PREFIXES[prefix.upper()]
    return Fraction(size, 8 if match[2] in ("b", "bit") else 1)


def _nearest_unit(text: str, unit: str) -> str:
    """A unit of the right kind that keeps the prefix that was written."""
    prefix = re.match(r"([kMGTP]i?)", text)
    if prefix and unit in ("B/s", "B", "FLOP/s"):
        return f"{prefix[1]}{unit}"
    return _NEAREST.get(unit, ("",))[0]


def written(value: float, unit: str) -> str:
    """A value of an SI unit as text with the unit that suits it, such that :func:`parse_quantity` reads it back
    unchanged."""
    if unit in ("1", "element"):
        return f"{value!r}"
    candidates = [f"{float(value / scale):.6g} {name}" for name, scale in _scales(unit) if abs(value) >= scale]
    exact = [text for text in candidates if parse_quantity(text, unit, "value") == value]
    return exact[0] if exact else f"{value:.17g} {unit}"


def readable(value: float, unit: str) -> tuple[str, str]:
    """A value of an SI unit to six digits, and the unit with the prefix that suits it."""
    name, scale = next(((n, s) for n, s in _scales(unit) if abs(value) >= s), (unit, Fraction(1)))
    return f"{float(value / scale):,.6g}", name


def _scales(unit: str) -> list[tuple[str, Fraction]]:
    """The forms of a unit with a prefix, the largest first."""
    if unit == "s":
        return [(name, Fraction(1, _SECONDS[name])) for name in ("s", "ms", "us")]
    if unit in _WORDS:
        return [(unit, Fraction(1))]
    return [(f"{p}{unit}", Fraction(_PREFIXES[p])) for p in ("P", "T", "G", "M", "k", "")]
