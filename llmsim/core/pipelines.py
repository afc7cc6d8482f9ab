"""Names of the pipeline schedules, and the facts about them that plans, memory and time share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

ScheduleName = Literal[
    "gpipe", "1f1b", "interleaved", "zb-h1", "interleaved-zb", "zb-v", "dualpipe-v", "dualpipe"
]  # fmt: skip
SCHEDULES: tuple[ScheduleName, ...] = get_args(ScheduleName)
USUAL_SCHEDULES: tuple[ScheduleName, ...] = ("1f1b", "interleaved")
"""What is looked at unless a space says otherwise."""


@dataclass(frozen=True)
class Schedule:
    """Facts about a schedule.

    Attributes
    ----------
    chunks
        Model chunks per device (``virtual_pipeline``) that it runs: ``one``, ``two`` or ``several``.
    split
        Whether gradients of weights are computed apart from gradients of inputs.
    shape
        How a micro-batch goes through the devices: in a ``loop`` from the last to the first, in a ``v`` back the way
        that it came, or ``both`` ways at once, half of the micro-batches from either end.
    paired
        Whether a forward pass runs side by side with the backward pass of another micro-batch.
    """

    chunks: Literal["one", "two", "several"]
    split: bool = False
    shape: Literal["loop", "v", "both"] = "loop"
    paired: bool = False

    @property
    def copies(self) -> int:
        """How many devices hold each parameter because of the schedule."""
        return 2 if self.shape == "both" else 1

    def takes(self, chunks: int) -> bool:
        """Whether it runs with this many chunks per device."""
        return {"one": chunks == 1, "two": chunks == 2, "several": chunks > 1}[self.chunks]


_FACTS: dict[ScheduleName, Schedule] = {
    "gpipe": Schedule("one"),
    "1f1b": Schedule("one"),
    "interleaved": Schedule("several"),
    "zb-h1": Schedule("one", split=True),
    "interleaved-zb": Schedule("several", split=True),
    "zb-v": Schedule("two", split=True, shape="v"),
    "dualpipe-v": Schedule("two", split=True, shape="v", paired=True),
    "dualpipe": Schedule("one", split=True, shape="both", paired=True),
}


def schedule_facts(name: ScheduleName) -> Schedule:
    """The facts about a schedule."""
    return _FACTS[name]


def fewest_micro_batches(name: ScheduleName, pp: int) -> int:
    """The fewest micro-batches that a schedule is defined for: two a stage where passes run in pairs, else one."""
    return 2 * pp if _FACTS[name].paired and pp > 1 else 1
