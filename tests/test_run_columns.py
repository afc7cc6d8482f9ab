"""Optional columns of run tables say what free text says, come before it, and change no prediction."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
from run_tables import row, write_table

from llmsim.calibration.runs import is_fine_tuning, plan_run
from llmsim.calibration.table import COLUMNS, OPTIONAL, MeasuredRun
from llmsim.scoring.validate import validate

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "validation" / "training_runs.csv"
sys.path.append(str(ROOT / "tools"))

from run_columns import filled  # noqa: E402

TEXTS = ("interconnect", "framework", "recompute", "offload", "overlap", *OPTIONAL)


def some_rows() -> list[dict[str, str]]:
    """Rows in which every text and every value of an optional column of the bundled table occurs, and some more."""
    chosen: list[dict[str, str]] = []
    seen: set[tuple[str, str]] = set()
    with TABLE.open(newline="", encoding="utf-8") as file:
        for number, cells in enumerate(csv.DictReader(file)):
            texts = {(column, cells[column]) for column in TEXTS if column in cells}
            explicit = sum(bool(cells.get(column)) for column in OPTIONAL)
            if number % 20 == 0 or explicit > 1 or not texts <= seen:
                chosen.append(cells)
                seen |= texts
    return chosen


def described(**cells: object) -> MeasuredRun:
    return MeasuredRun(2, {column: str(cell) for column, cell in row(**cells).items()})


def test_the_columns_of_the_bundled_table_are_what_its_text_says() -> None:
    text = TABLE.read_bytes().decode("utf-8")
    assert filled(text) == text, "python tools/run_columns.py --write"


def test_tables_without_optional_columns_have_the_same_predictions(tmp_path: Path) -> None:
    rows = some_rows()
    assert 200 < len(rows) < 600
    with_columns = validate(write_table(tmp_path / "a.csv", rows, [*rows[0]]), progress=False)
    plain = validate(write_table(tmp_path / "b.csv", rows, COLUMNS), progress=False)
    assert not plain.skipped
    for a, b in zip(with_columns.rows, plain.rows, strict=True):
        assert (a.id, a.metric, a.predicted, a.low, a.high) == (b.id, b.metric, b.predicted, b.low, b.high)
        assert (a.traits, a.in_sample) == (b.traits, b.in_sample)
    assert with_columns.scores == plain.scores


@pytest.mark.parametrize(
    ("text", "columns", "field", "value"),
    [
        ({"notes": "ZB-H1", "pipeline_parallel": 2, "data_parallel": 2}, {"schedule": "gpipe"}, "schedule", "gpipe"),
        ({"notes": "packed sequences"}, {"packed": "false"}, "document_length", None),
        ({"recompute": "none"}, {"recompute_setting": "full@1/2"}, "recompute", "full@1/2"),
        ({"offload": "activations of 16 of 32 layers"}, {"offload_activations": "0.25"}, "offload_activations", 0.25),
        ({"overlap": "async TP"}, {"overlap_setting": "none"}, "overlap", "none"),
    ],
)
def test_columns_come_before_text(
    text: dict[str, object], columns: dict[str, object], field: str, value: object
) -> None:
    read, stated = plan_run(described(**text)), plan_run(described(**text, **columns))
    assert getattr(read.plan, field) != value
    assert getattr(stated.plan, field) == value


def test_dispatcher_network_domain_and_date_may_be_stated() -> None:
    moe = {"model": "mixtral-8x7b", "expert_parallel": 4, "framework_release": "", "n_devices": 16, "data_parallel": 8}
    run = plan_run(
        described(**moe, notes="HybridEP", dispatcher="deepep", fabric="ethernet-400-per-node", software_date="2024-03")
    )
    assert run.plan.dispatcher == "deepep"
    assert run.cluster.network == "ethernet-400-per-node"
    assert "network" not in run.assumed
    assert run.plan.release == "2024-03"
    racks = plan_run(described(interconnect="ICI; slice (16 chips)", hardware="tpu-v5p", scale_up_domain=4))
    assert racks.cluster.domain == 4


def test_fine_tuning_and_single_nodes_are_scored_apart(tmp_path: Path) -> None:
    rows = [
        row(id="tuned", group="tuned", fine_tuning="true"),
        row(id="said", group="said", notes="SFT", n_devices=16, data_parallel=8),
        row(id="piped", group="piped", pipeline_parallel=2, data_parallel=2),
    ]
    report = validate(write_table(tmp_path / "runs.csv", rows, (*COLUMNS, "fine_tuning")), progress=False)
    traits = {entry.id: entry.traits for entry in report.rows}
    assert traits == {"tuned": ("fine-tuning", "one node, no pipeline"), "said": ("fine-tuning",), "piped": ()}
    labels = report.scores["step_time_s"]["all"]
    assert labels["special/fine-tuning"].groups == 2
    assert labels["special/one node, no pipeline"].groups == 1
    assert not is_fine_tuning(described(notes="SFT", fine_tuning="false"))
