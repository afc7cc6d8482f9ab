"""Are measured alternatives put into the right order by constants that have not seen their models?

    python validation/rankings.py [TABLE] [--json]

Prints the figures and writes them to ``rankings.md`` beside this file. Sets are runs that share model, device, devices,
sequence, precision, framework, release and global batch. About two minutes on one core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from llmsim.calibration.batches import plan_runs
from llmsim.calibration.table import read_runs
from llmsim.core.files import write_whole
from llmsim.report.rankings import rankings_text
from llmsim.scoring.rankings import rankings
from llmsim.scoring.validate import search_paths

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", type=Path, default=HERE / "training_runs.csv")
    parser.add_argument("--json", action="store_true", help="print data instead of tables")
    chosen = parser.parse_args()
    items, _ = plan_runs(read_runs(chosen.table), search_paths(chosen.table))
    found = rankings(items, progress=not chosen.json)
    text = rankings_text(found, chosen.table.name)
    write_whole(HERE / "rankings.md", text)
    print(json.dumps(found.to_dict(), indent=1) if chosen.json else text, end="\n" if chosen.json else "")


if __name__ == "__main__":
    main()
