"""Interconnects as sources describe them (``8x HDR200 IB per node``, ``EFA 3200 Gbps``), in bytes/s of a device.

A capital B is a byte, a small one a bit. Rates of NVLink and its like are left aside. A rate belongs to a device, to a
node, or to each of so many adapters of a node, as the text says; where it does not say, one rule decides: EFA states
totals of a node, a rate that the usual fabric of the device has is a device's, any other is a node's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_WORDS = {"one": 1, "single": 1, "two": 2, "dual": 2, "four": 4, "quad": 4, "eight": 8, "sixteen": 16}
_GENERATIONS = {"edr": 100.0, "hdr": 200.0, "ndr": 400.0, "xdr": 800.0, "omni-path": 100.0, "omnipath": 100.0}
"""Gb/s of a link that is named and not measured."""
_SCALE_UP = re.compile(r"nv-?link\d*|nv-?switch\d*|nvl\d+|xgmi|infinity fabric|pcie", re.IGNORECASE)
_FABRIC = re.compile(
    r"\bib\b|infini-?band|roce|rdma|ethernet|\befa|gbe\b|slingshot|omni-?path|\b[ehnx]dr\d*\b|tcpx|hca|\bnics?\b|"
    r"connect-?x|\bcx-?\d|node[- ]node|inter-?node|fabric|network",
    re.IGNORECASE,
)
_PREFIXES = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_RATE = re.compile(
    r"(?:(?<![\w.])|(?<=\d[xX×*]))(?P<gen>[EHNX]DR)?(?P<rate>\d+(?:\.\d+)?)[\s-]*(?P<prefix>[kmgt])i?(?P<size>bits?|bytes?|be?)?"
    r"(?P<second>\s*/\s*s(?:ec)?|\s*ps)?(?![a-z])",
    re.IGNORECASE,
)
_NAMED = re.compile(r"\b(?P<gen>[ehnx]dr|omni-?path)[\s-]?(?P<rate>100|200|400|800)?(?![\d.])\b", re.IGNORECASE)
_NAMES = r"(?:infini-?band|ib|roce(?:v2)?|ethernet|mellanox|nvidia|connect-?x-?\d*|cx-?\d|bluefield-?\d?|[ehnx]dr|"
_NAMES += r"omni-?path|efa(?:v\d)?|slingshot(?:-\d+)?|nics?|hcas?|adapters?|links?|ports?|rails?|cards?|of|at|with|@)"
_BEFORE = re.compile(
    rf"(?:^|[\s(,;:+/])(?:(\d{{1,3}})\s*(?:[x×*]\s*(?:{_NAMES}[\s(-]*)*|\s(?:{_NAMES}[\s(-]+)+)"
    rf"|({'|'.join(_WORDS)})[\s-]+(?:{_NAMES}[\s(-]*)*)$",
    re.IGNORECASE,
)
_AFTER = re.compile(rf"^[\s)]*(?:{_NAMES}\s*)*[x×*]\s*(\d{{1,3}})\b", re.IGNORECASE)
_PER = r"(?:\bper[\s-]*|/\s*|\beach\s+|\ba\s+)"
_OF_DEVICE = re.compile(rf"{_PER}(?:gpu|device|accelerator|chip|die|rank)\b", re.IGNORECASE)
_OF_NODE = re.compile(
    rf"{_PER}(?:node|host|server|machine|instance|system|vm|box)\b|node[- ]node|inter-?node|\btotal|aggregate",
    re.IGNORECASE,
)
_BOTH_WAYS = re.compile(r"bi-?dir|both (?:ways|directions)|duplex", re.IGNORECASE)
_CLAUSE = re.compile(r"[;+]|,\s|\.\s|\s(?:and|plus)\s")
_WHOLE_LINKS = 100.0
"""Gb from which a number without "per second" names a link by its bits (200GB HDR): no link has so many bytes/s."""
_LONGEST = 1000
"""Characters of a text that are looked at."""


@dataclass(frozen=True)
class LinkRate:
    """A rate between nodes.

    Attributes
    ----------
    bytes_per_s
        Of one device, one way.
    said
        Whether the text says whose the rate is; where not, the rule of this module has decided.
    """

    bytes_per_s: float
    said: bool


@dataclass(frozen=True)
class _Rate:
    bytes_per_s: float
    count: int
    clause: str
    end: int


def link_rate(text: str, per_node: int, usual_bytes_per_s: float) -> LinkRate | None:
    """The rate between nodes that a text states; None where it states none.

    Parameters
    ----------
    per_node
        Devices of a node.
    usual_bytes_per_s
        Of one device by its usual fabric.
    """
    text = text[:_LONGEST]
    if re.search(r"\b(?:dcn|ici)\b", text, re.IGNORECASE):
        return None
    clauses = _CLAUSE.split(text)
    found = [rate for clause in clauses for rate in _rates(clause)]
    found = found or [rate for clause in clauses for rate in _named_rates(clause)]
    if not found:
        return None
    rates = [(rate, _owner(rate.clause, rate.end)) for rate in found]
    rate, owner = next(((r, o) for r, o in rates if o), rates[0])
    whole = rate.bytes_per_s / (2 if _BOTH_WAYS.search(rate.clause) else 1)
    if owner == "device":
        return LinkRate(whole * (rate.count if rate.count <= 2 else 1), True)
    if owner == "node" or rate.count > 1:
        return LinkRate(whole * rate.count / per_node, True)
    if re.search(r"\befa", text, re.IGNORECASE):
        return LinkRate(whole / per_node, False)
    return LinkRate(whole if abs(whole / usual_bytes_per_s - 1) < 0.1 else whole / per_node, False)


def _owner(clause: str, end: int) -> str:
    """``device`` or ``node``, by what stands behind a rate, else before it; empty where nothing does."""
    for part in (clause[end:], clause[:end]):
        device, node = _OF_DEVICE.search(part), _OF_NODE.search(part)
        if device and (node is None or device.start() < node.start()):
            return "device"
        if node:
            return "node"
    return ""


def _rates(clause: str) -> Iterator[_Rate]:
    """The rates of a clause that are written with a unit and not those inside a scale-up domain."""
    matches = list(_RATE.finditer(clause))
    for number, match in enumerate(matches):
        after = clause[match.end() : matches[number + 1].start() if number + 1 < len(matches) else None]
        before = clause[matches[number - 1].end() if number else 0 : match.start()]
        if not _inside(before, after):
            yield _Rate(_bytes_per_s(match), _count(clause, match), clause, match.end())


def _named_rates(clause: str) -> Iterator[_Rate]:
    """The rates of links that a clause names by their generation."""
    for match in _NAMED.finditer(clause):
        gigabits = float(match["rate"] or _GENERATIONS[match["gen"].lower()])
        yield _Rate(gigabits * 1e9 / 8, _count(clause, match), clause, match.end())


def _inside(before: str, after: str) -> bool:
    """Whether a rate between two texts is that of NVLink or its like."""
    scale_up = list(_SCALE_UP.finditer(before))
    fabric = list(_FABRIC.finditer(before))
    behind = _SCALE_UP.match(after.lstrip(" (-"))
    if behind and not fabric:
        return True
    if not scale_up or (fabric and fabric[-1].start() > scale_up[-1].start()):
        return False
    beside = re.fullmatch(r"[\s\d:(~@.-]*(?:at|with|of)?\s*", before[scale_up[-1].end() :]) is not None
    return beside or _FABRIC.search(after) is None


def _count(clause: str, match: re.Match[str]) -> int:
    before, after = _BEFORE.search(clause[: match.start()]), _AFTER.match(clause[match.end() :])
    if before:
        return int(before[1]) if before[1] else _WORDS[before[2].lower()]
    return int(after[1]) if after else 1


def _bytes_per_s(match: re.Match[str]) -> float:
    value, size = float(match["rate"]), match["size"] or "b"
    is_byte = size.startswith("B") and size not in ("BE", "Bits", "Bit")
    if match["second"] is None and value >= _WHOLE_LINKS:
        is_byte = False  # 8x200GB names links of 200 Gb/s
    if match["second"] and match["second"].strip() == "PS":
        is_byte = False  # all in capitals
    if size.lower().startswith("byte"):
        is_byte = True
    return value * _PREFIXES[match["prefix"].lower()] / (1 if is_byte else 8)
