"""The scoreboard of servers as Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from ..calibration.serving import fit, replays, runs
from ..scoring.serving_scoreboard import FEWEST_ROWS, ServingBoard

HAND_CHOSEN = (
    ("standard deviation of a row's logarithm", "NOISE", fit.NOISE),
    ("the same of a series", "INTERCEPT", fit.INTERCEPT),
    ("the same of an engine's own deviations", "OWN_WIDTH", fit.OWN_WIDTH),
    ("degrees of freedom of a row's error", "TAILS", fit.TAILS),
    ("rows of a group that count in full", "GROUP_ROWS", fit.GROUP_ROWS),
    ("shortest length over the stated one", "SHORTEST", runs.SHORTEST),
    ("largest share of memory of a server that is known to run", "LARGEST_SHARE", runs.LARGEST_SHARE),
    ("requests for each that is in flight", "ROUNDS", replays.ROUNDS),
)
"""What no fit moves: meaning, name in the code, value."""


def markdown(board: ServingBoard) -> str:
    """The whole page."""
    lines = [
        "# Servers that no constant has seen",
        "",
        "Written by `make scoreboard`. Constants of engines are fitted anew without what a row names; queues",
        "are simulated request by request. Errors are relative; a row that is not answered counts as wrong by",
        f"100 %. Latencies under a fixed concurrency are scored over groups of at least {FEWEST_ROWS} rows. Intervals",
        "are those that the other groups lead to. Baselines know the same runs: a roofline, a linear model with 8",
        "parameters of at least 0 (layers on each engine, layers times doublings of ranks, expert layers,",
        "bytes, FLOPs, FLOPs of prompts), and the nearest run of the same engine scaled by rooflines.",
        "",
        *_table(
            ("left out", "what", "by", "groups", "rows", "median", "p90", "worst group", "in 80 % interval"),
            (
                (s.split, s.what, s.method, str(s.groups), str(s.rows), _percent(s.median), _percent(s.p90),
                 _percent(s.worst), "" if s.coverage is None else _percent(s.coverage))
                for s in board.scores
            ),
        ),
    ]  # fmt: skip
    for what, groups in board.groups.items():
        lines += ["", f"## {what[0].upper()}{what[1:]}, group left out", ""]
        lines += _table(
            ("group", "rows", "median", "p90", "bias"),
            ((name, str(n), _percent(m), _percent(p), f"{100 * b:+.1f} %") for name, (n, m, p, b) in groups.items()),
        )
    lines += ["", "## Chosen by hand", ""]
    lines += _table(("what", "name", "value"), ((what, f"`{name}`", str(value)) for what, name, value in HAND_CHOSEN))
    return "\n".join(lines) + "\n"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    cells = (text.replace("|", ", ") for row in (head, ("---",) * len(head)) for text in row)
    first = list(cells)
    found = ["| " + " | ".join(first[n : n + len(head)]) + " |" for n in (0, len(head))]
    return found + ["| " + " | ".join(text.replace("|", ", ") for text in row) + " |" for row in rows]
