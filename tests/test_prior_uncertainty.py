"""Draws of constants that no run has moved: what they do to a step, to its interval and to the choice of a plan."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from fnmatch import fnmatchcase
from io import StringIO

import numpy as np
import pytest
from rich.console import Console
from run_tables import row

from llmsim import InputError, plan_training
from llmsim.calibration.parameters import layout
from llmsim.calibration.runs import plan_run
from llmsim.calibration.table import MeasuredRun
from llmsim.core.pipelines import SCHEDULES, schedule_facts
from llmsim.core.provenance import Quantity
from llmsim.hardware.cluster import Cluster
from llmsim.hardware.constants import CONSTANTS, Constant, constant_at
from llmsim.hardware.fitted import Fit, shipped_fit
from llmsim.plans.training import TrainingPlan
from llmsim.report.training import planning_report
from llmsim.search.risk import by_percentile, chance_faster, percentile_s
from llmsim.timing.intervals import NORMAL_80
from llmsim.timing.step_constants import overlaid_constants
from llmsim.timing.structure import Structure
from llmsim.training import prior_uncertainty as doubt
from llmsim.training.prior_uncertainty import DRAWS, Draws, PriorUncertainty, deviates, drawn
from llmsim.training.result import TrainingResult
from llmsim.training.simulate import simulate_training

NODE = "1x8xh100-sxm-80gb"
PLAN = TrainingPlan(
    sequence_length=4096, global_batch_size=64, data_parallel=8, sharding="zero3", framework="megatron-core"
)
PIPELINE = TrainingPlan(
    sequence_length=2048, global_batch_size=64, pipeline_parallel=4, data_parallel=2, framework="megatron-core"
)
STRUCTURE = Structure(PLAN.framework, PLAN.release, PLAN.precision, overlap=PLAN.overlap)
OVERLAP = "software/megatron-core/overlap/parameter"


def asked() -> dict[str, float]:
    """The constants that a step on the node asks for, with what the shipped fit or the profile says."""
    found: dict[str, float] = {}

    class Recorder:
        def get(self, path: str, default: float, /) -> float:
            found[path] = shipped_fit().overlay.get(path, default)
            return found[path]

    overlaid_constants(Cluster.parse(NODE), STRUCTURE, Recorder())
    return found


def known(**changed: float) -> Fit:
    """The shipped fit with every constant learned, but for those ``changed``, which have no run."""
    values = {
        path: Quantity(value=value, unit="1", provenance="fitted", error=1e-9, source="test")
        for path, value in asked().items()
    }
    return shipped_fit().model_copy(update={"values": {**values, **{p: moved(p, v) for p, v in changed.items()}}})


def moved(path: str, value: float) -> Quantity:
    """A constant whose error is still that of its prior."""
    constant = constant_at(path)
    assert constant is not None
    return Quantity(value=value, unit="1", provenance="fitted", error=constant.width, source="test")


def spread_by(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Spreads of the constants that the shipped fit has not learned, times a factor; the others are known."""
    unlearned = {path for path in asked() if isinstance(Draws(shipped_fit()).get(path, 0.5), np.ndarray)}

    def found(path: str) -> Constant | None:
        own = constant_at(path)
        return replace(own, width=factor * own.width) if own is not None and own.width and path in unlearned else None

    monkeypatch.setattr(doubt, "constant_at", found)


def test_every_path_is_that_of_one_constant() -> None:
    for device, model in (("h100-sxm-80gb", "mixtral-8x7b"), ("gb200-186gb", "llama-3-8b")):
        cells = {k: str(v) for k, v in row(model=model, hardware=device).items()}
        item = plan_run(MeasuredRun(2, cells))
        plan = layout([item])
        for constant, (number,) in zip(plan.constants, plan.index, strict=True):
            path = plan.paths[number]
            assert constant_at(path) is constant, path
            assert sum(fnmatchcase(path, pattern) for pattern in CONSTANTS) == 1, path
            assert plan.spread[number] == constant.width
    for still in ("contention", "memory/reserved_factor"):
        path = f"software/torchtitan/{still}"
        assert Draws(Fit()).get(path, 1.3) == 1.3


