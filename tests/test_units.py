"""Numbers as people type and read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsim.core.errors import InputError
from llmsim.core.units import gib, large, parse_count, parse_length, seconds


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("15T", 15e12), ("8k", 8000), ("8K", 8000), ("3M", 3e6), ("7b", 7e9), ("7G", 7e9), ("2p", 2e15),
        ("1_000", 1000), ("1,000", 1000), ("2.5e9", 2.5e9), (".5k", 500), (" 12 ", 12), (4096, 4096), (0.5, 0.5),
        ("1e-3k", 1),
    ],
)  # fmt: skip
def test_counts(text: str | float, value: float) -> None:
    assert parse_count(text, "tokens") == value


@pytest.mark.parametrize("text", ["", "k", "-1", "0", "nan", "inf", "1kk", "1 k k", True, 0, -3, math.inf, math.nan])
def test_no_counts(text: str | float) -> None:
    with pytest.raises(InputError, match="tokens"):
        parse_count(text, "tokens")


@pytest.mark.parametrize(
    ("text", "value"),
    [("8k", 8192), ("1M", 1 << 20), ("8192", 8192), ("8,192", 8192), ("1_024k", 1 << 20), (1, 1), ("0.5k", 512)],
)
def test_lengths(text: str | int, value: int) -> None:
    """As model builders mean them: 8k is 8,192."""
    assert parse_length(text, "sequence") == value


@pytest.mark.parametrize("text", ["0", "1.5", "8b", "", "-8k", "0.0001k", "1e999", "x"])
def test_no_lengths(text: str) -> None:
    with pytest.raises(InputError, match="sequence"):
        parse_length(text, "sequence")


@given(st.integers(1, 10**9))
def test_counts_of_whole_numbers_are_themselves(n: int) -> None:
    assert parse_count(n, "n") == parse_count(str(n), "n") == parse_length(n, "n") == n
    assert parse_count(f"{n}k", "n") == n * 1000
    assert parse_length(f"{n}k", "n") == n * 1024


@pytest.mark.parametrize(
    ("value_s", "text"),
    [
        (0, "0 us"), (25e-6, "25 us"), (0.99e-3, "990 us"), (1e-3, "1 ms"), (0.1431, "143.1 ms"), (1, "1 s"),
        (-0.5, "-500 ms"), (7.168, "7.168 s"), (599, "599 s"), (600, "0.1667 h"), (86_400, "24 h"),
        (2 * 86_400, "2.0 days"), (296.7 * 86_400, "296.7 days"), (1234 * 86_400, "1,234.0 days"), (math.inf, "inf"),
    ],
)  # fmt: skip
def test_durations(value_s: float, text: str) -> None:
    assert seconds(value_s) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (15e12, "15T"), (70.6e9, "70.6B"), (8_030_261_248, "8.03B"), (4096, "4,096"), (1e15, "1P"), (1e12, "1T"),
        (1e9, "1B"), (1e6, "1M"), (999_999, "999,999"), (-2e6, "-2M"), (0, "0"),
    ],
)  # fmt: skip
def test_large_counts(value: float, text: str) -> None:
    assert large(value) == text


def test_gibibytes() -> None:
    assert gib(1 << 30) == "1.00 GiB"
    assert gib(76.01 * 2**30) == "76.01 GiB"
    assert gib(1536 * 2**30, 1) == "1,536.0 GiB"
