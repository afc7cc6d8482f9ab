"""Own measured runs over the constants that ship, and what a step rests on."""

from __future__ import annotations

import json

import pytest
import yaml
from command_line import refused, run

from llmsim import Architecture, Cluster, InputError, TrainingPlan, plan_training, simulate_training
from llmsim.calibration.doctor import advised, doctor
from llmsim.calibration.own_files import calibrate_with
from llmsim.hardware.fitted import shipped_fit

MODEL, CLUSTER = "llama-3-8b", "2x8xh100-sxm-80gb"
JOB = {"sequence_length": 8192, "global_batch_size": 64, "data_parallel": 8, "tensor_parallel": 2, "recompute": "full"}
OTHERS = (
    {"tensor_parallel": 4, "data_parallel": 4},
    {"pipeline_parallel": 2, "tensor_parallel": 2, "data_parallel": 4},
    {"tensor_parallel": 1, "data_parallel": 16, "sharding": "zero3"},
)


def predicted(fit=None, **changes):
    return simulate_training(TrainingPlan(**{**JOB, **changes}), MODEL, CLUSTER, fit=fit).step_time_s


def run_file(tmp_path, **changes):
    path = tmp_path / "my_run.yaml"
    data = {"model": MODEL, "cluster": CLUSTER, "plan": JOB, "step_time_s": 1.25 * predicted()}
    data = {name: value for name, value in {**data, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


@pytest.mark.parametrize("factor", [0.9, 1.25, 1.6])
def test_one_run_moves_the_answer_for_its_job_and_most_of_the_way_for_other_mappings(tmp_path, factor):
    fit = calibrate_with(run_file(tmp_path, step_time_s=factor * predicted()))
    assert predicted(fit) == pytest.approx(factor * predicted(), rel=0.02)
    for other in OTHERS:
        ratio = predicted(fit, **other) / predicted(**other)
        assert (ratio - 1) / (factor - 1) > 0.4
        assert min(1, factor) * 0.95 < ratio < max(1, factor) * 1.05


def test_a_run_that_is_as_predicted_changes_nothing(tmp_path):
    fit = calibrate_with(run_file(tmp_path, step_time_s=predicted()))
    assert predicted(fit) == pytest.approx(predicted(), rel=1e-4)
    assert fit.split.startswith("1 own runs")


def test_a_written_calibration_says_the_same_as_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = run_file(tmp_path)
    text = run("calibrate", str(path), "--profile", "site")
    assert "--calibrate-with site.yaml" in text
    written = calibrate_with(tmp_path / "site.yaml")
    assert predicted(written) == pytest.approx(predicted(calibrate_with(path)), rel=1e-5)
    assert all(
        q.source == "own runs: my_run.yaml" for p, q in written.values.items() if q != shipped_fit().values.get(p)
    )
    question = {"sequence": 8192, "global_batch": 64}
    slower = plan_training(MODEL, CLUSTER, **question, fit=written).best[0].result
    assert slower.step_time_s > plan_training(MODEL, CLUSTER, **question).best[0].result.step_time_s
    assert slower.step_time_s == simulate_training(slower.plan, MODEL, CLUSTER, fit=written).step_time_s


def test_a_log_needs_its_job_and_a_batch_that_agrees(tmp_path):
    log = tmp_path / "train.log"
    line = " iteration {n}/ 9 | consumed samples: 1 | elapsed time per iteration (ms): {ms} | global batch size: 64 |"
    log.write_text("\n".join(line.format(n=n, ms=9000 + n) for n in range(8)), encoding="utf-8")
    by_name = calibrate_with(run_file(tmp_path, step_time_s=None, log="train.log"))
    assert predicted(by_name) == pytest.approx(9.005, rel=0.02)
    settings = [part for name, value in JOB.items() for part in ("--set", f"{name}={value}")]
    out = ("--out", str(tmp_path / "out.yaml"), "--json")
    found = json.loads(run("calibrate", str(log), "-m", MODEL, "-c", CLUSTER, *settings, *out))
    assert found["runs"][0]["measured_s"] == pytest.approx(9.005)
    assert "global_batch_size" in refused("calibrate", str(log), "-m", MODEL, "-c", CLUSTER, *settings, "--set",
                                          "global_batch_size=128")  # fmt: skip
    assert "does not say what ran" in refused("calibrate", str(log))
    assert "is missing" in refused("calibrate", str(log), "-m", MODEL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step_time_s": -1.0}, "step_time_s"),
        ({"step_time_s": float("nan")}, "step_time_s"),
        ({"step_time_s": None}, "one of the two"),
        ({"log": "x.log"}, "one of the two"),
        ({"model": "llama-9"}, "llama"),
        ({"plan": {**JOB, "tensor_parallel": 3}}, "tensor_parallel"),
        ({"memory_gib": 40.0, "memory_kind": "total"}, "memory_kind"),
        ({"step_tim_s": 3.0}, "unknown key"),
        ({"cluster": None}, "cluster"),
    ],
)
def test_what_is_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        calibrate_with(run_file(tmp_path, **changes))


def test_a_diagnosis_names_what_the_step_rests_on():
    plan = TrainingPlan(**JOB)
    found = doctor(plan, MODEL, CLUSTER)
    assert sum(c.share for c in found.constants) == pytest.approx(1)
    assert [c.share for c in found.constants] == sorted((c.share for c in found.constants), reverse=True)
    variance = sum((c.elasticity * c.log_error) ** 2 for c in found.constants)
    assert found.log_error == pytest.approx(variance**0.5)
    largest = found.constants[0]
    assert any(path == largest.path for path, _ in advised(found))
    rates = [c for c in found.constants if "in_situ" in c.path]
    assert all(c.elasticity < 0 for c in rates)
    # A faster device in everything that it computes: the parts of the step that compute.
    computing = next(c for c in rates if c.path.startswith("devices/"))
    parts = found.result.breakdown_s
    computed = sum(parts[n] for n in ("gemm", "attention", "memory", "recompute"))
    assert -computing.elasticity == pytest.approx(computed / found.result.step_time_s, abs=0.05)


def test_own_runs_make_the_constants_surer(tmp_path):
    fit = calibrate_with(run_file(tmp_path))
    plan, model, cluster = TrainingPlan(**JOB), Architecture.from_config(MODEL), Cluster.parse(CLUSTER)
    assert doctor(plan, model, cluster, fit=fit).log_error < doctor(plan, model, cluster).log_error
    text = run("doctor", "-m", MODEL, "-c", CLUSTER, "-s", "8k", "-b", "64")
    assert "Measure next" in text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.05, ["my_run.yaml", "times faster than 16 x h100-sxm-80gb at peak", "at least "]),
     (1e3, ["looks like milliseconds; step times are in seconds"]), (1e6, ["looks like microseconds"])],
)  # fmt: skip
def test_times_that_no_machine_can_have_taken_are_refused(tmp_path, seconds, words):
    path = run_file(tmp_path, step_time_s=seconds if seconds == 0.05 else seconds * predicted())
    with pytest.raises(InputError) as error:
        calibrate_with(path)
    message = refused("calibrate", str(path), "--out", str(tmp_path / "out.yaml"))
    for word in words:
        assert word in str(error.value)
        assert word in message


