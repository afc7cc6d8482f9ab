"""Write the scoreboard: ``RESULTS.md``, ``results.json`` and ``results.svg`` beside the measured runs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from llmsim.core.errors import LlmsimError
from llmsim.core.files import write_whole
from llmsim.report.scoreboard import error_curves, markdown
from llmsim.scoring.scoreboard import MAIN, Subset, scoreboard

HERE = Path(__file__).resolve().parent
DIGITS = 6
SUBSETS = (
    Subset(
        "SimuMax on b200-sxm-180gb, without any SimuMax run",
        left_out=lambda run: run["source"].startswith("SimuMax"),
        scored=lambda run: run["hardware"] == "b200-sxm-180gb",
    ),
)
"""Runs of one source, scored by constants that know nothing of the source."""


def rounded(value: object) -> object:
    """The same with numbers of so many digits, so that files can be compared."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: rounded(v) for key, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, (list, tuple)) else value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=HERE / "training_runs.csv", help="measured runs")
    parser.add_argument("--split", type=Path, default=HERE / "fit_split.csv", help="pairs that the constants rest on")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    options = parser.parse_args()
    try:
        board = scoreboard(options.data, options.split, SUBSETS)
        main_part = board.parts[MAIN]
        title = "Groups of runs within an error of the step time, each predicted without its framework and model"
        write_whole(options.out / "results.svg", error_curves(main_part.errors, title))
        write_whole(options.out / "results.json", json.dumps(rounded(board.to_dict()), indent=1) + "\n")
        write_whole(options.out / "RESULTS.md", markdown(board, "results.svg"))
    except LlmsimError as error:
        print(f"llmsim: {error}", file=sys.stderr)
        return 2
    print(f"median over frameworks of framework medians, {main_part.constants}: {main_part.headline:.1%}")
    print(f"{options.out / 'RESULTS.md'} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
