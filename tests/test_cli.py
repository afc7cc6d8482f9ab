"""The command line: the package's numbers in print, for people and for machines."""

from __future__ import annotations

import json

import pytest
import yaml
from command_line import CLUSTER, CONFIG, MODEL, plan, refused, rows_of_validation, run, simulate, with_plan, write_rows

from llmsim.hardware.devices import device_names
from llmsim.models import bundled_models
from llmsim.search.plan import plan_training


def test_the_main_question_in_words():
    text = run(*plan(tokens="10B"))
    for word in (
        "Best plan",
        "tokens/s per device",
        "MFU",
        "for 152,588 steps",
        "USD",
        "Where the time goes",
        "total",
        "Where the memory goes",
        "seen by the driver",
        "Plans that differ in kind",
        "Where runners-up lose time",
        "Time against memory",
        "combinations formed",
        "Defaults taken from profiles",
        "precision",
        "framework",
    ):
        assert word in text


def test_the_main_question_for_machines():
    data = json.loads(run(*plan("--json", tokens="10B", top=3)))
    answer = plan_training(MODEL, CLUSTER, sequence=2048, global_batch=32, tokens=10e9, top=3)
    assert data["schema"] == "llmsim.training-planning/2"
    same = json.loads(json.dumps(answer.to_dict()))
    data.pop("search_s"), same.pop("search_s")
    assert data == same
    assert len(data["best"]) == 3
    best = data["best"][0]
    assert best["result"]["schema"] == "llmsim.training-result/1"
    assert sum(best["result"]["breakdown_s"].values()) == pytest.approx(best["result"]["step_time_s"])
    assert best["job"]["steps"] == 152_588


def test_filters_reach_the_search():
    filters = {"tensor_parallel": "2,4", "micro_batch_size": 2, "recompute": "full; none", "sharding": "zero1"}
    data = json.loads(run(*plan("--json", **filters)))
    plans = [job["result"]["plan"] for job in data["best"]]
    assert {p["tensor_parallel"] for p in plans} == {2, 4}
    assert {p["micro_batch_size"] for p in plans} == {2}
    assert {p["recompute"] for p in plans} <= {"full", "none"}


def test_a_plan_that_is_written_simulates_to_the_same_step(tmp_path):
    path = tmp_path / "plan.yaml"
    best = json.loads(run(*plan("--json", out=path)))["best"][0]["result"]
    assert list(tmp_path.iterdir()) == [path]
    again = json.loads(run(*with_plan(path), "--json"))
    assert again["schema"] == "llmsim.training-result/1"
    assert again["step_time_s"] == best["step_time_s"]
    assert again["plan"] == best["plan"]
    slower = json.loads(run(*with_plan(path), "--set", "recompute=full", "--json"))
    assert slower["step_time_s"] > again["step_time_s"]
    text = run(*with_plan(path))
    assert str(round(best["step_time_s"], 4)) in text
    assert "Where the memory goes" in text


def test_a_step_that_does_not_fit_says_so():
    assert "DOES NOT FIT the device by" in run(*simulate(sequence_length=131072))


