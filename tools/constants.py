"""The list of constants, from the registry.

python tools/constants.py           # whether docs/constants.md is what the registry says
python tools/constants.py --write   # write it
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "constants.md"
sys.path.insert(0, str(ROOT))

from llmsim.hardware.constants import CONSTANTS, Constant  # noqa: E402

TITLES = {
    "generations": "Kernels, by generation of hardware",
    "devices": "Devices",
    "networks": "Networks between domains",
    "software": "Software",
    "engines": "Inference engines",
}
INTRODUCTION = """# Constants

Every rate that llmsim computes with. The page is written from the registry (`llmsim/hardware/constants.py`) by
`python tools/constants.py --write`; a new constant is one entry there.

*Path* is where fits have a constant (`fitted.yaml`, `--calibrate-with`), with a star for what it belongs to: a
generation, a device, a framework. Profiles have it under what stands between or behind the stars; what belongs to one
release is in no profile. *Prior* is the standard deviation of its logarithm around what the profile states, for
constants that measured runs move; the others stay as stated. *Symbol* is its name in [closed forms](explain.md).
`llmsim hardware NAME` and `llmsim doctor` show values, sources and errors.
"""
_COLUMNS = ("path", "symbol", "meaning", "unit", "range", "prior", "what to measure")


def _row(constant: Constant) -> str:
    low, high = f"{constant.low:g}", "" if math.isinf(constant.high) else f"{constant.high:g}"
    span = f"{low} to {high}" if high else f"from {low}"
    moved = {"step": "", "memory": " (memory)", "serving": " (servers)"}[constant.moved_by]
    prior = "" if constant.width is None else f"{constant.width:g}{moved}"
    symbol = f"`{constant.symbol}`" if constant.symbol else ""
    cells = f"`{constant.name}`", symbol, constant.meaning, constant.unit, span, prior, constant.measure
    return f"| {' | '.join(cells)} |"


def page() -> str:
    """The page as it should be."""
    found = [INTRODUCTION]
    for kind, title in TITLES.items():
        head = f"| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}"
        rows = "\n".join(_row(c) for c in CONSTANTS.values() if c.kind == kind)
        found.append(f"## {title}\n\n{head}\n{rows}\n")
    return "\n".join(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the page")
    if parser.parse_args().write:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page()
    print("up to date" if same else f"{PAGE.name} is not what the registry says: --write")
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(main())
