"""How many positions a query sees: one rule for training, prefill, chunks of a prompt and decoding."""

from __future__ import annotations

from .numeric import Number, minimum


def visible_positions(queries: Number, cached: Number = 0, *, causal: bool, window: int | None = None) -> Number:
    """Mean number of positions that each of some new tokens attends to.

    A causal query sees itself and all before it, or the last ``window`` of these. The sum over the first L positions is
    ``w L - w (w - 1) / 2`` with ``w = min(window, L)``; new tokens have that of all positions less that of those before
    them. Without a cache and a window the mean is ``(queries + 1) / 2``; at one new token it is ``cached + 1``.

    Parameters
    ----------
    queries, cached
        New tokens, and tokens before them.
    window
        Positions of a sliding window, the query among them; None for all.
    """
    if not causal:
        return cached + queries
    return (_seen(cached + queries, window) - _seen(cached, window)) / queries


def _seen(length: Number, window: int | None) -> Number:
    """Positions that all of the first tokens of a sequence see together."""
    own = length if window is None else minimum(window, length)
    return own * length - own * (own - 1) / 2
