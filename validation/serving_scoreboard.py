"""Write the scoreboard of servers: ``SERVING.md`` and ``serving_results.json`` beside the measured servers."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from scoreboard import rounded

from llmsim.core.files import write_whole
from llmsim.report.serving_scoreboard import markdown
from llmsim.scoring.serving_scoreboard import serving_scoreboard

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    options = parser.parse_args()
    board = serving_scoreboard(HERE)
    write_whole(options.out / "serving_results.json", json.dumps(rounded(board.to_dict()), indent=1) + "\n")
    write_whole(options.out / "SERVING.md", markdown(board))
    print(markdown(board))


if __name__ == "__main__":
    main()
