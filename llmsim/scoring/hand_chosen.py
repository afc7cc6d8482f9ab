"""Values that somebody chose and no fit moves: what they are, where they stand, and what they are for.

Accuracy is quoted beside them, since they were chosen with sight of measured runs or by judgement. Values and meanings
are read from the code itself.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np

from ..calibration.parameters import Layout
from ..hardware.constants import CONSTANTS

PACKAGE = __name__.partition(".")[0]

_CHOSEN = {
    "timing.layer_time": ("HOST_SHARPNESS", "MOE_FORWARD_SHARE"),
    "hardware.kernels": ("TILES", "SPLITS"),
    "hardware.attention": ("TILE_ROWS", "LEAST_QUERIES"),
    "hardware.residuals": ("NEIGHBOURS", "SOFTENING", "REACH"),
    "hardware.shapes": ("REACH", "SPREAD"),
    "hardware.constant": ("LEARNED",),
    "training.memory": ("OUT_OF_MEMORY_RISK",),
    "serving.step_time": ("SHARPNESS",),
    "serving.steady_state": ("BUSIEST", "MOST_OFFSPRING"),
    "serving.cache_pool": ("NEARLY_EQUAL",),
    "calibration.normalise_columns": ("PACKED_DOCUMENT",),
    "calibration.fit": ("NOISE", "KNEE", "NEAR"),
    "calibration.shapes": ("RUN_NOISE", "GROUP_NOISE", "MOST", "LEAST_SHARE"),
    "calibration.memory": ("NOISE",),
    "calibration.plausible": ("SLOWEST", "SIGMAS"),
    "calibration.split": ("HELD_OUT",),
    "calibration.intervals": ("COVERAGE", "ENOUGH", "FEWEST_JOBS"),
    "calibration.logs": ("WARM_UP",),
    "calibration.own": ("OWN_NOISE", "LEAST_SPREAD", "UNKNOWN_SPREAD"),
    "calibration.kernels.fitting": ("SCALE", "MOST_ROWS", "FOLDS", "MANY", "FEW", "MOST_POINTS", "DENSE"),
    "calibration.kernels.families": ("LONG_S",),
    "calibration.kernels.published": ("LEAST_MESSAGE", "FEWEST"),
    "calibration.kernels.silicon": ("IMPLAUSIBLE", "LEAST_ROWS", "LEAST_SHAPES"),
    "calibration.serving.fit": ("NOISE", "INTERCEPT", "OWN_WIDTH", "TAILS", "GROUP_ROWS"),
    "calibration.serving.calibrate": ("PARTS",),
    "calibration.serving.runs": ("SHORTEST", "LARGEST_SHARE"),
    "calibration.serving.replays": ("ROUNDS", "SECONDS"),
    "calibration.serving.reports": (
        "USUAL_PROMPT",
        "USUAL_ANSWER",
        "LIKELY_INPUT",
        "LIKELY_OUTPUT",
        "USUAL_ROUNDS",
        "USUAL_SECONDS",
        "MOST_PROMPTS",
    ),
    "quality.field": ("SIZE_EXPONENT", "TOKEN_EXPONENT", "LEVEL", "FLOOR", "NOISE"),
    "scoring.ranking": ("SMALLEST",),
    "scoring.coverage": ("REJECTED",),
}
"""Module -> its names, in the order of the way from counts to scores."""


@dataclass(frozen=True)
class HandChosen:
    """A value.

    Attributes
    ----------
    name, file
        Of the variable, and where it is assigned, from the root of the repository.
    value
        As Python writes it.
    meaning
        What the code says about it.
    """

    name: str
    file: str
    value: str
    meaning: str


@dataclass(frozen=True)
class PriorWidth:
    """The prior of a constant that runs move.

    Attributes
    ----------
    name, unit, meaning
        Of the constant, by the pattern of its paths.
    moved_by
        ``step``, ``memory`` or ``serving``.
    width
        Standard deviation of the logarithm.
    values
        How many the runs of a table have.
    least, most
        Centres of their priors, from the profiles, in the unit; None where no run has one.
    """

    name: str
    unit: str
    meaning: str
    moved_by: str
    width: float
    values: int
    least: float | None
    most: float | None


def hand_chosen() -> list[HandChosen]:
    """All such values, but widths of priors."""
    return list(_listed())


def _listed() -> Iterator[HandChosen]:
    for dotted, names in _CHOSEN.items():
        module = import_module(f"{PACKAGE}.{dotted}")
        file = f"{PACKAGE}/{dotted.replace('.', '/')}.py"
        for name in names:
            yield HandChosen(name, file, repr(getattr(module, name)), _meanings(module)[name])


@lru_cache(maxsize=64)
def _meanings(module: ModuleType) -> dict[str, str]:
    """Name -> the text below its assignment, of all variables of a module that have one."""
    body = ast.parse(Path(inspect.getfile(module)).read_text(encoding="utf-8")).body
    found: dict[str, str] = {}
    for node, below in pairwise(body):
        if not (isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(below, ast.Expr)):
            continue
        text = below.value.value if isinstance(below.value, ast.Constant) else None
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
        if isinstance(text, str):
            found |= dict.fromkeys(names, " ".join(text.split()))
    return found


def prior_widths(layout: Layout) -> list[PriorWidth]:
    """The priors of all constants that any kind of run moves.

    Parameters
    ----------
    layout
        Constants and centres of the runs of a table.
    """
    centres = {
        constant.name: np.exp(layout.prior[np.unique(numbers)])
        for constant, numbers in zip(layout.constants, layout.index, strict=True)
    }
    found: list[PriorWidth] = []
    for c in CONSTANTS.values():
        if c.width is not None:
            own = centres.get(c.name, np.zeros(0))
            ends = (float(own.min()), float(own.max())) if len(own) else (None, None)
            found.append(PriorWidth(c.name, c.unit, c.meaning, c.moved_by, c.width, len(own), *ends))
    return found