@pytest.mark.parametrize(("factor", "words"), [(4.0, "is it this job's?"), (100.0, "looks like milliseconds")])
def test_times_far_from_their_prediction_are_listed_wherever_they_count(tmp_path, factor, words):
    path, out = run_file(tmp_path, step_time_s=factor * predicted()), tmp_path / "out.yaml"
    text = run("calibrate", str(path), "--out", str(out))
    assert "Times that look wrong" in text
    data = json.loads(run("calibrate", str(path), "--out", str(out), "--json"))
    assert words in data["doubtful"]["my_run.yaml"]
    for fit in (calibrate_with(path), calibrate_with(out)):
        assert words in simulate_training(TrainingPlan(**JOB), MODEL, CLUSTER, fit=fit).assumed["calibration"]
        assert words in plan_training(MODEL, CLUSTER, sequence=8192, global_batch=64, fit=fit).assumed["calibration"]


@pytest.mark.parametrize("factor", [0.95, 1.6])
def test_usual_times_are_not_doubted(tmp_path, factor):
    fit = calibrate_with(run_file(tmp_path, step_time_s=factor * predicted()))
    assert fit.doubtful == {}
    assert "calibration" not in simulate_training(TrainingPlan(**JOB), MODEL, CLUSTER, fit=fit).assumed


def test_frozen_parameters_allow_shorter_times(tmp_path):
    least = []
    for adapter in ("none", "lora:16"):
        with pytest.raises(InputError) as error:
            calibrate_with(run_file(tmp_path, plan={**JOB, "adapter": adapter}, step_time_s=1e-3))
        least.append(float(str(error.value).split("at least ")[1].split(" s")[0]))
    assert 0.6 < least[1] / least[0] < 0.8
