"""Fit kernels to measured tables and write ``hardware_profiles/kernels``.

    python -m llmsim.calibration.kernels published
    python -m llmsim.calibration.kernels silicon [--tables FOLDER] [DEVICE ...]

The first reads ``validation/kernels_and_networks.csv``; the second the tables inside aiconfigurator-core, which the
extra ``silicon`` installs.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from ...core.errors import LlmsimError
from ...hardware.kernel_fits import kernel_fits
from ...hardware.profiles import profiles_root
from .measured import Table
from .published import published_tables
from .rates import write_rates
from .silicon import DEVICES, RELEASE, root, tables
from .write import fit_tables, write_fits

SILICON = f"measured kernel tables inside aiconfigurator-core {RELEASE}"
PUBLISHED = "published tables in validation/kernels_and_networks.csv"


def fit_published(path: Path, date: str) -> list[Path]:
    """Fit the published tables; the files written."""
    by_device: dict[str, list[Table]] = defaultdict(list)
    for table in published_tables(path):
        by_device[table.device].append(table)
    return [write_fits("published", device, fit_tables(own), PUBLISHED, date) for device, own in by_device.items()]


def fit_silicon(folder: Path, devices: Sequence[str], date: str) -> list[Path]:
    """Fit the tables inside the package, of some devices or of all; the files written."""
    return [
        write_fits("silicon", device, fit_tables(tables(folder, name)), SILICON, date)
        for name, device in DEVICES.items()
        if not devices or device in devices
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", choices=("published", "silicon"))
    parser.add_argument("--tables", type=Path, help="the folder systems/data of the package, if it is not installed")
    parser.add_argument("devices", nargs="*", metavar="DEVICE", help=f"of {', '.join(DEVICES.values())}")
    arguments = parser.parse_args()
    date = datetime.now(UTC).date().isoformat()
    try:
        if arguments.source == "published":
            path = profiles_root().parent / "validation" / "kernels_and_networks.csv"
            written = fit_published(path, date)
        else:
            written = fit_silicon(arguments.tables or root(), arguments.devices, date)
    except LlmsimError as error:
        print(error, file=sys.stderr)
        return 1
    kernel_fits.cache_clear()
    written.append(write_rates())
    print(f"written: {', '.join(str(p.relative_to(p.parents[1])) for p in written)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
