"""Tables that cannot be true are refused, or listed, with the line and what the figure may be instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from run_tables import PLAIN, row, write_table

from llmsim.calibration.calibrate import calibrate
from llmsim.calibration.plausible import SLOWEST, ideal_seconds, too_fast, too_slow
from llmsim.calibration.runs import plan_run
from llmsim.calibration.table import MeasuredRun, read_runs
from llmsim.core.errors import InputError
from llmsim.scoring.validate import validate

STEP_S = 2.43
"""What the run of ``PLAIN`` takes, about: 38 % of the peak of eight H100s."""
THROUGHPUT = 16 * 8192 / STEP_S / 8


def measured(**cells: Any) -> MeasuredRun:
    return MeasuredRun(2, {key: str(value) for key, value in row(**cells).items()})


def by_throughput(value: float) -> dict[str, Any]:
    return {"step_time_s": "", "tokens_per_s_per_device": value}


def table(folder: Path, **last: Any) -> Path:
    good = [row(id=name, step_time_s=STEP_S * scale) for name, scale in (("a", 1.0), ("b", 1.01), ("c", 0.99))]
    return write_table(folder / "runs.csv", [*good, row(id="z", **last)])


CORRUPT: dict[str, tuple[dict[str, Any], str]] = {
    "milliseconds": ({"step_time_s": STEP_S * 1e3}, "milliseconds?"),
    "microseconds": ({"step_time_s": STEP_S * 1e6}, "microseconds?"),
    "minutes": ({"step_time_s": STEP_S / 60}, "minutes?"),
    "hours": ({"step_time_s": STEP_S / 3600}, "hours?"),
    "one micro-batch": ({"step_time_s": STEP_S / 4}, "seconds of one micro-batch?"),
    "tokens of all devices": (by_throughput(THROUGHPUT * 8), "tokens/s of "),
    "sequences": (by_throughput(THROUGHPUT / 8192), "sequences/s?"),
    "unknown device": ({"hardware": "h1000-sxm"}, "h100-sxm-80gb"),
}
"""What is wrong -> cells, and what the message must hold."""


@pytest.mark.parametrize("name", CORRUPT)
def test_a_fit_refuses_the_row_by_its_line(tmp_path: Path, name: str) -> None:
    cells, says = CORRUPT[name]
    with pytest.raises(InputError) as caught:
        calibrate(table(tmp_path, **cells), progress=False)
    assert "line 5" in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize("name", CORRUPT)
def test_a_validation_lists_the_row_and_scores_it_as_it_stands(tmp_path: Path, name: str) -> None:
    cells, says = CORRUPT[name]
    report = validate(table(tmp_path, **cells), progress=False)
    own = [entry for entry in report.rows if entry.id == "z"]
    assert all(entry.line == 5 for entry in own)
    if name == "unknown device":
        assert says in next(text for text, ids in report.skipped.items() if ids == ["z"])
        assert {entry.error for entry in own} == {1.0}
        return
    assert says in report.implausible["z"]
    assert set(report.implausible) == {"z"}
    assert all(entry.predicted is not None and entry.error > 0.5 for entry in own)


@pytest.mark.parametrize("cell", ["nan", "-2.4", "0", "inf"])
def test_times_that_are_no_times_are_refused(tmp_path: Path, cell: str) -> None:
    with pytest.raises(InputError, match="line 5, step_time_s"):
        read_runs(table(tmp_path, step_time_s=cell))


def test_one_measurement_under_two_ids_is_refused(tmp_path: Path) -> None:
    again = [row(id="a", step_time_s=2.4318), row(id="b", step_time_s=2.4318, notes="copied")]
    with pytest.raises(InputError, match=r"line 3, id.*line 2, 'a', again"):
        read_runs(write_table(tmp_path / "runs.csv", again))
    assert validate(tmp_path / "runs.csv", progress=False).row_count == 2


def test_repeats_of_a_run_are_not_taken_for_copies(tmp_path: Path) -> None:
    """Two runs may well both take 4.0 s, and a run with other settings may take the same to the last digit."""
    repeats = [row(id="a"), row(id="b")]
    others = [row(id="c", step_time_s=2.4318), row(id="d", step_time_s=2.4318, tensor_parallel=4, data_parallel=2)]
    assert len(read_runs(write_table(tmp_path / "runs.csv", [*repeats, *others]))) == 4


def test_peak_is_the_bound() -> None:
    """Forward and backward of 16 sequences, 6 FLOPs a parameter and token and causal attention, at 989.5 TFLOP/s."""
    item = plan_run(measured(step_time_s=STEP_S))
    tokens, seen = 16 * 8192, 8192 / 2
    parameters = 8030261248 - 128256 * 4096  # the embedding multiplies nothing
    flops = 6 * tokens * (parameters + 32 * 4096 * 2 * seen)
    least = ideal_seconds(item)
    assert least == pytest.approx(flops / (8 * 989.5e12), rel=2e-3)
    assert too_fast(plan_run(measured(step_time_s=least * 1.0001))) is None
    assert "at peak" in str(too_fast(plan_run(measured(step_time_s=least * 0.9999))))


def test_slowness_is_judged_by_the_prediction() -> None:
    item = plan_run(measured(step_time_s=STEP_S))
    assert too_slow(item, STEP_S / (0.99 * SLOWEST)) is None
    assert too_slow(item, STEP_S / (1.01 * SLOWEST)) is not None


def test_the_good_table_is_good(tmp_path: Path) -> None:
    path = write_table(tmp_path / "runs.csv", [row(id=name, step_time_s=STEP_S) for name in "abc"])
    assert not validate(path, progress=False).skipped
    assert set(PLAIN) <= set(read_runs(path)[0].values)
