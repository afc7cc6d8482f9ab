"""A progress bar for work that takes longer than a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

PATIENCE_S = 1.0
"""Nothing is shown before."""


class Bar:
    """Progress on the error stream, one stage after the other; without a thread, since refits fork.

    Parameters
    ----------
    show
        False for silence.
    """

    def __init__(self, show: bool = True):
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=console, transient=True, auto_refresh=False)
        self._show, self._started, self._since = show and console.is_terminal, False, time.monotonic()

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._started:
            self._bar.stop()

    def stage(self, text: str, total: int = 1) -> Callable[..., None]:
        """Begin a stage of so many steps; the answer counts one of them, or as many as it is given."""
        task = self._bar.add_task(text, total=total)
        self._draw()

        def advance(steps: float = 1) -> None:
            self._bar.advance(task, steps)
            self._draw()

        return advance

    def _draw(self) -> None:
        if not self._show or time.monotonic() - self._since < PATIENCE_S:
            return
        if not self._started:
            self._bar.start()
            self._started = True
        self._bar.refresh()
