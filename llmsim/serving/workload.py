"""Requests of a server one by one: when clients send them, and how long prompts and answers are.

References
----------
Lengths of conversations are close to log-normal, gaps between requests burstier than those of a Poisson process and
close to Gamma: Wang 2024 (BurstGPT), arXiv:2401.17644.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import InputError

ARRIVALS = ("poisson", "constant", "gamma:CV", "at once")
LENGTHS = ("N", "uniform:LOW:HIGH", "lognormal:MEAN:CV", "zipf:EXPONENT:LARGEST")
MOST_REQUESTS = 10_000_000
_COLUMNS = {
    "sent_s": ("sent_s", "arrival_s", "arrival_time", "arrived_at", "timestamp", "time"),
    "input_tokens": ("input_tokens", "prompt_tokens", "prompt_len", "input_length", "num_prefill_tokens",
                     "contexttokens"),
    "output_tokens": ("output_tokens", "completion_tokens", "output_len", "output_length", "num_decode_tokens",
                      "generatedtokens"),
    "cached_tokens": ("cached_tokens", "prefix_tokens"),
}  # fmt: skip
"""What a trace must say (the last is optional) and the names that public traces have for it."""


@dataclass(frozen=True, eq=False)
class Workload:
    """Requests in the order in which clients want to send them; columns of one entry a request.

    Attributes
    ----------
    sent_s
        When, seconds.
    inputs, outputs, cached
        Tokens of prompts and answers; of the prompts, those that a prefix cache has.
    groups, shared
        Of each request the group whose prefix it begins with, -1 for none, and the tokens of that prefix.
    in_flight
        How many clients have out at a time at most, None for no limit: a request that may not be sent waits at its
        client.
    text
        In words.
    """

    sent_s: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray
    cached: np.ndarray
    groups: np.ndarray
    shared: np.ndarray
    in_flight: int | None = None
    text: str = ""

    def __len__(self) -> int:
        return len(self.sent_s)

    @property
    def longest(self) -> int:
        """Tokens of the longest request."""
        return int((self.inputs + self.outputs).max())

    def share(self, place: int, count: int) -> Workload:
        """What one of several replicas gets: every ``count``-th request."""
        limit = None if self.in_flight is None else max(1, len(range(place, self.in_flight, count)))
        own = slice(place, None, count)
        names = ("sent_s", "inputs", "outputs", "cached", "groups", "shared")
        return Workload(**{name: getattr(self, name)[own] for name in names}, in_flight=limit, text=self.text)

    def prefixes(self) -> list[tuple[int, int]] | None:
        """Group and tokens of each request's prefix; None where no request has one."""
        if not (self.groups >= 0).any():
            return None
        return list(zip(self.groups.tolist(), self.shared.tolist(), strict=True))


def generated(
    requests: int,
    input: str | int,
    output: str | int,
    *,
    rate: float | None = None,
    arrivals: str = "poisson",
    concurrency: int | None = None,
    cached: int = 0,
    prefix: tuple[int, int] | None = None,
    seed: int = 0,
) -> Workload:
    """Requests drawn by a seed.

    Parameters
    ----------
    requests
        How many.
    input, output
        Lengths: a number, ``uniform:LOW:HIGH``, ``lognormal:MEAN:CV`` or ``zipf:EXPONENT:LARGEST``.
    rate, arrivals
        Requests per second, and how they follow each other: ``poisson``, ``constant``, ``gamma:CV`` (coefficient of
        variation of the gaps); without a rate all at once.
    concurrency
        Requests in flight at a time at most.
    cached
        Tokens of each prompt that a prefix cache has from the beginning.
    prefix
        Tokens with which prompts begin and groups that have them in common; requests belong to the groups in turn.

    Raises
    ------
    InputError
        For what is none of these.
    """
    if isinstance(requests, bool) or not isinstance(requests, int) or not 1 <= requests <= MOST_REQUESTS:
        raise InputError("requests", requests, f"a whole number from 1 to {MOST_REQUESTS:,}", 1000)
    random = np.random.default_rng(seed)
    sent = _arrivals(requests, rate, arrivals, random)
    inputs, outputs = _lengths(input, "input", requests, random), _lengths(output, "output", requests, random)
    if concurrency is not None and concurrency < 1:
        raise InputError("concurrency", concurrency, "at least 1 request in flight", 1)
    known = np.minimum(np.full(requests, cached, dtype=np.int64), inputs - 1)
    groups, shared = _no_prefixes(requests)
    if prefix is not None:
        tokens, count = prefix
        if tokens < 1 or count < 1:
            raise InputError("prefix", f"{tokens}:{count}", "at least 1 token and 1 group", "1000:1")
        groups, shared = np.arange(requests) % count, np.minimum(tokens, inputs)
    how = "at once" if rate is None else f"at {rate:g} requests/s ({arrivals})"
    limit = "" if concurrency is None else f", at most {concurrency:,} in flight"
    text = f"{requests:,} requests {how}{limit}, {input} tokens in, {output} out"
    if prefix is not None:
        text += f", of them {prefix[0]:,} common to each of {prefix[1]:,} groups"
    return Workload(sent, inputs, outputs, known, groups, shared, concurrency, text)


