"""How the command behaves in a shell: files and streams of all kinds, help, completion, options that agree."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import subprocess
import sys
import threading
from inspect import signature
from pathlib import Path

import pytest
import yaml
from command_line import CLUSTER, MODEL, STEP, plan, run, simulate, with_plan

from llmsim import TrainingPlan
from llmsim.cli.calibrate import doctor
from llmsim.cli.cluster import cluster
from llmsim.cli.explain import explain_train
from llmsim.cli.options import Job, print_json
from llmsim.cli.plan import plan_train
from llmsim.cli.simulate import simulate_train
from llmsim.core.errors import InputError
from llmsim.core.files import write_whole
from llmsim.core.units import counted, days, money
from llmsim.models import bundled_path
from llmsim.plans.fields import plan_settings
from llmsim.search.plan import plan_training


def shell(*arguments, **options):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "llmsim", *map(str, arguments)]
    return subprocess.run(command, stderr=subprocess.PIPE, check=False, timeout=60, **options)


needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_link_is_kept_and_its_target_written(tmp_path):
    target, link, dangling = tmp_path / "target", tmp_path / "link", tmp_path / "dangling"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to("target")
    dangling.symlink_to("new")
    for path, end in ((link, target), (dangling, tmp_path / "new")):
        write_whole(path, "text")
        assert path.is_symlink()
        assert end.read_text() == "text"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert len(list(tmp_path.iterdir())) == 4


@needs_full
def test_devices_and_pipes_stay_what_they_are(tmp_path):
    before = os.stat("/dev/null")
    write_whole("/dev/null", "text")
    assert os.path.samestat(before, os.stat("/dev/null"))
    with pytest.raises(InputError, match="No space left"):
        write_whole("/dev/full", "text")
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_whole(pipe, "text")
    reader.join(timeout=10)
    assert read == ["text"]
    assert list(tmp_path.iterdir()) == [pipe]


def test_what_may_only_be_read_stays(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o444)
    with pytest.raises(InputError, match="may only be read"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_no_encoding_has_is_written_as_a_number(tmp_path):
    write_whole(tmp_path / "file", "…\udc80")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "…\\udc80"


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(Path, "replace", _full)
    with pytest.raises(InputError, match="No space left"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def _full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_plan_goes_through_standard_output(tmp_path):
    file = tmp_path / "all"
    for target in ("/dev/stdout", file):
        with file.open("w") as stdout:
            assert shell(*plan(out=target, tensor_parallel=1), stdout=stdout).returncode == 0
        written, _, report = file.read_text().partition(f"{MODEL} on ")
        assert yaml.safe_load(written)["plan"]["tensor_parallel"] == 1
        assert "Where the time goes" in report


def test_the_options_that_write_take_links(tmp_path):
    for option in ("out", "placement"):
        link = tmp_path / f"{option} link"
        link.symlink_to(option)
        run(*plan(tensor_parallel=1, **{option: link}))
        assert link.is_symlink()
        assert (tmp_path / option).read_text()


# --- streams --------------------------------------------------------------------------------------------------------


@needs_full
@pytest.mark.parametrize(
    "arguments", [simulate(), simulate("--json"), ["--help"], ["--version"], ["models", "nope", "--json"]]
)
def test_a_full_disk_is_said_in_a_line(arguments):
    with open("/dev/full", "w") as full:
        done = shell(*arguments, stdout=full)
    assert done.returncode == 1
    assert (
        done.stderr.decode().splitlines()[-1] == "llmsim: standard output cannot be written (No space left on device)"
    )
    assert b"Traceback" not in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    done = shell(*simulate("--json"), stdout=writing)
    os.close(writing)
    assert done.stderr == b""


def test_output_in_ascii(tmp_path):
    model = tmp_path / "modèle….json"
    model.write_bytes(bundled_path(MODEL).read_bytes())
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = shell(*simulate(model=model), stdout=subprocess.PIPE, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"modele... on ")
    wrong = shell(*simulate(model="modèle…"), stdout=subprocess.PIPE, env=environment)
    assert wrong.returncode == 2
    assert b"modele..." in wrong.stderr


def test_a_closed_output_is_said():
    command = f"'{sys.executable}' -m llmsim models >&-"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, "llmsim: standard output is closed\n")


@pytest.mark.parametrize(
    "arguments", [plan(), simulate(), ["hardware"], ["settings"], ["--help"], ["plan", "train", "-h"]]
)
def test_lines_end_with_what_they_say(arguments):
    text = run(*arguments)
    assert [line for line in text.splitlines() if line != line.rstrip()] == []
    assert "│" not in text


# --- numbers that people read ---------------------------------------------------------------------------------------


def test_small_jobs_in_hours_and_cents():
    text = run(*plan(tokens="10M", cluster="1x1xh100-sxm-80gb", global_batch=8))
    assert "(1 device)" in text
    assert "for 611 steps" in text
    assert re.search(r"cost +0\.\d\d USD", text)
    assert re.search(r"time +[\d.]+ s \(80 %: [\d.]+ s to [\d.]+ s\)", text)
    assert " 0 to 0" not in text
    assert "for 1 step," in run(*plan(tokens="2k", cluster="1x1xh100-sxm-80gb", global_batch=8))


def test_units():
    assert [days(d) for d in (0.001, 0.5, 1.99, 2, 300)] == ["86.4 s", "12 h", "47.76 h", "2.0 days", "300.0 days"]
    assert [money(m) for m in (0, 0.001, 0.5, 12.345, 1234.5)] == [
        "0 USD", "below 0.01 USD", "0.50 USD", "12.35 USD", "1,234 USD",
    ]  # fmt: skip
    assert [counted(n, "device") for n in (0, 1, 2, 2048)] == ["0 devices", "1 device", "2 devices", "2,048 devices"]
    assert counted(0.5, "day") == "0.5 days"


# --- settings -------------------------------------------------------------------------------------------------------


def test_settings_are_those_of_a_plan():
    found = json.loads(run("settings", "--json"))
    assert found["schema"] == "llmsim.settings/1"
    fields = [own["field"] for own in found["settings"]]
    assert fields == [name for name in TrainingPlan.model_fields if name != "schema_version"]
    text = run("settings")
    for own in plan_settings():
        assert own.meaning
        assert own.allowed
        assert own.field in text
        if own.default is not None and not own.required:
            TrainingPlan(**{"sequence_length": 2048, "global_batch_size": 8, own.field: own.default})
    assert "selective" in run("settings", "recompute")
    assert "tensor_parallel" not in run("settings", "recompute")


def test_settings_name_what_a_plan_takes():
    by_name = {own.field: own for own in plan_settings()}
    for field in ("sharding", "optimizer", "precision", "overlap", "context_kind", "dispatcher"):
        for value in by_name[field].allowed.split(", "):
            more = {"context_kind": {"ulysses_parallel": 2}}.get(field, {}) if "+" in value else {}
            TrainingPlan(sequence_length=2048, global_batch_size=8, **{field: value}, **more)


# --- options --------------------------------------------------------------------------------------------------------

COMMANDS = {
    "plan train": plan_train,
    "plan cluster": cluster,
    "simulate train": simulate_train,
    "explain train": explain_train,
    "doctor": doctor,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_options_agree(command):
    own = signature(COMMANDS[command]).parameters
    shared = signature(COMMANDS["plan train"]).parameters
    for name in Job.__dataclass_fields__:
        (option,), (other,) = own[name].annotation.__metadata__, shared[name].annotation.__metadata__
        assert (own[name].default, option.help, option.param_decls) == (
            shared[name].default,
            other.help,
            other.param_decls,
        )
    text = run(*command.split(), "-h")
    for short in ("-m", "-s", "-b", "-h"):
        assert f"  {short}, " in text
    assert ("-c, --cluster" in text) == (command != "plan cluster")


def test_options_come_over_the_file(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(
        "sequence_length: 4096\nglobal_batch_size: 32\ndata_parallel: 8\noptimizer: lion\nframework: nemo\n"
    )
    said = run(*with_plan(path), "-s", "2k", "--optimizer", "adamw", "--framework", "megatron-core", "--json")
    assert json.loads(said)["plan"] == json.loads(run(*simulate("--json")))["plan"]
    assert json.loads(said)["step_time_s"] == json.loads(run(*simulate("--json")))["step_time_s"]
    small = json.loads(run(*with_plan(path), "--headroom", "0.5", "--json"))
    usual = json.loads(run(*with_plan(path), "--json"))
    assert small["memory_limit_bytes"] < usual["memory_limit_bytes"]


def test_a_plan_of_options_alone():
    pairs = [part for name in ("data_parallel",) for part in ("--set", f"{name}={STEP[name]}")]
    question = ["-m", MODEL, "-c", CLUSTER, "-s", "2k", "-b", "32", *pairs, "--json"]
    step = json.loads(run(*simulate("--json")))["step_time_s"]
    assert json.loads(run("simulate", "train", *question))["step_time_s"] == step
    assert json.loads(run("explain", "train", *question))["step_time_s"] == step
    assert json.loads(run("doctor", *question))["result"]["step_time_s"] == step


def test_options_reach_the_search_of_explain_and_doctor():
    options = {"optimizer": "lion", "framework": "torchtitan", "headroom": 0.3}
    best = plan_training(MODEL, CLUSTER, sequence=2048, global_batch=32, **options).best[0].result
    question = ["-m", MODEL, "-c", CLUSTER, "-s", "2k", "-b", "32", "--json"]
    question += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    explained = json.loads(run("explain", "train", *question))
    assert explained["step_time_s"] == best.step_time_s
    assert explained["plan"]["optimizer"] == "lion"
    assert json.loads(run("doctor", *question))["result"]["step_time_s"] == best.step_time_s


def test_choosing_a_cluster_takes_what_planning_takes():
    question = ["-m", MODEL, "-s", "2k", "-b", "32", "-t", "1B", "--json", "--adapter", "lora:8", "--optimizer", "lion"]
    chosen = json.loads(run("plan", "cluster", "--clusters", CLUSTER, *question))["options"][0]["best"]["result"]
    planned = json.loads(run("plan", "train", "-c", CLUSTER, *question))["best"][0]["result"]
    assert chosen["plan"] == planned["plan"]
    assert chosen["step_time_s"] == planned["step_time_s"]


# --- help and completion --------------------------------------------------------------------------------------------


def test_help_is_everywhere():
    for command in ([], ["plan"], ["models"], ["calibrate"], ["validate"], ["compare"], *(c.split() for c in COMMANDS)):
        assert run(*command, "-h") == run(*command, "--help")
    text = " ".join(run("-h").split())
    assert "2 bad input; 3 nothing fits" in text


def test_completion():
    def completed(words):
        variables = {"_LLMSIM_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        code = "import sys; sys.argv[0] = 'llmsim'; from llmsim.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    assert completed("llmsim pl") == ["plan"]
    assert completed("llmsim plan train --calib") == ["--calibrate-with"]
    assert "llama-3-8b" in completed("llmsim simulate train --model llama-3")


def test_json_is_strict(capsys):
    print_json({"a": float("nan"), "b": [float("inf"), 1.0], "c": {"d": (float("-inf"),)}})
    said = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert said == {"a": None, "b": [None, 1.0], "c": {"d": [None]}}
