"""A progress bar for work that takes longer than a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

PATIENCE_S = 1.0
"""Nothing is shown before."""


class Bar:
    """Progress on the error stream, one stage after the other; without a thread, since others may fork.

    Parameters
    ----------
    show
        False for silence.
    """

    def __init__(self, show: bool = True):
        self._bar = _terminal_bar() if show else None
        self._started, self._since = False, time.monotonic()

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None and self._started:
            self._bar.stop()

    def stage(self, text: str, total: int = 1) -> Callable[..., None]:
        """Begin a stage of so many steps; the answer counts one of them, or as many as it is given."""
        if self._bar is None:
            return nothing
        bar, task = self._bar, self._bar.add_task(text, total=total)
        self._draw(bar)

        def advance(steps: float = 1) -> None:
            bar.advance(task, steps)
            self._draw(bar)

        return advance

    def _draw(self, bar: Progress) -> None:
        if time.monotonic() - self._since < PATIENCE_S:
            return
        if not self._started:
            bar.start()
            self._started = True
        bar.refresh()


def nothing(steps: float = 1) -> None:
    """Progress where nobody looks."""


def _terminal_bar() -> Progress | None:
    """A bar that draws when it is told to; None where the error stream is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        return None
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, auto_refresh=False)
