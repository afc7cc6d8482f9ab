"""``llmsim explain train`` as a user meets it: text that adds up, other forms, refusals in one line."""

from __future__ import annotations

import json
import re

import pytest
from command_line import CLUSTER, MODEL, STEP, refused, run
from test_import import loaded

from llmsim.training.simulate import simulate_training


def explain(*more, model=MODEL, cluster=CLUSTER, **fields):
    """Arguments that explain a plan."""
    pairs = [part for k, v in {**STEP, **fields}.items() for part in ("--set", f"{k}={v}")]
    return ["explain", "train", "--model", str(model), "--cluster", str(cluster), *pairs, *more]


SEARCHED = ["explain", "train", "--model", MODEL, "--cluster", CLUSTER, "--sequence", "2k", "--global-batch", "32"]


def bars(text):
    """(seconds, points) of the waterfall as printed, the total last, in units of the last digit."""
    found = re.findall(r"(-?\d+\.\d{4}) +(-?\d+\.\d)\s*$", text.split("Closed form")[0], re.MULTILINE)
    return [(round(float(s) * 1e4), round(float(p) * 10)) for s, p in found]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tensor_parallel": 2, "data_parallel": 4},
        {"sharding": "zero3", "recompute": "full"},
        {"pipeline_parallel": 2, "data_parallel": 4, "micro_batch_size": 2},
        {"model": "deepseek-v3", "cluster": "32x8xh800-sxm-80gb", "data_parallel": 16, "pipeline_parallel": 16,
         "expert_parallel": 16, "global_batch_size": 1024, "schedule": "zb-h1", "precision": "fp8-block"},
    ],
)  # fmt: skip
def test_printed_bars_sum_to_the_printed_step(fields):
    text = run(*explain(**fields))
    *parts, total = bars(text)
    assert len(parts) >= 6
    assert tuple(map(sum, zip(*parts, strict=True))) == total
    assert total[1] == 1000
    mfu = re.search(r"MFU (\d+\.\d) %", text)
    assert mfu is not None
    assert parts[0][1] == round(float(mfu[1]) * 10)


def test_the_default_fits_a_screen_and_a_half():
    text = run(*explain(pipeline_parallel=2, data_parallel=4))
    assert len(text.splitlines()) < 70
    for heading in ("From peak to achieved", "Closed form of the step", "What rates do", "What plans do"):
        assert heading in text
    assert "the closed form" in text


def test_definitions_go_as_deep_as_asked():
    lines = [len(run(*explain("--depth", str(depth))).splitlines()) for depth in (1, 2, 4, 8)]
    assert lines == sorted(set(lines))
    assert "peak_16bit" in run(*explain("--depth", "8")).split("What rates do")[0]


def test_json_has_every_number():
    data = json.loads(run(*explain("--json")))
    assert data["schema"] == "llmsim.training-explanation/1"
    result = simulate_training(_plan(), MODEL, CLUSTER)
    assert data["step_time_s"] == result.step_time_s
    assert sum(bar["seconds"] for bar in data["waterfall"]) == pytest.approx(result.step_time_s, rel=1e-12)
    assert {"rates", "sizes", "neighbours", "decisions", "definitions"} <= set(data)


def _plan():
    from llmsim.plans.training import TrainingPlan

    return TrainingPlan.model_validate(STEP)


def test_memory_in_symbols():
    text = run(*explain("--quantity", "memory", tensor_parallel=2, data_parallel=4))
    assert re.search(r"M_optimizer += 12\*.*/d", text)
    assert "rho = 1." in text


def test_markdown_has_the_same_tables():
    text = run(*explain("--format", "markdown"))
    assert text.startswith(f"# {MODEL} on ")
    seconds, points = (
        sum(round(float(cell) * 10**digits) for cell in cells)
        for cells, digits in (
            (re.findall(r"\| (-?\d+\.\d{4}) \| -?\d+\.\d \|", text), 4),
            (re.findall(r"\d{4} \| (-?\d+\.\d) \|", text), 1),
        )
    )
    assert points == 2 * 1000
    assert re.search(rf"\| step \| {seconds / 2 / 1e4:.4f} \| 100\.0 \|", text)


def test_latex_is_the_closed_form():
    text = run(*explain("--format", "latex"))
    assert text.startswith(r"\begin{align*}")
    assert r"T_{\mathrm{step}} &= T_{\mathrm{fixed}} + T_{\mathrm{once}} + T_{\mathrm{pipeline}}" in text
    assert text.count("{") == text.count("}")


def test_without_a_plan_the_best_is_explained():
    from llmsim.search.plan import plan_training

    best = plan_training(MODEL, CLUSTER, sequence=2048, global_batch=32).best[0].result
    data = json.loads(run(*SEARCHED, "--json"))
    assert data["step_time_s"] == best.step_time_s
    assert data["plan"] == best.plan.model_dump(mode="json")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (explain("--quantity", "stp"), ["quantity: 'stp' is unknown", "tokens_per_s", "nearest: step"]),
        (SEARCHED[:6], ["plan: None is missing", "--plan FILE", "--sequence and --global-batch"]),
        (SEARCHED[:8], ["plan: None is missing"]),
        (explain("--sequence", "2k"), ["sequence_length: '2k' is also set to 2048", "--set sequence_length=..."]),
        (explain("--global-batch", "8"), ["global_batch_size: '8' is also set to 32"]),
        (explain("--json", "--format", "latex"), ["json: True stands alone", "without --format and --depth"]),
        (explain("--json", "--depth", "3"), ["json: True stands alone"]),
        (explain("--format", "html"), ["--format", "'html'", "latex"]),
        (explain("--depth", "0"), ["--depth", "greater than or equal to 1"]),
        (explain(tensor_parallel=3), ["tensor_parallel: 3 does not divide"]),
        (explain(tensor_paralel=2), ["tensor_paralel", "nearest: tensor_parallel"]),
        (explain(model="absent"), ["model: 'absent'"]),
        (explain("--set", "oops"), ["set: 'oops'", "FIELD=VALUE"]),
        ([*SEARCHED[:6], "-s", "2k", "-b", "0.5"], ["global_batch: '0.5'"]),
    ],
)
def test_refusals(arguments, words):
    text = refused(*arguments)
    for word in words:
        assert word in text


def test_sympy_is_loaded_where_it_is_used():
    assert "sympy" not in loaded("import llmsim.cli; from llmsim import explain_training")
    assert "sympy" in loaded(
        f"""
from llmsim import TrainingPlan, explain_training
explain_training(TrainingPlan(**{STEP}), {MODEL!r}, {CLUSTER!r}).to_dict()
"""
    )


def test_without_sympy_it_says_what_to_install(monkeypatch):
    from llmsim import InputError, explain_training
    from llmsim.explain import explain as home

    monkeypatch.setattr(home, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs sympy.*pip install sympy"):
        explain_training(_plan(), MODEL, CLUSTER)
