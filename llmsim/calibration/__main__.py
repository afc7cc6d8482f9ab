"""``python -m llmsim.calibration``: the constants that ship, from the measured runs of a checkout."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..core.errors import LlmsimError
from ..core.files import write_whole
from ..hardware.fitted import fitted_path
from .calibrate import calibrate, write_fit
from .split import split_text
from .table import read_runs

VALIDATION = Path(__file__).resolve().parents[2] / "validation"


def main(arguments: list[str] | None = None) -> int:
    """Fit, and write ``hardware_profiles/fitted.yaml``."""
    parser = argparse.ArgumentParser(prog="python -m llmsim.calibration", description=__doc__)
    parser.add_argument("--data", type=Path, default=VALIDATION / "training_runs.csv", help="measured runs")
    parser.add_argument("--split", type=Path, default=VALIDATION / "fit_split.csv", help="pairs to fit on")
    parser.add_argument("--out", type=Path, default=fitted_path(), help="file to write")
    parser.add_argument("--draw-split", action="store_true", help="write the split by its rule, and fit nothing")
    parser.add_argument("--serving", action="store_true", help="fit engines to measured servers instead")
    parser.add_argument("--date", help="date to write, by default today")
    options = parser.parse_args(arguments)
    try:
        if options.draw_split:
            write_whole(options.split, split_text(read_runs(options.data)), "split")
            print(f"{options.split} written")
            return 0
        if options.serving:
            return _serving(options.date)
        fit = calibrate(options.data, options.split, date=options.date)
        written = write_fit(fit, options.out)
    except LlmsimError as error:
        print(f"llmsim: {error}", file=sys.stderr)
        return 2
    for name, residual in fit.residuals.items():
        print(f"{name}: median {residual.median:.1%}, p90 {residual.p90:.1%} over {residual.groups} groups")
    print(f"{options.out} {'written' if written else 'says the same'}: {len(fit.values)} constants")
    return 0


def _serving(date: str | None) -> int:
    """Fit engines, and write ``hardware_profiles/fitted_serving.yaml``."""
    from ..hardware.engines import serving_fit_path
    from .serving.calibrate import calibrate_serving

    fit = calibrate_serving(VALIDATION, date=date)
    written = write_fit(fit, serving_fit_path())
    for name, residual in fit.residuals.items():
        print(f"{name}: median {residual.median:.1%}, p90 {residual.p90:.1%} over {residual.groups} groups")
    print(f"{serving_fit_path()} {'written' if written else 'says the same'}: {len(fit.values)} constants")
    return 0


if __name__ == "__main__":
    sys.exit(main())