def _no_prefixes(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full(count, -1, dtype=np.int64), np.zeros(count, dtype=np.int64)


def _arrivals(requests: int, rate: float | None, text: str, random: np.random.Generator) -> np.ndarray:
    if rate is None:
        return np.zeros(requests)
    if not 0 < rate < math.inf:
        raise InputError("rate", rate, "requests per second, above 0", 1)
    if text == "constant":
        return np.arange(requests) / rate
    match = re.fullmatch(r"gamma:([0-9.]+)", text)
    if text != "poisson" and (match is None or not 0 < float(match[1]) <= 100):
        raise InputError("arrivals", text, ", ".join(ARRIVALS), "poisson")
    shape = 1.0 if match is None else float(match[1]) ** -2
    gaps = random.gamma(shape, 1 / (rate * shape), requests)
    gaps[0] = 0.0
    return np.asarray(np.cumsum(gaps))


def _lengths(value: str | int, field: str, count: int, random: np.random.Generator) -> np.ndarray:
    """Whole numbers of at least 1."""
    kind, *rest = str(value).split(":")
    try:
        numbers = [float(text.replace(",", "").replace("_", "")) for text in (rest or [kind])]
        drawn = np.rint(_drawn(kind if rest else "", numbers, count, random))
        return np.asarray(np.maximum(drawn, 1), dtype=np.int64)
    except (ValueError, KeyError, OverflowError):
        raise InputError(field, value, ", ".join(LENGTHS), "1000") from None


def _drawn(kind: str, numbers: Sequence[float], count: int, random: np.random.Generator) -> np.ndarray:
    if not all(0 < n < 1e8 for n in numbers):
        raise ValueError
    if not kind:
        return np.full(count, numbers[0])
    first, second = numbers
    if kind == "uniform" and first <= second:
        return random.integers(int(first), int(second) + 1, count).astype(float)
    if kind == "lognormal":
        variance = math.log1p(second**2)
        return random.lognormal(math.log(first) - variance / 2, math.sqrt(variance), count)
    if kind == "zipf" and first > 1:
        return np.minimum(random.zipf(first, count), second).astype(float)
    raise KeyError(kind)


def read_trace(path: str | Path, *, concurrency: int | None = None) -> Workload:
    """Requests of a file, CSV or JSON lines, with the moment of sending and the tokens of prompt and answer.

    Times count from the first. Rows that are not in order are put in order.

    Raises
    ------
    InputError
        For a file that cannot be read, a column that is missing, and a row with something else than numbers, by line.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("trace", str(path), "a readable CSV or JSON lines file", why=str(error)) from None
    lines = text.splitlines()
    rows: Iterable[Mapping[str, Any]]
    if file.suffix.lower() in (".jsonl", ".json", ".ndjson"):
        rows = [_json_row(n, line) for n, line in enumerate(lines, start=1) if line.strip()]
    else:
        rows = list(csv.DictReader(lines))
    cells = [{str(k).strip().lower().replace(" ", ""): v for k, v in row.items()} for row in rows]
    if not cells:
        raise InputError("trace", str(path), "at least one request", why="has no rows")
    names = {wanted: _column(wanted, cells[0]) for wanted in _COLUMNS}
    start = 2 if isinstance(rows, list) and file.suffix.lower() not in (".jsonl", ".json", ".ndjson") else 1
    columns = {wanted: np.array([_cell(row, name, n) for n, row in enumerate(cells, start=start)])
               for wanted, name in names.items() if name}  # fmt: skip
    order = np.argsort(columns["sent_s"], kind="stable")
    inputs, outputs = (np.maximum(columns[k][order], 1).astype(np.int64) for k in ("input_tokens", "output_tokens"))
    cached = columns.get("cached_tokens", np.zeros(len(order)))[order].astype(np.int64)
    sent = columns["sent_s"][order]
    groups, shared = _no_prefixes(len(order))
    return Workload(sent - sent[0], inputs, outputs, np.minimum(cached, inputs - 1), groups, shared, concurrency,
                    f"trace {file.name}")  # fmt: skip


def _json_row(line: int, text: str) -> Mapping[str, Any]:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError("trace", f"line {line}", "one JSON object a line", why=f"is no JSON ({error.msg})") from None
    if not isinstance(row, dict):
        raise InputError("trace", f"line {line}", "one JSON object a line", why="is no object")
    return row


def _column(wanted: str, row: Mapping[str, Any]) -> str | None:
    found = next((name for name in _COLUMNS[wanted] if name in row), None)
    if found is None and wanted != "cached_tokens":
        raise InputError("trace", ", ".join(row), f"a column {wanted}, or one of {', '.join(_COLUMNS[wanted])}",
                         wanted, why="lacks a column")  # fmt: skip
    return found


def _cell(row: Mapping[str, Any], name: str, line: int) -> float:
    value = row.get(name)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = _moment(value)
    if not 0 <= number < 1e12:
        raise InputError(f"trace, line {line}, {name}", value, "a number of at least 0")
    return number


def _moment(value: object) -> float:
    """Seconds of a date and time; -1 for what is none."""
    from datetime import datetime

    try:
        return datetime.fromisoformat(str(value)[:26]).timestamp()
    except ValueError:
        return -1.0