def test_draws_follow_from_the_path_and_keep_to_their_prior() -> None:
    z = deviates(OVERLAP)
    assert z.shape == (DRAWS,)
    assert np.mean(z) == pytest.approx(0, abs=1e-12)
    assert np.var(z) == pytest.approx(1)
    assert np.array_equal(z[: DRAWS // 2], -z[DRAWS // 2 :])
    assert not np.array_equal(z, deviates(OVERLAP + "_on"))
    free = drawn(OVERLAP, 0.03, Constant("", "", "", width=0.5))
    assert np.log(free / 0.03) == pytest.approx(0.5 * z)
    fraction = drawn(OVERLAP, 0.9, Constant("", "", "", high=1, width=0.25))
    assert fraction.max() <= 1
    assert np.median(fraction) < 0.9  # what would lie beyond 1 lies below


def test_nothing_is_drawn_where_everything_is_learned() -> None:
    result = simulate_training(PLAN, "llama-3-8b", NODE, fit=known())
    assert np.array_equal(result.prior_uncertainty.log_ratios, np.zeros(DRAWS))
    assert result.step_width == result.residual_width
    beside = simulate_training(PLAN, "llama-3-8b", NODE)
    assert beside.prior_uncertainty.log_error > 0
    assert beside.step_width == pytest.approx(
        math.hypot(beside.residual_width, NORMAL_80 * beside.prior_uncertainty.log_error)
    )
    low, high = beside.step_interval_s
    assert math.log(high / low) == pytest.approx(2 * beside.step_width)


def test_a_draw_is_the_step_with_the_constants_drawn() -> None:
    """Evaluated at once in the load as it is, or one by one from the counting on."""
    result = simulate_training(PLAN, "llama-3-8b", NODE)
    draws = Draws(shipped_fit())
    paths = {path: draws.get(path, value) for path, value in asked().items()}
    for n in (0, 17, DRAWS - 1):
        values = {
            path: Quantity(value=float(np.broadcast_to(v, (DRAWS,))[n]), unit="1", provenance="fitted", source="test")
            for path, v in paths.items()
        }
        one = simulate_training(PLAN, "llama-3-8b", NODE, fit=shipped_fit().model_copy(update={"values": values}))
        assert math.log(one.step_time_s / result.step_time_s) == pytest.approx(
            result.prior_uncertainty.log_ratios[n], abs=1e-9
        )


def test_the_doubt_is_the_slope_times_the_spread_where_the_spread_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    value = 0.5
    result = simulate_training(PLAN, "llama-3-8b", NODE, fit=known(**{OVERLAP: value}))
    assert result.prior_uncertainty.log_error > 0.01
    spread_by(monkeypatch, 1e-3)
    result = simulate_training(PLAN, "llama-3-8b", NODE, fit=known(**{OVERLAP: value}))
    steps = [
        simulate_training(PLAN, "llama-3-8b", NODE, fit=known(**{OVERLAP: value * factor})).step_time_s
        for factor in (math.exp(-1e-3), math.exp(1e-3))
    ]
    slope = math.log(steps[1] / steps[0]) / 2e-3
    assert abs(slope) > 0.01
    assert result.prior_uncertainty.log_error == pytest.approx(
        abs(slope) * 1e-3 * float(CONSTANTS["software/*/overlap/parameter"].width or 0), rel=1e-3
    )


def test_an_interval_grows_with_the_spreads(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = [simulate_training(PLAN, "llama-3-8b", NODE, fit=known()).step_width]
    for factor in (0.1, 0.5, 1, 2):
        with monkeypatch.context() as inside:
            spread_by(inside, factor)
            widths.append(simulate_training(PLAN, "llama-3-8b", NODE).step_width)
    assert widths == sorted(set(widths))
    assert widths[-1] > 1.1 * widths[0]


def test_what_two_plans_share_cancels() -> None:
    """A device that is slower on the whole is so under both: with nothing but kernels, their ratio has no doubt."""
    silent = {path: 1e-30 for path in asked() if "/host/" in path}
    fit = known(**{f"devices/{Cluster.parse(NODE).device}/in_situ": 0.9})
    values = {p: q.model_copy(update={"value": silent.get(p, q.value)}) for p, q in fit.values.items()}
    fit = fit.model_copy(update={"values": values})
    one = TrainingPlan(sequence_length=2048, global_batch_size=16, framework="megatron-core")
    other = one.replace(micro_batch_size=4, recompute="full")
    first, second = (simulate_training(p, "gpt-2", "1x1xh100-sxm-80gb", fit=fit) for p in (one, other))
    assert first.step_time_s != pytest.approx(second.step_time_s, rel=0.01)
    assert first.prior_uncertainty.log_error > 0.02
    assert first.prior_uncertainty.log_ratios == pytest.approx(second.prior_uncertainty.log_ratios, abs=1e-12)
    again = simulate_training(one, "gpt-2", "1x1xh100-sxm-80gb", fit=fit)
    assert np.array_equal(first.prior_uncertainty.log_ratios, again.prior_uncertainty.log_ratios)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_can_be_drawn(schedule: str) -> None:
    chunks = next(n for n in (1, 2) if schedule_facts(schedule).takes(n))
    result = simulate_training(PIPELINE.replace(schedule=schedule, virtual_pipeline=chunks), "llama-3-8b", NODE)
    assert np.isfinite(result.prior_uncertainty.log_ratios).all()
    assert 0 < result.prior_uncertainty.log_error < 0.3


@pytest.mark.parametrize(("framework", "cluster"), [("nanotron", NODE), ("megatron-core", "1x8xmi300x-192gb")])
def test_widths_for_the_unseen_hold_their_doubt_already(framework: str, cluster: str) -> None:
    plan = PLAN.replace(framework=framework, sharding="zero1")
    result = simulate_training(plan, "llama-3-8b", cluster)
    assert result.prior_uncertainty.log_error > 0
    assert result.step_width == result.residual_width


def test_a_result_with_its_doubt_is_still_a_plain_record() -> None:
    result, same = (simulate_training(PLAN, "llama-3-8b", NODE) for _ in range(2))
    assert result == same
    sent = pickle.loads(pickle.dumps(result))
    assert sent == result
    assert sent.step_interval_s == result.step_interval_s
    assert len(pickle.dumps(result)) < 10_000
    data = result.to_dict()
    assert data["step_interval_s"] == result.step_interval_s
    assert not {"prior_uncertainty", "residual_width"} & set(data)
    assert result != simulate_training(PLAN, "llama-3-8b", NODE, fit=known())


def test_the_interval_of_a_job_is_the_wider_one() -> None:
    best = plan_training("llama-3-8b", NODE, sequence=4096, global_batch=64, tokens=1e12).best[0]
    assert best.result.step_width > best.result.residual_width
    assert math.log(best.job.days_interval[1] / best.job.days) == pytest.approx(best.result.step_width)


def shifted(result: TrainingResult, step_time_s: float, log_ratios: np.ndarray) -> TrainingResult:
    return replace(result, step_time_s=step_time_s, prior_uncertainty=PriorUncertainty(lambda: log_ratios))


def test_a_plan_has_an_even_chance_against_itself() -> None:
    result = simulate_training(PLAN, "llama-3-8b", NODE)
    assert chance_faster(result, result, 0.06) == 0.5
    assert chance_faster(result, result, None) is None


def test_chances_come_from_what_plans_do_not_share() -> None:
    result = simulate_training(PLAN, "llama-3-8b", NODE)
    z, other = 0.2 * deviates("a"), 0.2 * deviates("b")
    first, same, apart = shifted(result, 1.0, z), shifted(result, 1.05, z), shifted(result, 1.05, other)
    unlikely, likelier = chance_faster(first, same, 0.06), chance_faster(first, apart, 0.06)
    assert unlikely == pytest.approx(0.5 * math.erfc(math.log(1.05) * NORMAL_80 / 0.06 / math.sqrt(2)))
    assert unlikely < likelier < 0.5
    assert likelier + chance_faster(apart, first, 0.06) == pytest.approx(1)


def test_a_percentile_may_choose_another_plan_than_the_median() -> None:
    result = simulate_training(PLAN, "llama-3-8b", NODE)
    quick, sure = shifted(result, 1.0, 0.3 * deviates("a")), shifted(result, 1.05, np.zeros(DRAWS))
    for percentile, expected in ((10, quick), (50, quick), (90, sure)):
        assert by_percentile([quick, sure], percentile)[0] is expected
    assert percentile_s(quick, 50) == pytest.approx(1)
    assert percentile_s(quick, 90) == pytest.approx(quick.step_interval_s[1], rel=1e-4)


def test_an_answer_says_its_chances_and_what_chose() -> None:
    question = {"sequence": 8192, "global_batch": 512}
    median, careful = (
        plan_training("llama-3-70b", "64x8xh100-sxm-80gb", **question, **how)
        for how in ({"simpler_within": 0}, {"percentile": 90})
    )
    for answer in (median, careful):
        winner, *others = answer.best
        assert winner.chance_it_wins is None
        assert all(0 < job.chance_it_wins < 1 for job in others)
        assert answer.to_dict()["best"][1]["chance_it_wins"] == others[0].chance_it_wins
    assert all(job.chance_it_wins < 0.5 for job in median.best[1:])
    assert median.chosen_by is None
    times = [percentile_s(job.result, 90) for job in careful.best]
    assert times == sorted(times)
    assert [job.result.plan for job in careful.best] != [job.result.plan for job in median.best]
    assert careful.chosen_by.step_time_s == times[0]
    assert careful.to_dict()["chosen_by"]["percentile"] == 90
    console = Console(width=200, record=True, file=StringIO())
    console.print(planning_report(careful))
    text = console.export_text()
    assert "it wins" in text
    assert "chosen at percentile 90" in text
    assert "of predicted times only" in text


def test_percentiles_that_cannot_be_used_are_refused() -> None:
    question = {"sequence": 4096, "global_batch": 64}
    for wrong in (0, 100, float("nan")):
        with pytest.raises(InputError, match="above 0 and below 100"):
            plan_training("llama-3-8b", NODE, **question, percentile=wrong)
    bare = shipped_fit().model_copy(update={"intervals": {}})
    with pytest.raises(InputError, match="too few"):
        plan_training("llama-3-8b", NODE, **question, percentile=90, fit=bare)
