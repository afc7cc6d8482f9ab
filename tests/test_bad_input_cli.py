"""Wrong input of every kind on the command line: status 2 or 3, a line that says it, and nothing written over."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import CLUSTER, CONFIG, MODEL, RUNS, STEP, plan, refused, run, simulate, with_plan

EXPLAIN = ["explain", "train", "-m", MODEL, "-c", CLUSTER]
DOCTOR = ["doctor", "-m", MODEL, "-c", CLUSTER]
CHOOSE = ["plan", "cluster", "-m", MODEL, "--clusters", CLUSTER, "-s", "2k", "-b", "32"]
COMPARE = ["compare", "-m", "llama-3-8b"]
HUGE, SNOW = "9" * 5000, "☃"

WORDS = [
    # texts that are no number, for each option that takes one
    *((plan(sequence=v), "sequence") for v in (HUGE, SNOW, " ", "8k8k", "0x10", "1_", "--", "٣", "1e-3", "8T", "k")),
    *((plan(global_batch=v), "global_batch") for v in (HUGE, SNOW, " ", "", "3.7", "1e-3", "1/2", "1e400", "0.0")),
    *((plan(tokens=v), "tokens") for v in (HUGE, SNOW, " ", "T", "15TT", "-15T", "15 T T", "1e19", "1e-400")),
    *((plan(epochs=v, tokens="1B"), "epochs") for v in ("nan", "inf", "-inf", "0", "-1", "1e7", "x", "")),
    *((plan(top=v), "top") for v in ("1.5", "", SNOW, HUGE, "nan", "-9")),
    *((plan(cores=v), "cores") for v in ("0", "-1", "x", "1.5")),
    *((plan(price=v), "price") for v in ("inf", "x", "", "-0.01", "1e7")),
    *((plan(headroom=v), "headroom") for v in ("-0.1", "1", "nan", "inf", "x", "90%")),
    *((plan(oom_risk=v), "oom") for v in ("0", "1", "-1", "nan", "inf", "x")),
    *((plan(percentile=v), "percentile") for v in ("0", "100", "-1", "nan", "inf", "x")),
    *((plan(capacity_factor=v), "capacity") for v in ("0", "-1", "nan", "inf", "x", "1e9")),
    *((plan(document_length=v), "document_length") for v in ("0", "-1", "x", "", "nan", "4k", "1,2")),
    *((plan(**{o: v}), o) for o in ("offload_activations", "offload_optimizer")
      for v in ("2", "-1", "nan", "", "0,,1", "x")),
    *((plan(**{o: v}), o) for o in ("pipeline_parallel", "context_parallel", "micro_batch_size", "expert_parallel")
      for v in ("0", "-1", "x", "1.5", ",", HUGE)),
    # names
    *((plan(**{o: v}), o) for o in ("framework", "precision", "optimizer", "adapter", "sharding", "context_kind",
      "schedule", "rank_order", "layers_per_stage", "recompute_layers", "network")
      for v in ("", SNOW, "../../etc/passwd", "a,,b", "x" * 400)),
    (plan(release="x" * 5000, framework="nope"), "framework"),
    # models and clusters
    *((plan(model=v), "model") for v in ("", " ", ".", "/", "/dev/null", "..", SNOW, "a/b/c", "x" * 300, "-", "~")),
    (plan(model="meta-llama/Foo-1B"), "hf download meta-llama/Foo-1B config.json"),
    (["models", "meta-llama/Foo-1B"], "huggingface.co/meta-llama/Foo-1B/resolve/main/config.json"),
    *((plan(cluster=v), "") for v in (" ", "x", "xx", "8", "8x", "x8xh100", "1x8x", "1x8x8xh100",
      "1x8xh100,1x8xh100", "NaNx8xh100", "1e3x8xh100", ".", "/dev/null", "٣x8xh100", SNOW,
      "1x8x../devices/h100-sxm-80gb")),
    # a plan and options beside it
    (simulate("--precision", "bf16", precision="bf16"), "is also set to 'bf16'"),
    (simulate("--sequence", "2k"), "sequence_length: '2k' is also set to 2048"),
    (simulate("--set", "tensor_parallel=2", "--set", "tensor_parallel=4"), "sets tensor_parallel again"),
    (simulate("--precision", "bf16,fp8-current"), "precision"),
    (simulate("--headroom", "2"), "memory_headroom: 2"),
    (simulate("--set", "help"), "llmsim settings"),
    (simulate(tensor_paralel=2), "llmsim settings"),
    *((simulate("--set", v), "") for v in ("", "=", " =3", "a", "a=!!python/object:os.system x", "a=&a [*a]",
      f"a={HUGE}", "a={", "tensor_parallel=&a [*a]", "micro_batch_size=2026-01-01", "recompute=!!binary aGVsbG8=",
      "precision=~", "optimizer={}")),
    *(([*command, "--set", "sequence_length=2k"], "global_batch_size") for command in (EXPLAIN, DOCTOR)),
    *(([*command, "-s", "2k"], "plan: None is missing") for command in (EXPLAIN, DOCTOR)),
    *(([*command, "-s", "2k", "-b", "32", "--framework", "nope"], "framework") for command in (EXPLAIN, DOCTOR)),
    ([*EXPLAIN, "--quantity", ""], "plan"),
    ([*EXPLAIN, "-s", "2k", "-b", "32", "--depth", "0"], "depth"),
    # other commands
    *(([*CHOOSE, "--tokens", "1B", f"--{o}", v], o.split("-")[0]) for o in ("deadline-days", "budget-usd")
      for v in ("0", "-1", "nan", "inf", "x")),
    *(([*CHOOSE, "--tokens", "1B", "--objective", v], "objective") for v in ("", "speed", SNOW)),
    *(([*CHOOSE[:5], v, *CHOOSE[6:], "--tokens", "1B"], "cluster") for v in
      ("", ",", "8:4x8xh100", "1:9999999999x8xh100", "0:4x8xh100", "1:4:0x8xh100", "a:bx8xh100", "1:2:3:4x8xh100")),
    *(([*COMPARE, "-s", v], "sequence") for v in ("", "0", "8k:4k", "4k:", ":4k", "4k,4k", "1e30", "x", SNOW)),
    *(([*COMPARE, "-s", "4k", f"--{o}", v], o)
      for o, v in (("device", "h101"), ("device", ""), ("devices", "0"), ("batch", "-1"), ("batch", HUGE[:400]))),
    *(([*COMPARE, "-s", "4k", "--figure", v], "figure")
      for v in ("", ".", "/", "curves.png", "absent/x.html", "/dev/full/x.html")),
    *((["compare", "-m", v, "-s", "4k"], "model") for v in ("", ",", "llama-3-8b,llama-3-8b", "nope")),
    *((["validate", v], v) for v in ("absent.csv", "/dev/null", "/")),
    (["validate", str(RUNS), "--refit-without", ""], "refit-without"),
    *((["calibrate", v], "") for v in ("absent.csv", "absent.log", "absent.yaml", "/dev/null", "/", "")),
    *((plan(calibrate_with=v), "calibration") for v in ("absent.yaml", "absent", "/", "")),
    (plan(calibrate_with="/dev/null"), "does not say what ran"),
    *((["hardware", v], "profile") for v in ("", "..", "/", "kernels", SNOW, "x" * 400)),
    *((["settings", v], "field") for v in ("", "tensor_paralel", "schema_version")),
    # what click refuses
    *((v, "") for v in (["plan"], ["plan", "training"], ["--jsn"], ["simulate", "train"], ["models", "a", "b"],
      ["settings", "--set"], ["plan", "train", "--model"], plan("--tensor-paralel", "8"),
      plan("--json=yes"), ["explain", "train", "x"])),
]  # fmt: skip


def name(value):
    return " ".join(value)[-60:].encode("ascii", "replace").decode() if isinstance(value, list) else None


@pytest.mark.parametrize(("arguments", "word"), WORDS, ids=name)
def test_wrong_words(arguments, word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refused(*arguments) if arguments != ["plan"] else refused("plan", "nothing")
    assert word.replace("_", "-") in message or word in message
    assert list(tmp_path.iterdir()) == []


def test_there_are_many():
    assert len(WORDS) > 250


YAML = "sequence_length: 2048\nglobal_batch_size: 32\ndata_parallel: 8\n"
PLANS = {
    "cycle": "a: &a [*a]\n",
    "cycle of maps": "plan: &p {plan: *p}\n",
    "a field that holds itself": YAML + "document_length: &a [*a]\n",
    "laughs": "a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\n",
    "tag": "plan: !!python/object/apply:os.system ['touch owned']\n",
    "two documents": YAML + "---\n" + YAML,
    "tabs": "\tsequence_length: 2048\n",
    "merge": "<<: 3\n",
    "latin": YAML.encode() + b"release: \xe9\n",
    "utf-16": YAML.encode("utf-16"),
    "cut JSON": '{"sequence_length": 2048, "global',
    "scalar": "3\n",
    "null": "null\n",
    "null plan": "plan:\n",
    "nan key": ".nan: 3\n" + YAML,
    "list as key": "? [a]\n: 3\n" + YAML,
    "long": "a" * 100_000 + ": 3\n" + YAML,
    "date": YAML + "micro_batch_size: 2026-01-01\n",
    "snow": f"{SNOW}: {SNOW}\n" + YAML,
}  # fmt: skip


@pytest.mark.parametrize("case", PLANS)
def test_wrong_files_of_plans_clusters_and_runs(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = PLANS[case]
    path = tmp_path / "file.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = path.read_bytes()
    for arguments in (with_plan(path), simulate(cluster=path), plan(calibrate_with=path), ["calibrate", path]):
        refused(*arguments)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def changed(**values):
    return json.dumps({**CONFIG, **values}).encode()


CONFIGS = {
    "a list": b"[]",
    "cut": changed()[:-5],
    "nan": changed(hidden_size=float("nan")),
    "infinite": changed(hidden_size=float("inf")),
    "deep": b"[" * 100_000,
    "text for a number": changed(hidden_size="many"),
    "no layers": changed(num_hidden_layers=0),
    "negative": changed(vocab_size=-1),
    "huge": b'{"model_type": "llama", "hidden_size": ' + b"9" * 5000 + b"}",
    "fraction": changed(num_attention_heads=1.5),
    "elf": b"\x7fELF" + bytes(64),
    "gzip": b"\x1f\x8b\x08" + bytes(64),
    "type is a list": changed(model_type=["llama"]),
    "layers are a map": changed(num_hidden_layers={}),
    "true": changed(num_hidden_layers=True),
    "surrogate": b'{"model_type": "\\ud800"}',
}


@pytest.mark.parametrize("case", CONFIGS)
def test_wrong_configurations(case, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(CONFIGS[case])
    for arguments in (simulate(model=path), ["models", path], ["compare", "-m", path, "-s", "4k"]):
        refused(*arguments)
    refused("models", path, "--json")


TABLES = {
    "elf": b"\x7fELF" + bytes(64),
    "one line": b"id\n",
    "quote without end": b'id,model\n"x',
    "html": b"<!DOCTYPE html><html></html>",
    "no columns": b"\n\n\n",
    "wide": b"," * 100_000,
}


@pytest.mark.parametrize("case", TABLES)
def test_wrong_tables(case, tmp_path):
    path = tmp_path / "runs.csv"
    path.write_bytes(TABLES[case])
    for arguments in (
        ["validate", path],
        ["calibrate", path, "--out", tmp_path / "out.yaml"],
        plan(calibrate_with=path),
    ):
        refused(*arguments)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "out", ["", ".", "absent/plan.yaml", "read-only", "link-to-read-only", "loop", "x" * 300, "file/plan"]
)
@pytest.mark.parametrize("option", ["out", "placement"])
def test_places_that_cannot_be_written(option, out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, mode in (("read-only", 0o444), ("file", 0o644)):
        (tmp_path / name).write_text("old")
        (tmp_path / name).chmod(mode)
    (tmp_path / "link-to-read-only").symlink_to("read-only")
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(tmp_path.iterdir())
    assert f"{option}: " in refused(*plan(**{option: out}))
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "read-only").read_text() == (tmp_path / "file").read_text() == "old"


def test_two_files_of_one_name(tmp_path):
    assert "placement" in refused(*plan(out=tmp_path / "a", placement=tmp_path / "a"))
    assert list(tmp_path.iterdir()) == []


def test_files_that_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "file.yaml"
    path.write_text(YAML)
    plain = Path.read_text

    def read_text(self, *arguments, **more):  # as the system says it to anyone but root
        if self == path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return plain(self, *arguments, **more)

    monkeypatch.setattr(Path, "read_text", read_text)
    for arguments in (with_plan(path), simulate(cluster=path), plan(calibrate_with=path), plan(model=path)):
        assert "cannot be read" in refused(*arguments)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (plan(model="nope"), 2),
        (plan("--unheard-of"), 2),
        (["plan", "train"], 2),
        (plan(model="llama-3.1-405b"), 3),
        (simulate(**{**STEP, "tensor_parallel": "9" * 5000}), 2),
        ([*CHOOSE, "--tokens", "15T", "--deadline-days", "0.001"], 3),
    ],
    ids=name,
)
def test_statuses_in_a_shell(arguments, status):
    for more in ([], ["--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "llmsim", *arguments, *more], capture_output=True, text=True, check=False, timeout=60
        )
        assert (done.returncode, done.stderr.count("\n")) == (status, 1)
        assert done.stderr.startswith("llmsim: ")
        if more:
            error = json.loads(done.stdout)["error"]
            assert error["kind"] == {2: "input", 3: "infeasible"}[status]
            assert error["nearest"] or error["kind"] == "input"
        else:
            assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (plan(model="llama-3.2-1c"), {"kind": "input", "field": "model", "value": "llama-3.2-1c"}),
        (plan(imbalance="nan"), {"kind": "input", "field": "imbalance", "value": "nan"}),
        (simulate(tensor_parallel=0), {"kind": "input", "field": "plan: tensor_parallel", "value": 0, "nearest": 1}),
        (plan("--modle", "x"), {"kind": "input", "field": "--modle", "nearest": "--model"}),
        (plan(top="x"), {"kind": "input", "field": "--top"}),
        (["plan", "train", "-m", MODEL], {"kind": "input", "field": "--cluster"}),
    ],
    ids=name,
)  # fmt: skip
def test_errors_as_json(arguments, expected):
    refused(*arguments, "--json")
    from command_line import _run

    error = json.loads(_run((*map(str, arguments), "--json")).stdout)["error"]
    assert expected.items() <= error.items()
    assert {"kind", "message", "field", "value", "allowed", "nearest"} <= set(error)


def test_good_input_is_still_good():
    assert "Where the time goes" in run(*simulate())
