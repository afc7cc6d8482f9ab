"""Fill the optional columns of a run table from its free text: ``python tools/run_columns.py TABLE --write``.

What the text says is written once in the names of profiles and plans, behind the columns that were there, which stay as
they are. A cell stays empty where the text says nothing and a profile's default holds, or where the original column
has the name already. Without ``--write`` the table is only compared with what would be written (status 1 where they
differ).
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from llmsim.calibration.interconnects import link_rate
from llmsim.calibration.normalise_columns import (
    date_of,
    dispatcher_of,
    domain_of,
    fine_tuning_of,
    network_of,
    offload_of,
    overlap_of,
    packed_of,
    recompute_of,
    schedule_of,
)
from llmsim.calibration.runs import architecture_of
from llmsim.calibration.table import OPTIONAL, MeasuredRun
from llmsim.hardware.named import get_device, get_fabric

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "validation" / "training_runs.csv"


def fabric(run: MeasuredRun) -> str:
    """The profile nearest to a rate that the source states, of a run on several nodes."""
    device = get_device(run["hardware"])
    per_node = run.count("devices_per_node", device.devices_per_node)
    usual = get_fabric(device.network).shared_by(per_node).bandwidth.value
    text = run["interconnect"]
    if run.count("n_devices") <= per_node or link_rate(text, per_node, usual) is None:
        return ""
    return network_of(text, device, per_node)[0]


def recompute_setting(run: MeasuredRun) -> str:
    """The setting of a wording that is none."""
    text = run["recompute"]
    setting = recompute_of(text, "none", {}) if text else ""
    return "" if setting == text.replace(" ", "") else setting


def offloaded(run: MeasuredRun) -> str:
    """Share of the layers whose activations go to the host; empty where the text does not say how many."""
    layers = len(architecture_of(run["model"], (TABLE.parent,)).layers)
    share = offload_of(run["offload"], run["notes"], layers, {})
    return str(share) if share else ""


def schedule(run: MeasuredRun) -> str:
    """The pipeline schedule that any of the texts names."""
    if run.count("pipeline_parallel") == 1:
        return ""
    text = " ".join(run[column] for column in ("framework", "framework_release", "overlap", "group", "notes"))
    return schedule_of(text, run.count("virtual_pipeline"), {}) or ""


def unless_profile(name: str) -> str:
    """A setting that is not the profile's usual."""
    return "" if name == "profile" else name


READERS: Mapping[str, Callable[[MeasuredRun], str]] = {
    "fabric": fabric,
    "scale_up_domain": lambda run: str(domain_of(run["interconnect"]) or ""),
    "software_date": lambda run: "" if run["framework_release"] else date_of(run["source"]),
    "recompute_setting": recompute_setting,
    "offload_activations": offloaded,
    "overlap_setting": lambda run: unless_profile(overlap_of(run["overlap"])),
    "schedule": schedule,
    "dispatcher": lambda run: unless_profile(dispatcher_of(run["notes"])),
    "packed": lambda run: "true" if packed_of(run["notes"]) else "",
    "fine_tuning": lambda run: "true" if fine_tuning_of(run["notes"]) else "",
}
"""Optional column -> its cell, from the original columns."""


def filled(text: str) -> str:
    """A table with the optional columns that any row fills, behind its own columns."""
    header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    kept = [n for n, column in enumerate(header) if column not in OPTIONAL]
    names = [header[n] for n in kept]
    originals = [[row[n] for n in kept] for row in rows]
    runs = [
        MeasuredRun(line, dict(zip(names, map(str.strip, row), strict=True))) for line, row in enumerate(originals, 2)
    ]
    cells = {column: [READERS[column](run) for run in runs] for column in OPTIONAL}
    added = [column for column in OPTIONAL if any(cells[column])]
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*names, *added])
    writer.writerows([*row, *(cells[column][n] for column in added)] for n, row in enumerate(originals))
    return out.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, nargs="?", default=TABLE)
    parser.add_argument("--write", action="store_true", help="write the table anew")
    options = parser.parse_args()
    before = options.table.read_bytes().decode("utf-8")
    after = filled(before)
    if options.write:
        options.table.write_bytes(after.encode("utf-8"))
    elif before != after:
        print(f"{options.table}: optional columns are not what its text says; run with --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
