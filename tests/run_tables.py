"""Small run tables for tests."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from llmsim.calibration.table import COLUMNS

PLAIN: dict[str, object] = {
    "id": "a",
    "group": "g",
    "model": "llama-3-8b",
    "hardware": "h100-sxm-80gb",
    "n_devices": 8,
    "devices_per_node": 8,
    "interconnect": "NVLink",
    "framework": "megatron-core",
    "framework_release": "test",
    "precision": "bf16",
    "sequence_length": 8192,
    "global_batch_size": 16,
    "micro_batch_size": 1,
    "tensor_parallel": 2,
    "pipeline_parallel": 1,
    "data_parallel": 4,
    "sharding": "zero1",
    "sequence_parallel": "true",
    "recompute": "none",
    "optimizer": "adam",
    "step_time_s": 4.0,
}
"""A row that can be simulated."""


def row(**cells: object) -> dict[str, object]:
    """A row with some cells changed."""
    return {**PLAIN, **cells}


def write_table(path: Path, rows: Iterable[Mapping[str, object]], columns: Iterable[str] = COLUMNS) -> Path:
    """A run table of these rows."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns), restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path
