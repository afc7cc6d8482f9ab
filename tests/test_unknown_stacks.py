"""Frameworks and releases that no profile knows: simulated like the likest, scored and listed under their own name."""

from __future__ import annotations

import json

from command_line import run
from run_tables import row, write_table

from llmsim import validate


def table(tmp_path):
    rows = [row(id="a"), row(id="b", framework="foo-trainer", step_time_s=4.2, group="h", sharding="zero3"),
            row(id="c", framework_release="core_r9.99", step_time_s=4.1, group="i")]  # fmt: skip
    return write_table(tmp_path / "runs.csv", rows)


def test_they_are_scored_under_their_own_name(tmp_path):
    report = validate(table(tmp_path), progress=False)
    labels = report.scores["step_time_s"]["all"]
    assert labels["framework/foo-trainer (simulated as torchtitan)"].rows == 1
    assert "framework/torchtitan" not in labels
    assert labels["framework/megatron-core"].rows == 2


def test_they_are_listed_in_text_and_json(tmp_path):
    path = table(tmp_path)
    text = " ".join(run("validate", path).split())
    assert "frameworks and releases without a profile of their own" in text
    assert "foo-trainer (simulated as torchtitan)" in text
    assert "framework torchtitan ('foo-trainer' has no profile)" in text
    assert "releases like the newest megatron-core: test, core_r9.99" in text
    data = json.loads(run("validate", path, "--json"))
    assert data["without_profile"]["framework: torchtitan ('foo-trainer' has no profile)"] == ["b"]
    assert [ids for key, ids in data["without_profile"].items() if "core_r9.99" in key] == [["c"]]
    assert {r["framework"] for r in data["rows"]} == {"megatron-core", "foo-trainer (simulated as torchtitan)"}


def test_known_ones_are_not(tmp_path):
    rows = [row(framework_release="2022-05", framework="Megatron-LM")]
    report = validate(write_table(tmp_path / "runs.csv", rows), progress=False)
    assert report.without_profile == {}