def test_a_cluster_file_and_a_fabric(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text("device: h100\nnodes: 2\ndevices_per_node: 8\n")
    usual = json.loads(run(*plan("--json", cluster=path)))
    assert usual["cluster"] == "2x8xh100-sxm-80gb"
    assert "infiniband-ndr-400" in usual["assumed"]["network"]
    said = json.loads(run(*plan("--json", cluster=path, network="ethernet-100-per-node")))
    assert "network" not in said["assumed"]
    assert said["best"][0]["result"]["step_time_s"] > usual["best"][0]["result"]["step_time_s"]
    path.write_text("device: h100\nnodes: 2\ndevices_per_node: 8\nnetwork: ethernet-100-per-node\n")
    assert json.loads(run(*plan("--json", "--top", "5", cluster=path)))["best"] == said["best"]


def test_a_release_without_rows_is_listed():
    assert "release" in json.loads(run(*simulate("--json", release="unheard-of")))["assumed"]
    assert "release" not in json.loads(run(*simulate("--json")))["assumed"]
    assert "release" not in json.loads(run(*simulate("--json", framework="megatron-lm", release="2022-05")))["assumed"]


def test_a_model_by_file(tmp_path):
    (tmp_path / "own.json").write_text(json.dumps({**CONFIG, "mixture_of_depths": 2}))
    ignored = run(*simulate("--json", "--ignore-key", "mixture_of_depths", model=tmp_path / "own.json"))
    data = json.loads(ignored)
    assert data["model"] == "own"
    assert data["step_time_s"] == json.loads(run(*simulate("--json")))["step_time_s"]


def test_models():
    assert MODEL in run("models")
    assert json.loads(run("models", "--json")) == {"schema": "llmsim.models/1", "models": list(bundled_models())}
    assert "1,235,814,400" in run("models", MODEL)
    data = json.loads(run("models", MODEL, "--json"))
    assert (data["schema"], data["parameters"]) == ("llmsim.model/1", 1_235_814_400)
    assert data["flops_per_token"]["sequence"] == 4096


def test_hardware():
    listing = run("hardware")
    assert all(name in listing for name in device_names())
    data = json.loads(run("hardware", "--json"))
    assert data["schema"] == "llmsim.hardware/1"
    assert data["devices"] == device_names()
    for name, kind in (("h100-sxm-80gb", "device"), ("infiniband-ndr-400", "network"), ("nemo", "software")):
        assert json.loads(run("hardware", name, "--json"))["schema"] == f"llmsim.{kind}/1"
    assert "datasheet" in run("hardware", "h100-sxm-80gb")


def test_validation(tmp_path):
    path = write_rows(tmp_path / "runs.csv", rows_of_validation())
    data = json.loads(run("validate", path, "--json"))
    assert data["schema"] == "llmsim.validation/1"
    assert data["row_count"] == 3
    fields = {"id", "group", "metric", "measured", "predicted", "low", "high", "skipped", "assumed", "in_sample"}
    assert [entry["id"] for entry in data["rows"]] == [row[0] for row in rows_of_validation()[1:]]
    for entry in data["rows"]:
        assert fields <= set(entry)
        assert entry["metric"] == "step_time_s"
        assert entry["measured"] > 0 < entry["predicted"]
        assert entry["skipped"] is None
    text = run("validate", path)
    for word in (rows_of_validation()[1][1], "step time"):
        assert word in text


def test_a_row_that_cannot_be_simulated_is_listed_with_the_reason(tmp_path):
    rows = rows_of_validation()
    rows[1][rows[0].index("model")] = "unheard-of"
    entries = json.loads(run("validate", write_rows(tmp_path / "runs.csv", rows), "--json"))["rows"]
    assert "unheard-of" in entries[0]["skipped"]
    assert entries[0]["predicted"] is None
    assert entries[1]["skipped"] is None


def test_an_unwritten_plan_leaves_the_old_one(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("old")
    refused(*plan(out=path, tensor_parallel=3))
    assert path.read_text() == "old"
    run(*plan(out=path, tensor_parallel=1))
    assert yaml.safe_load(path.read_text())["plan"]["tensor_parallel"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_sequence_beyond_the_positions_of_a_model_is_simulated():
    data = json.loads(run(*simulate("--json", sequence_length=1 << 20)))
    assert data["step_time_s"] > 0
    assert not data["fits"]
    assert "positions" not in data["assumed"]  # the file of this model does not say how many it was made for
    beyond = json.loads(run(*simulate("--json", model="llama-3-8b", sequence_length=16384)))
    assert beyond["assumed"]["positions"] == "16,384 where the model was made for 8,192"


def test_an_imbalance_of_a_model_without_experts_is_said_to_say_nothing():
    assert "no experts" in json.loads(run(*plan("--json", imbalance=1.2)))["assumed"]["routing"]


def test_compare_prints_tables_and_the_same_numbers_as_json(tmp_path):
    question = ["compare", "--models", "llama-3-8b,gemma3-12b", "--sequence", "4k:16k"]
    text = run(*question)
    assert "training, GFLOP per token" in text
    assert "Where the order changes" in text
    data = json.loads(run(*question, "--json"))
    assert data["schema"] == "llmsim.comparison/1"
    assert data["sequences"] == [4096, 8192, 16384]
    page = tmp_path / "curves.html"
    pytest.importorskip("plotly")
    run(*question, "--figure", str(page))
    assert "llama-3-8b" in page.read_text(encoding="utf-8")


def test_schedules_reach_the_search_and_the_simulation(tmp_path):
    out = tmp_path / "plan.yaml"
    filters = {"pipeline_parallel": "4", "schedule": "zb-h1,dualpipe", "layers_per_stage": "even,balanced"}
    data = json.loads(run(*plan("--json", "--out", out, **filters)))
    plans = [job["result"]["plan"] for job in data["best"]]
    assert {p["schedule"] for p in plans} <= {"zb-h1", "dualpipe"}
    assert "zb-h1, dualpipe as if megatron-core had it" in data["assumed"]["schedule"]
    again = json.loads(run(*with_plan(out), "--json"))
    assert again["plan"] == plans[0]
    assert again["step_time_s"] == data["best"][0]["result"]["step_time_s"]
    balanced = simulate("--json", pipeline_parallel=4, data_parallel=2, schedule="zb-h1", layers_per_stage="balanced")
    written = json.loads(run(*balanced))["plan"]["layers_per_stage"]
    listed = json.loads(run(*balanced[:-2], f"layers_per_stage={written}", "--json"))
    assert listed["plan"]["layers_per_stage"] == written
    assert "zb-h1 layers" in run(*[part for part in balanced if part != "--json"])
