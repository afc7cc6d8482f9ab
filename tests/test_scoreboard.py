"""The scoreboard: what its figures mean, that its tables hold what they should, and that accuracy stays what it was."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from run_tables import row, write_table

from llmsim.architecture import Architecture
from llmsim.calibration.architectures import architecture_family
from llmsim.calibration.runs import plan_run
from llmsim.calibration.split import split_text
from llmsim.calibration.table import MeasuredRun, read_runs
from llmsim.hardware.constants import moved_by_steps
from llmsim.hardware.shapes import REACH
from llmsim.report.scoreboard import error_curves, markdown
from llmsim.scoring.coverage import interval_score, intervals
from llmsim.scoring.hand_chosen import hand_chosen
from llmsim.scoring.origins import KNOWN, ORIGINS
from llmsim.scoring.result import Entry
from llmsim.scoring.scoreboard import LEFT_OUT, Scoreboard, Subset, scoreboard, shipped_part, sibling_rows
from llmsim.timing.layer_time import MOE_FORWARD_SHARE

VALIDATION = Path(__file__).resolve().parents[1] / "validation"
MOVED = 0.005
"""By how much a median may move before somebody has to look at it and run `make scoreboard`."""


def test_accuracy_on_held_out_pairs_is_what_was_written_down() -> None:
    """A prediction made now, of pairs that the constants that ship were not fitted on, against results.json."""
    stored = json.loads((VALIDATION / "results.json").read_text(encoding="utf-8"))["parts"]["shipped, held out"]
    now = shipped_part(VALIDATION / "training_runs.csv", VALIDATION / "fit_split.csv")
    for label in ("all", "regime/dense", "regime/moe"):
        before, after = stored["labels"][label]["step"], now.labels[label].step
        assert after.groups == before["groups"], "the runs have changed: run `make scoreboard`"
        assert after.median == pytest.approx(before["median"], abs=MOVED), (
            f"{label}: run `make scoreboard`, and say why"
        )
    assert now.headline == pytest.approx(stored["headline"], abs=MOVED)
    for kind, before in stored["memory"].items():
        assert now.memory[kind].median == pytest.approx(before["median"], abs=MOVED), f"memory, {kind}"


def entry(name: str, ratio: float, width: float | None, group: str = "") -> Entry:
    low, high = (None, None) if width is None else (math.exp(-width), math.exp(width))
    return Entry(
        name, 2, group or name, "step_time_s", ratio, 1.0, None, {}, False, "m", "dense", "h", "f", low, high
    )  # fmt: skip


def test_winkler_score_is_the_width_and_ten_times_the_miss() -> None:
    found = interval_score(np.array([0.05, 0.1, 0.3]), np.array([0.1, 0.1, 0.1]))
    assert found == pytest.approx([0.2, 0.2, 0.2 + 10 * 0.2])


def test_winkler_score_is_least_at_the_true_quantile() -> None:
    distance = np.abs(np.random.default_rng(0).standard_normal(100_000))
    widths = np.linspace(1.0, 1.6, 61)
    best = widths[np.argmin([interval_score(distance, np.full_like(distance, w)).mean() for w in widths])]
    assert best == pytest.approx(1.2816, abs=0.03)


def test_coverage_is_judged_over_groups() -> None:
    """Seven groups of ten inside may be chance at 80 %, seventy of a hundred are not; groups weigh the same."""
    few = [entry(f"{n}", math.exp(0.05 if n < 7 else 0.5), 0.1) for n in range(10)]
    many = [entry(f"{n}", math.exp(0.05 if n < 70 else 0.5), 0.1) for n in range(100)]
    first, second = intervals(few, {}), intervals(many, {})
    assert first is not None
    assert second is not None
    assert (first.groups_inside, first.rejected, second.groups_inside, second.rejected) == (7, False, 70, True)
    assert first.width == pytest.approx(math.exp(0.2) - 1)
    assert first.winkler_same is None
    big = intervals([*few[:1], *(entry(f"x{n}", math.exp(0.5), 0.1, "big") for n in range(9))], {})
    assert big is not None
    assert big.coverage == 0.5
    assert intervals([entry("a", 1.0, None)], {}) is None


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("llama-3-8b", "llama-like"), ("gpt-3-175b", "GPT-like"), ("gemma3-12b", "sliding llama-like"),
        ("mixtral-8x7b", "MoE"), ("deepseek-v3", "MLA-MoE"), ("jamba-v0.1", "hybrid"),
        ("mamba2-2.7b", "hybrid"), ("qwen3-next-80b-a3b", "hybrid"),
    ],
)  # fmt: skip
def test_families_of_architectures(model: str, family: str) -> None:
    assert architecture_family(Architecture.from_config(model)) == family


def test_siblings_are_devices_of_one_generation() -> None:
    devices = ("h100-sxm-80gb", "h200-sxm-141gb", "a100-sxm-80gb")
    items = [
        plan_run(MeasuredRun(2, {k: str(v) for k, v in row(id=device, group=device, hardware=device).items()}))
        for device in devices
    ]
    assert sibling_rows(items) == {"h100-sxm-80gb", "h200-sxm-141gb"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Scoreboard:
    """Of three models on three devices, with a model that nobody knows."""
    folder = tmp_path_factory.mktemp("scoreboard")
    rows = [
        row(
            id=f"{model}-{device}-{tensor}", group=f"{model}-{device}", model=model, hardware=device,
            tensor_parallel=tensor, data_parallel=8 // tensor, step_time_s=seconds * (1 + tensor / 50),
        )
        for device, scale in (("h100-sxm-80gb", 1.0), ("h200-sxm-141gb", 0.95), ("a100-sxm-80gb", 2.6))
        for model, seconds in (("llama-3-8b", 2.4 * scale), ("llama-2-7b", 2.2 * scale), ("mistral-7b", 2.3 * scale))
        for tensor in (1, 2, 4, 8)
    ]  # fmt: skip
    path = write_table(folder / "runs.csv", [*rows, row(id="nobody", group="nobody", model="no-such-model")])
    split = folder / "split.csv"
    split.write_text(split_text(read_runs(path)), encoding="utf-8")
    subsets = (
        Subset(
            "mistral on h200",
            left_out=lambda run: run["model"] == "mistral-7b",
            scored=lambda run: run["hardware"] == "h200-sxm-141gb",
        ),
        Subset("nothing", left_out=lambda run: False, scored=lambda run: True),
    )
    return scoreboard(path, split, subsets, progress=False)


def test_every_split_is_scored_and_what_cannot_be_simulated_counts(small: Scoreboard) -> None:
    assert {"in sample", "hardware, siblings", *LEFT_OUT} - {"hardware"} <= set(small.parts)
    assert sum(map(len, small.skipped.values())) == 1
    for name in ("in sample", "group", "framework-model"):
        step = small.parts[name].labels["all"].step
        assert (step.rows, step.groups, step.skipped) == (37, 10, 1)
        assert small.parts[name].errors["this simulator"][-1] == 1.0
    siblings = small.parts["hardware, siblings"].labels
    assert {label for label in siblings if label.startswith("hardware/")} == {
        "hardware/h100-sxm-80gb", "hardware/h200-sxm-141gb",
    }  # fmt: skip
    assert small.parts["in sample"].labels["all"].step.median <= small.parts["generation"].labels["all"].step.median


def test_the_tables_say_what_constants_were_fitted_on(small: Scoreboard) -> None:
    text = markdown(small, "results.svg")
    assert text.count("\n## ") == 8 + len(small.parts) - 1
    for part in small.parts.values():
        assert part.constants in text
    assert "no-such-model" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)


def test_subsets_are_scored_by_constants_fitted_without_them(small: Scoreboard) -> None:
    """A model left out whole, of which one device is scored."""
    assert set(small.subsets) == {"mistral on h200"}
    own = small.subsets["mistral on h200"]
    assert (own.groups, own.rows, own.coverage) == (1, 4, None)
    assert 0 < own.median < 0.5
    assert own.bias is not None
    assert abs(own.bias) == pytest.approx(own.median, abs=1e-9)


def test_origins_of_rates_by_generation(small: Scoreboard) -> None:
    assert set(small.origins) == {"ampere", "hopper", "all"}
    for own in small.origins.values():
        assert set(own.shares) == set(ORIGINS)
        assert sum(own.shares.values()) == pytest.approx(1)
        assert own.known == pytest.approx(sum(own.shares[origin] for origin in KNOWN))
    assert small.origins["all"].rows == sum(own.rows for name, own in small.origins.items() if name != "all")


def test_values_chosen_by_hand_are_those_of_the_code(small: Scoreboard) -> None:
    values = {(own.file, own.name): own for own in hand_chosen()}
    reach = values["llmsim/hardware/shapes.py", "REACH"]
    assert reach.value == repr(REACH)
    assert "octaves" in reach.meaning
    share = values["llmsim/timing/layer_time.py", "MOE_FORWARD_SHARE"]
    assert share.value == repr(MOE_FORWARD_SHARE)
    text = markdown(small, "results.svg")
    for own in values.values():
        path = VALIDATION.parent / own.file
        assert own.name in path.read_text(encoding="utf-8")
        assert f"| `{own.name}` | `{own.file}` | `{own.value}` |" in text
    priors = {own.name: own for own in small.priors}
    for constant in moved_by_steps():
        assert priors[constant.name].width == constant.width
    gemm = priors["generations/*/in_situ/gemm_16bit"]
    assert gemm.values == 2  # generations of the table
    assert gemm.least is not None


NOT_CHOSEN = {
    "NORMAL_80", "RING_MERGE_BYTES", "WHOLE_BYTES", "FP32_BYTES", "EIGEN_FLOPS", "BACKWARD_FLOPS", "WEIGHT_BYTES",
    "BITS_OF", "MIB", "PICOSECONDS",  # facts
    "DRAWS", "BISECTIONS", "ROUNDING", "MOST_STEPS", "BLOCKS", "SETTLED", "SETTLED_SHARE", "ROUNDS", "STEPS", "OCTAVE",
    "ROWS",  # of algorithms
    "LEAST", "MOST", "MOST_NODES", "LONGEST", "MANY", "LONG", "USABLE", "FEWEST", "LOADS", "PERCENTILES",
    "MOST_REQUESTS",  # limits of what is accepted or shown
}  # fmt: skip
"""Numbers of modules that no accuracy depends on."""


def test_no_number_that_a_module_names_is_missing_from_the_list() -> None:
    listed = {(own.file, own.name) for own in hand_chosen()}
    packages = ("hardware", "timing", "training", "plans", "calibration", "serving")
    missing = {
        (str(path.relative_to(VALIDATION.parent)), name)
        for package in packages
        for path in (VALIDATION.parent / "llmsim" / package).rglob("*.py")
        for name in re.findall(
            r"^([A-Z][A-Z_0-9]+) = -?[0-9.({]*[0-9.]", path.read_text(encoding="utf-8"), re.MULTILINE
        )
    } - listed
    assert {(file, name) for file, name in missing if name not in NOT_CHOSEN} == set()


def test_the_figure_is_well_formed() -> None:
    root = ElementTree.fromstring(error_curves({"a & b": [0.01, 0.1, 3.0], "c": [0.2]}, "title"))
    assert len(root.findall("{http://www.w3.org/2000/svg}polyline")) == 2
