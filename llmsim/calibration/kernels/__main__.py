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
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from ...core.errors import LlmsimError, unknown_name
from ...hardware.kernel_fits import kernel_fits
from ...hardware.profiles import profiles_root
from .measured import Table
from .published import published_tables
from .rates import write_rates
from .silicon import DEVICES, RELEASE, root, tables
from .write import fit_tables, fits_text, write_fits

SILICON = f"measured kernel tables inside aiconfigurator-core {RELEASE}"
PUBLISHED = "published tables in validation/kernels_and_networks.csv"


def published_texts(path: Path, date: str) -> Iterator[tuple[str, str]]:
    """(device, its file) of the published tables."""
    by_device: dict[str, list[Table]] = defaultdict(list)
    for table in published_tables(path):
        by_device[table.device].append(table)
    for device, own in by_device.items():
        yield device, fits_text(device, fit_tables(own), PUBLISHED, date)


def silicon_texts(folder: Path, devices: Sequence[str], date: str) -> Iterator[tuple[str, str]]:
    """(device, its file) of the tables inside the package, of some devices or of all."""
    own = {name: device for name, device in DEVICES.items() if not devices or device in devices}
    return (
        (device, fits_text(device, fit_tables(tables(folder, name)), SILICON, date)) for name, device in own.items()
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", choices=("published", "silicon"))
    parser.add_argument("--tables", type=Path, help="the folder systems/data of the package, if it is not installed")
    parser.add_argument("devices", nargs="*", metavar="DEVICE", help=f"of {', '.join(DEVICES.values())}")
    arguments = parser.parse_args()
    date = datetime.now(UTC).date().isoformat()
    try:
        if unknown := next((name for name in arguments.devices if name not in DEVICES.values()), None):
            raise unknown_name("device", unknown, DEVICES.values())
        if arguments.source == "published":
            texts = published_texts(profiles_root().parent / "validation" / "kernels_and_networks.csv", date)
        else:
            texts = silicon_texts(arguments.tables or root(), arguments.devices, date)
        files = [write_fits(arguments.source, device, text) for device, text in texts]
        kernel_fits.cache_clear()
        files.append(write_rates())
    except LlmsimError as error:
        print(f"llmsim: {error}", file=sys.stderr)
        return 2
    for path, written in files:
        print(f"{path.relative_to(profiles_root())} {'written' if written else 'says the same'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
