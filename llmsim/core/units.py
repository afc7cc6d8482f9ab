"""Units: SI inside, GiB and TFLOP/s only where people read; parsing of what people type."""

from __future__ import annotations

import math
import re
from numbers import Real

from .arguments import approximately
from .errors import InputError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
KILO, MEGA, GIGA, TERA = 1e3, 1e6, 1e9, 1e12
MICROSECOND = 1e-6
DAY_S = 86_400.0
HOUR_S = 3_600.0

_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12, "p": 10**15}
_WHOLE = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+(?:_[0-9]+)*)"
_COUNT = re.compile(rf"^\s*({_WHOLE}(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*([kKmMbBgGtTpP]?)\s*$")


def parse_count(text: str | int | float, field: str, example: str = "15T") -> float:
    """A positive count such as ``15T`` (15e12), ``8k`` (8,000), ``1_000`` or ``2.5e9``.

    Raises
    ------
    InputError
        For text that is not a number, and for zero, negative, NaN and infinite values.
    """
    if isinstance(text, Real) and not isinstance(text, bool):
        value = approximately(text)
    else:
        match = _COUNT.match(str(text))
        if match is None:
            allowed = "a positive number, with k, M, B or T if you like (15T = 15e12)"
            raise InputError(field, text, allowed, example)
        value = float(match[1].replace(",", "").replace("_", "")) * _DECIMAL[match[2].lower()]
    if not math.isfinite(value) or value <= 0:
        raise InputError(field, text, "a finite number above 0", example)
    return value


def parse_length(text: str | int, field: str) -> int:
    """A sequence length in tokens; ``8k`` is 8,192 as model builders mean it, ``1M`` is 1,048,576.

    Raises
    ------
    InputError
        For anything but a whole number of at least one token.
    """
    match = None if isinstance(text, float) else _COUNT.match(str(text))
    factor = {"": 1, "k": KIB, "m": MIB}.get(match[2].lower()) if match else None
    value = float(match[1].replace(",", "").replace("_", "")) * factor if match and factor else math.nan
    if not 1 <= value <= 1e18 or value != int(value):  # so that NaN is refused
        raise InputError(field, text, "a whole number of tokens, 1 or more (8192 or 8k)", "8192")
    return int(value)


def parse_batch(text: str | int, field: str) -> int:
    """A whole number of sequences; ``1k`` is 1,000.

    Raises
    ------
    InputError
        For anything else.
    """
    if isinstance(text, float):
        raise InputError(field, text, "a whole number of sequences")
    value = parse_count(text, field, "256")
    if value != int(value):
        raise InputError(field, text, "a whole number of sequences", max(1, round(value)))
    return int(value)


def gib(value_bytes: float, digits: int = 2) -> str:
    """Bytes as text in GiB."""
    return f"{value_bytes / GIB:,.{digits}f} GiB"


def seconds(value_s: float) -> str:
    """A duration as text in the unit that suits it."""
    if not math.isfinite(value_s):
        return str(value_s)
    for limit, factor, unit in (
        (1e-3, 1e6, "us"),
        (1.0, 1e3, "ms"),
        (600.0, 1.0, "s"),
        (2 * DAY_S, 1 / HOUR_S, "h"),
    ):
        if abs(value_s) < limit:
            return f"{value_s * factor:.4g} {unit}"
    return f"{value_s / DAY_S:,.1f} days"


def days(value: float) -> str:
    """Days as text: hours, minutes or seconds below two of them."""
    return seconds(value * DAY_S)


def money(value_usd: float) -> str:
    """US dollars as text, with cents where these say something."""
    if 0 < value_usd < 0.01:
        return "below 0.01 USD"
    return f"{value_usd:,.{0 if value_usd >= 100 or value_usd == 0 else 2}f} USD"


def counted(number: float, thing: str) -> str:
    """So many things: ``1 device``, ``2,048 devices``."""
    return f"{number:,.10g} {thing}" + "s" * (number != 1)


def large(value: float) -> str:
    """A large count as text: 15T, 70.6B, 8.03B, 4,096."""
    for factor, unit in ((1e15, "P"), (1e12, "T"), (1e9, "B"), (1e6, "M")):
        if abs(value) >= factor:
            return f"{value / factor:.4g}{unit}"
    return f"{value:,.0f}"
