"""Serving tables: read by their columns, predicted row by row, refits that do not see what they leave out."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from llmsim.calibration.serving.calibrate import serving_runs
from llmsim.calibration.serving.fit import METRICS, ServingData, fit_serving
from llmsim.calibration.serving.reports import report_row
from llmsim.calibration.serving.runs import point_run, rate_run, weights_in
from llmsim.core.errors import LlmsimError
from llmsim.report.serving_scoreboard import HAND_CHOSEN
from llmsim.scoring.serving import FOLDS, is_serving
from llmsim.scoring.serving_baselines import with_measured_rows
from llmsim.scoring.validate import validate

FOLDER = Path(__file__).resolve().parents[1] / "validation"


def rows(name: str, count: int = 0, **wanted: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(encoding="utf-8", newline="") as file:
        found = [row for row in csv.DictReader(file) if all(row[k] == v for k, v in wanted.items())]
    return found[:count] if count else found


def table(path: Path, own: list[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(own[0]))
        writer.writeheader()
        writer.writerows(own)
    return path


@pytest.mark.parametrize("name", ["serving_points", "serving_throughput", "serving_runs", "serving_reports"])
def test_tables_are_known_by_their_columns(name: str) -> None:
    assert is_serving(FOLDER / f"{name}.csv")
    assert not is_serving(FOLDER / "training_runs.csv")


@pytest.mark.parametrize("name", ["serving_points", "serving_throughput"])
def test_every_row_is_answered(name: str) -> None:
    report = validate(FOLDER / f"{name}.csv", progress=False)
    assert not report.skipped
    assert {e.id for e in report.rows} == {row["id"] for row in rows(f"{name}.csv")}


def test_a_row_that_cannot_be_simulated_is_listed_with_the_reason(tmp_path: Path) -> None:
    own = rows("serving_points.csv", 3)
    own[1] |= {"model": "no-such-model"}
    own[2] |= {"input_tokens": "many"}
    report = validate(table(tmp_path / "points.csv", own), progress=False)
    assert len(report.skipped) == 2
    assert all(e.error == 1.0 for e in report.rows if e.skipped)
    assert sum(e.skipped is None for e in report.rows) == 2


def test_refits_do_not_see_the_times_of_what_they_leave_out() -> None:
    groups = ("llama-3.1-70b|h100-sxm-80gb", "llama-3.1-8b|h100-sxm-80gb")
    own = [row for group in groups for row in rows("serving_points.csv", 25, group=group)]
    runs = [point_run(row) for row in own]
    slower = [point_run({**row, "tpot_ms": str(1.5 * float(row["tpot_ms"]))}) if row["group"] == groups[0] else run
              for row, run in zip(own, runs, strict=True)]  # fmt: skip
    held = np.array([run.group == groups[0] for run in runs])
    first, second = (ServingData(each) for each in (runs, slower))
    fitted = [fit_serving(data, ~held) for data in (first, second)]
    assert np.array_equal(*fitted)


def test_a_fit_finds_the_constants_that_made_its_data() -> None:
    own = [point_run(row) for row in rows("serving_points.csv", framework="vllm")[::6]]
    data = ServingData(own)
    names = [(p.key, p.engine) for p in data.parameters]
    known = np.zeros(len(names))
    known[names.index(("rates/dense", ""))] = -0.15
    known[names.index(("host/layer_s", ""))] = 0.3
    made = np.exp(data.predicted(known))
    runs = [
        point_run_with(
            run, {metric: made[n, column] for column, metric in enumerate(METRICS) if metric in run.measured}
        )
        for n, run in enumerate(own)
    ]
    found = fit_serving(ServingData(runs), np.ones(len(runs), bool))
    again = ServingData(runs).predicted(found)
    error = np.abs(again - np.log(made))[:, METRICS.index("tpot_s")]
    assert np.nanmedian(error) < 0.01


def point_run_with(run, measured):
    from dataclasses import replace

    return replace(run, measured=measured)


def test_prompts_of_sessions_are_mostly_cached_from_the_second_turn_on() -> None:
    first, later = (rate_run(row) for row in rows("serving_runs.csv", 2))
    assert first.requests is not None
    assert later.requests is not None
    assert later.requests.new_tokens < 17
    assert first.requests.new_tokens > later.requests.new_tokens


def test_start_up_logs_are_predicted_within_a_few_per_cent() -> None:
    own = [row for row in rows("serving_reports.csv") if row["id"] in ("mem-llmd-44", "mem-llmd-33", "mem-llmd-52")]
    for row in own:
        if row["metric"] in ("model_weights", "kv_cache_tokens"):
            memory = report_row(row).prepared.memory
            said = {"model_weights": memory.weight_bytes / 2**30, "kv_cache_tokens": memory.cache_tokens}[row["metric"]]
            assert said == pytest.approx(float(row["value"]), rel=0.05)


def test_rows_may_state_tokens_of_images() -> None:
    row = {"metric": "ttft_mean", "model": "qwen2.5-vl-7b-instruct", "hardware": "h100", "input_tokens": "100",
           "output_tokens": "50", "concurrency_or_rate": "concurrency 4"}  # fmt: skip
    plain, seen = report_row(row).traffic, report_row({**row, "image_tokens": "1,500"}).traffic
    assert plain is not None
    assert seen is not None
    assert (plain.input, seen.input) == ("100", "1600")


@pytest.mark.parametrize(
    ("text", "model", "expected"),
    [
        ("", "llama-3.1-8b", "bf16"), ("", "Qwen/Qwen3-32B-FP8", "fp8"), ("fp8 (dynamic)", "", "fp8"),
        ("mxfp4 experts + bf16 rest (checkpoint default)", "", "mxfp4"), ("int4 (AWQ)", "", "awq"),
        ("q4_k_m", "", "q4_k_m"), ("nvfp4 (self-attention and lm_head bf16)", "", "experts:nvfp4,mlp:nvfp4"),
        ("bf16 (default, not stated)", "", "bf16"), ("int8 (w8a8)", "", "int8"),
    ],
)  # fmt: skip
def test_stored_formats_are_read_from_words(text: str, model: str, expected: str) -> None:
    assert weights_in(text, model) == expected


def test_metrics_that_are_not_predicted_are_refused_by_name() -> None:
    with pytest.raises(LlmsimError, match="acceptance_rate"):
        report_row({"metric": "acceptance_rate", "model": "llama-3.1-8b", "hardware": "h100"})


def test_measured_rows_of_a_series_take_off_what_it_shares() -> None:
    runs = [run for run in serving_runs(FOLDER) if run.group == "llama-3.1-70b|h100-sxm-80gb"
            and run.load == "closed"]  # fmt: skip
    measured = np.log([run.measured["tpot_s"] for run in runs])
    shifts = {name: 0.1 * n for n, name in enumerate(dict.fromkeys(run.series for run in runs))}
    predicted = measured + np.array([shifts[run.series] for run in runs])
    left = with_measured_rows(runs, predicted, measured)["llama-3.1-70b|h100-sxm-80gb"]
    assert np.abs(left).max() < 0.1 * max(shifts.values()) + 1e-9


def test_the_page_of_servers_is_what_its_results_say() -> None:
    page = (FOLDER / "SERVING.md").read_text(encoding="utf-8")
    results = json.loads((FOLDER / "serving_results.json").read_text(encoding="utf-8"))
    assert {score["split"] for score in results["scores"]} == set(FOLDS)
    for score in results["scores"]:
        assert f"| {score['split']} | {score['what']} | {score['method']} | {score['groups']} |" in page
        assert 0 <= score["median"] <= score["worst"]
    assert all(f"`{name}`" in page for _, name, _ in HAND_CHOSEN)
