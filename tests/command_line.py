"""Commands for tests: their arguments, and running them in this process."""

from __future__ import annotations

import csv
import json
from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmsim.cli import app
from llmsim.models import bundled_path

RUNS = Path(__file__).resolve().parents[1] / "validation" / "training_runs.csv"
MODEL, CLUSTER = "llama-3.2-1b", "1x8xh100-sxm-80gb"
JOB = {"--model": MODEL, "--cluster": CLUSTER, "--sequence": "2k", "--global-batch": "32"}
STEP = {"sequence_length": 2048, "global_batch_size": 32, "data_parallel": 8}
CONFIG = json.loads(bundled_path(MODEL).read_text())


@cache
def _run(arguments):
    return CliRunner().invoke(app, list(arguments))


def run(*arguments):
    """What a command prints that succeeds."""
    done = _run(tuple(map(str, arguments)))
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    return done.stdout


def refused(*arguments, status=2):
    """What a command says that ends with this status: a line on the error stream, with --json an object besides."""
    done = _run(tuple(map(str, arguments)))
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == status
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("llmsim: ")
    if "--json" in arguments:
        said = json.loads(done.stdout, parse_constant=pytest.fail)
        assert said["schema"] == "llmsim.error/1"
        assert said["error"]["message"] in " ".join(done.stderr.split())
    else:
        assert done.stdout == ""
    return " ".join(done.stderr.split())


def plan(*more, **changes):
    """Arguments of the main question."""
    options = {**JOB, **{f"--{k.replace('_', '-')}": v for k, v in changes.items()}}
    return ["plan", "train", *(str(part) for pair in options.items() for part in pair), *more]


def simulate(*more, model=MODEL, cluster=CLUSTER, **fields):
    """Arguments that simulate a step."""
    pairs = [part for k, v in {**STEP, **fields}.items() for part in ("--set", f"{k}={v}")]
    return ["simulate", "train", "--model", str(model), "--cluster", str(cluster), *pairs, *more]


def with_plan(path, cluster=CLUSTER):
    return ["simulate", "train", "--model", MODEL, "--cluster", str(cluster), "--plan", str(path)]


def rows_of_validation():
    with RUNS.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[:4]


def write_rows(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path
