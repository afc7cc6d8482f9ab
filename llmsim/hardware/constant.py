"""An entry of the registry of constants."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["generations", "devices", "networks", "software", "engines"]
"""Of the profile that states a constant: the folder it lies in."""

LEARNED = 0.9
"""A constant counts as learned where its standard error is below this part of its prior's width."""


@dataclass(frozen=True)
class Constant:
    """A constant.

    Attributes
    ----------
    path
        Where fits have it. Names in braces stand for what it belongs to: ``generation``, ``device``, ``fabric``,
        ``stack``, ``release``, ``lineage``, ``dispatcher``, ``engine``.
    symbol
        In closed forms; empty for what stands in them as a number.
    meaning, unit
        What it is, SI.
    low, high
        What a profile may state.
    default, source
        Its value where no profile states one, and why; None: profiles must, unless it is ``optional``.
    optional
        Whether profiles may lack it.
    width
        Standard deviation of the logarithm of its prior, whose centre is what the profile states; None for one that no
        run moves.
    moved_by
        What runs move it by: their step times, their memory, or the latencies of servers.
    measure
        What to measure to settle it.
    more
        Whether more of it makes a step faster (a bandwidth) or slower (a latency).
    lever
        Whether somebody can change it: hardware and software, but not how a kernel's form was fitted.
    usual
        A common value, by which a number without its unit's prefix is recognised in a file of one's own.
    fact
        Whether data sheets state it.
    """

    path: str
    symbol: str
    meaning: str
    unit: str = "1"
    low: float = 0.0
    high: float = math.inf
    default: float | None = None
    source: str = ""
    optional: bool = False
    width: float | None = None
    moved_by: Literal["step", "memory", "serving"] = "step"
    measure: str = ""
    more: bool = True
    lever: bool = True
    usual: float = 1.0
    fact: bool = False

    @property
    def name(self) -> str:
        """The pattern of its paths, under which the registry has it: ``software/*/host/launch_s``."""
        return re.sub(r"\{[a-z]+\}", "*", self.path)

    @property
    def kind(self) -> Kind:
        """Of the profile that states it."""
        return self.path.split("/")[0]  # type: ignore[return-value]

    @property
    def key(self) -> str:
        """Where that profile has it (``host/launch_s``); empty for what belongs to a release alone."""
        if "@" in self.path:
            return ""
        return re.sub(r"/?\{[a-z]+\}", "", "/".join(self.path.split("/")[2:]))

    @property
    def by_generation(self) -> bool:
        """Whether a software profile may state one for each generation of devices, besides a ``default``."""
        return self.kind == "software" and self.path.endswith("/{generation}")

    @property
    def fraction(self) -> bool:
        """Whether values stay at or below 1."""
        return self.high == 1

    def learned(self, error: float | None) -> bool:
        """Whether runs have narrowed it to a standard error of the logarithm; None: nobody states one."""
        return error is None or (self.width is not None and error < LEARNED * self.width)
