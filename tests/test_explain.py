"""Explanations of plans: closed forms equal the simulation, derivatives its finite differences, bars its time."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import sympy
from explained import MODELS, PLANS, explained, in_numbers, make_plan
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsim.core.errors import InputError
from llmsim.core.numeric import log2
from llmsim.core.symbolic import Symbolic
from llmsim.explain.critical_path import critical_path
from llmsim.explain.explain import explain_training
from llmsim.explain.quantities import QUANTITIES, simulated
from llmsim.explain.rates import change_rates, rates, scaled
from llmsim.explain.trees import Tree, evaluate, gradient, leaf, shared, to_sympy
from llmsim.explain.waterfall import rounded, waterfall
from llmsim.plans.precision import device_recipes
from llmsim.plans.rules import violations
from llmsim.training.longest_path import pipeline_seconds
from llmsim.training.problem import plan_columns, plan_problem
from llmsim.training.simulate import simulate_training


def valid(model, name):
    """Whether a model runs under a plan."""
    plan, architecture, cluster = make_plan(model, PLANS[name])
    return not violations(plan, architecture, cluster.n_devices)


CASES = [(model, name) for model in MODELS for name in PLANS if valid(model, name)]


# ---- closed forms


def test_every_model_and_every_plan_is_among_the_cases():
    assert {model for model, _ in CASES} == set(MODELS)
    assert {name for _, name in CASES} == set(PLANS)
    assert len(CASES) >= 75


@pytest.mark.parametrize(("model", "name"), CASES)
def test_every_quantity_equals_the_simulated_one(model, name):
    result, form, expected = explained(model, name)
    assert set(form.quantities) == set(expected) == set(QUANTITIES)
    for quantity, found in form.quantities.items():
        assert float(found) == pytest.approx(expected[quantity], rel=1e-11, abs=1e-12), quantity
    assert expected["step"] == pytest.approx(result.step_time_s, rel=1e-14)
    assert expected["memory"] == pytest.approx(result.device_bytes, rel=1e-14)


@pytest.mark.parametrize(("model", "name"), CASES[::4])
def test_expressions_have_the_values_of_their_definitions(model, name):
    """From degrees, sizes and rates alone, through SymPy."""
    _, form, expected = explained(model, name)
    for quantity, symbol in (("step", "T_step"), ("memory", "M"), ("tokens_per_s", "tokens_per_s")):
        found = form.table.evaluate(sympy.Symbol(symbol, positive=True))
        assert found == pytest.approx(expected[quantity], rel=1e-9), quantity


def test_definitions_use_only_those_in_front_of_them():
    _, form, _ = explained("deepseek-v3", "interleaved")
    before: set[str] = set()
    for definition in form.table.definitions.values():
        assert set(definition.uses) <= before
        before.add(definition.name)
        assert (definition.tree is None) == (not definition.uses)


def test_a_textbook_pipeline():
    """1F1B with equal stages and a free hop takes m + p - 1 passes of each kind."""
    m, p = 12, 4
    passes = [[(Symbolic(leaf("F"), 1.0), Symbolic(leaf("B"), 2.0), 0.0)]] * p
    found = {own.time.expr.args[0]: own for own in critical_path("1f1b", passes, [0.0] * p, 0.0, m)}
    assert {name: (own.count, own.slope) for name, own in found.items()} == {"F": (m + p - 1, 1), "B": (m + p - 1, 1)}


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(["gpipe", "1f1b", "zb-h1", "interleaved", "zb-v"]),
    st.lists(st.floats(0.1, 3), min_size=9, max_size=9),
    st.integers(1, 3),
    st.floats(0, 0.5),
)
def test_the_critical_path_is_as_long_as_the_schedule(schedule, times, groups, hop):
    p, chunks = 3, 2 if schedule in ("interleaved", "zb-v") else 1
    numbers = [[(times[i], times[3 + i], times[6 + i] / 2)] * chunks for i in range(p)]
    count, split = groups * p, schedule.startswith("zb")
    forward = [[f for f, _, _ in row] for row in numbers]
    backward = [[b + (w if split else 0) for _, b, w in row] for row in numbers]
    weight = [[w for _, _, w in row] for row in numbers]
    expected = pipeline_seconds(schedule, forward, backward, count, hop, weight if split else None)
    named = [
        [tuple(Symbolic(leaf(f"{k}{i}"), t) for k, t in zip("FBW", row[0], strict=True))] * chunks
        for i, row in enumerate(numbers)
    ]
    if not split:
        named = [[(f, b, 0.0) for f, b, _ in row] for row in named]
    path = critical_path(schedule, named, [0.0] * p, Symbolic(leaf("hop"), hop) if hop else 0.0, count)
    assert sum(float(own.time) * own.count for own in path) == pytest.approx(expected, rel=1e-12)
    assert all(own.count >= 0 for own in path)


# ---- derivatives


@pytest.mark.parametrize("model", ["llama-3-8b", "gpt-3-175b", "mixtral-8x7b", "deepseek-v3", "nemotron-3-nano"])
@pytest.mark.parametrize("name", ["1f1b", "zero3", "interleaved"])
def test_derivatives_equal_finite_differences_of_the_simulation(model, name):
    if not valid(model, name):
        pytest.skip("the plan is not defined")
    result, problem, columns, constants = in_numbers(model, name)
    _, form, _ = explained(model, name)
    batch, step = result.plan.global_batch_size, 1e-5
    adjoints = form.table.adjoints(form.quantities["step"])
    chosen = sorted(
        (s for s in adjoints if s in rates()), key=lambda s: -abs(adjoints[s] * form.table.definitions[s].value)
    )
    for symbol in [*chosen[:5], "B_out", "tau_step"]:
        high, low = (
            simulated(problem, columns, scaled(constants, symbol, 1 + sign * step), batch)["step"] for sign in (1, -1)
        )
        value = form.table.definitions[symbol].value
        assert adjoints[symbol] * value == pytest.approx((high - low) / (2 * step), rel=1e-5, abs=1e-7), symbol


@pytest.mark.parametrize(("model", "name"), [("llama-3-8b", "1f1b"), ("mixtral-8x7b", "plain"), ("t5-base", "zero3")])
def test_sympy_differentiates_alike(model, name):
    _, form, _ = explained(model, name)
    adjoints = form.table.adjoints(form.quantities["step"])
    for symbol in ("B_mem", "B_out", "m", "s"):
        expression = form.table.derivative("T_step", symbol)
        assert form.table.evaluate(expression) == pytest.approx(adjoints[symbol], rel=1e-9)


def test_micro_batches_lengthen_a_step_by_the_slowest_stage():
    """One micro-batch more, with everything else as it is."""
    result, problem, columns, constants = in_numbers("llama-3-8b", "1f1b")
    _, form, _ = explained("llama-3-8b", "1f1b")
    more = plan_columns(
        result.plan.replace(global_batch_size=result.plan.global_batch_size + result.plan.data_parallel)
    )
    difference = (
        simulated(problem, more, constants, 1)["pipeline"] - simulated(problem, columns, constants, 1)["pipeline"]
    )
    assert form.table.adjoints(form.quantities["pipeline"])["m"] == pytest.approx(difference, rel=1e-9)


numbers = st.floats(0.1, 10)


@settings(deadline=None)
@given(numbers, numbers)
def test_trees_are_expressions(x, y):
    a, b = leaf("x"), leaf("y")
    tree = (a * 2 + b / 3 - a) ** 1.5 / (1 - -b) + 2**a + (a * b).log2()
    expression = to_sympy(tree)
    at = {sympy.Symbol("x", positive=True): x, sympy.Symbol("y", positive=True): y}
    assert evaluate(tree, {"x": x, "y": y}) == pytest.approx(float(expression.subs(at)), rel=1e-9)
    slopes = gradient(tree, {"x": x, "y": y})
    for symbol in at:
        assert slopes[symbol.name] == pytest.approx(float(sympy.diff(expression, symbol).subs(at)), rel=1e-9, abs=1e-9)


def test_trees_leave_out_nothing_and_one():
    a = leaf("a")
    assert (a * 0, 0 / a) == (0, 0)
    assert all(own is a for own in (a + 0, 0.0 + a, a - 0, a * 1, 1 * a, a / 1, a**1, (-a).__neg__()))
    common = a * 2 + 3
    assert shared(common / (common + 1), 3) == [common]
    assert isinstance(common / 2, Tree)


def test_symbols_with_trees_are_whole_numbers_and_have_logarithms():
    x = Symbolic(leaf("x"), 12)
    assert int(x) == 12
    half, over = x // 5, log2(x)
    assert (half.value, evaluate(half.expr, {"x": 12})) == (2, 2)
    assert (over.value, evaluate(over.expr, {"x": 12})) == (math.log2(12), math.log2(12))


def test_rates_are_one_by_one():
    _, _, _, constants = in_numbers("deepseek-v3", "plain")
    seen: dict[str, float] = {}
    change_rates(constants, seen.setdefault)
    assert set(seen) <= set(rates())
    assert seen["peak_8bit"] > 1.9 * seen["peak_16bit"]
    twice = scaled(constants, "peak_16bit", 2)
    assert (twice.attention_peak, twice.high.peak) == (2 * constants.attention_peak, 2 * constants.high.peak)
    assert twice.low == constants.low


# ---- the waterfall


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from(list(MODELS)),
    st.fixed_dictionaries(
        {
            "tensor_parallel": st.sampled_from([1, 2]),
            "pipeline_parallel": st.sampled_from([1, 2, 4]),
            "micro_batch_size": st.sampled_from([1, 2]),
            "global_batch_size": st.sampled_from([500, 512]),
            "recompute": st.sampled_from(["none", "selective", "full@1/2"]),
            "sharding": st.sampled_from(["ddp", "zero1"]),
            "precision": st.sampled_from(["bf16", "fp8-current"]),
            "imbalance": st.sampled_from([1.0, 1.3]),
        }
    ),
)
def test_bars_sum_to_the_step_and_to_the_mfu(model, changes):
    plan, architecture, cluster = make_plan(model, changes)
    runs = plan.precision in device_recipes(cluster.profile)
    if not runs or violations(plan, architecture, cluster.n_devices):
        return
    found = bars_of(plan, architecture, cluster)
    result = simulate_training(plan, architecture, cluster)
    assert sum(bar.seconds for bar in found) == pytest.approx(result.step_time_s, rel=1e-12)
    assert sum(bar.points for bar in found) == pytest.approx(100, rel=1e-12)
    assert found[0].points == pytest.approx(100 * result.mfu, rel=1e-12)
    parts = {bar.name: bar.seconds for bar in found}
    for name in ("tp", "ep", "host", "recompute", "bubble", "gradients", "optimizer", "fixed"):
        assert parts[name] == result.breakdown_s[name]
    assert all(parts[name] >= 0 for name in ("gemm", "grouped", "attention", "memory", "in_situ"))
    assert (parts["unfilled"] > 1e-9) == (plan.global_batch_size % (plan.micro_batch_size * plan.data_parallel) > 0)


def bars_of(plan, architecture, cluster):
    from llmsim.timing.step_constants import step_constants

    problem = plan_problem(architecture, cluster, plan)
    constants = step_constants(cluster, problem.structure)
    return waterfall(plan, problem, plan_columns(plan), constants, simulate_training(plan, architecture, cluster))


def test_what_a_bar_is_for():
    """A dense model counts causal attention at half of the square, and flash attention makes the scores once more."""
    bars = {bar.name: bar for bar in bars_of(*make_plan("llama-3-8b", {}))}
    assert bars["beyond_products"].seconds == pytest.approx(0, abs=1e-9)
    counted = 12 * 32 * 32 * 128 * 8192 / 2 * 512 * 8192 / 64 / 989e12  # 12 L a d s/2 FLOPs a token
    executed = counted * (2 + 5) / 6 * 8193 / 8192
    assert bars["beyond_attention"].seconds == pytest.approx(executed - counted, rel=1e-9)


@given(st.lists(st.floats(-5, 50), min_size=2, max_size=30), st.integers(0, 4))
def test_rounded_columns_sum_to_the_rounded_sum(values, digits):
    found = rounded(values, digits)
    assert round(sum(found), digits) == pytest.approx(round(sum(values), digits), abs=1.5 * 10.0**-digits * 1e-6 + 1e-9)
    assert found[0] == pytest.approx(round(values[0], digits), abs=1e-9)
    assert all(abs(own - value) <= 2 * 10.0**-digits for own, value in zip(found, values, strict=True))


# ---- levers and regimes


@pytest.fixture(scope="module")
def answer():
    return explain_training(*make_plan("llama-3-8b", {"pipeline_parallel": 4, "tensor_parallel": 2}))


def test_rates_are_simulated_again(answer):
    _, _, cluster = make_plan("llama-3-8b", {})
    for lever in answer.rates:
        assert lever.quantity == pytest.approx(answer.value * (1 + lever.change))
        # About as far as the slope says, and in its direction.
        assert lever.change == pytest.approx(lever.elasticity * (lever.factor - 1), rel=0.25, abs=1e-4)
        assert lever.change <= 1e-15, lever.symbol
        assert lever.meaning.startswith(rates()[lever.symbol].meaning)
    assert all(abs(a.change) >= abs(b.change) for a, b in pairwise(answer.rates))
    assert answer.rates[0].symbol == "peak_16bit"
    assert cluster.profile.peak_of("bf16") == answer.rates[0].value


def test_neighbours_are_valid_plans_with_one_change(answer):
    plan, architecture, cluster = make_plan("llama-3-8b", {"pipeline_parallel": 4, "tensor_parallel": 2})
    assert len(answer.neighbours) >= 10
    for own in answer.neighbours:
        other = plan.replace(**own.settings)
        assert not violations(other, architecture, cluster.n_devices)
        result = simulate_training(other, architecture, cluster)
        assert own.step_time_s == result.step_time_s
        assert own.fits == result.fits
        assert sum(own.difference_s.values()) == pytest.approx(result.step_time_s - answer.result.step_time_s, abs=1e-9)
        assert len(set(own.settings) - {"data_parallel", "recompute_layers"}) == 1
    assert "micro-batch 1 -> micro-batch 2" in [own.change for own in answer.neighbours]


def test_a_decision_turns_over_where_it_says(answer):
    (own,) = (d for d in answer.decisions if d.where == "slowest stage")
    assert own.function == "max"
    assert own.taken_value >= own.left_value
    assert own.left_value * own.factor == pytest.approx(own.taken_value, rel=1e-12)
    assert len(answer.decisions) >= 3
    assert [d.distance for d in answer.decisions] == sorted(d.distance for d in answer.decisions)
    for d in answer.decisions:
        assert (d.taken_value >= d.left_value) == (d.function == "max") or d.factor == 1
        assert d.share >= 0.001


def test_a_hidden_exchange_says_when_it_is_no_longer_hidden():
    plan, architecture, cluster = make_plan("llama-3-8b", {})
    found = explain_training(plan, architecture, cluster)
    (own,) = (d for d in found.decisions if d.name == "T_grad_0" and d.left == "B_A")
    assert own.taken == "phi_gradient*(X_grad_0_lat + X_grad_0_out/e_out)"
    assert own.function == "min"
    assert own.left_value == pytest.approx(found.result.stages[0].backward_s)
    assert own.left_value * own.factor == pytest.approx(own.taken_value)


def test_quantities_that_a_plan_does_not_have_are_plain_numbers():
    plan, architecture, cluster = make_plan("llama-3-8b", {})
    for quantity in ("hop", "bubble"):
        found = explain_training(plan, architecture, cluster, quantity=quantity)
        assert (found.value, found.definitions, found.rates, found.decisions) == (0.0, [], [], [])


def test_the_answer_is_ready_for_json(answer):
    import json

    data = json.loads(json.dumps(answer.to_dict(), allow_nan=False))
    assert data["schema"] == "llmsim.training-explanation/1"
    assert sum(bar["seconds"] for bar in data["waterfall"]) == pytest.approx(data["step_time_s"], rel=1e-12)
    assert data["value"] == pytest.approx(data["simulated"], rel=1e-12)
    assert data["definitions"][0]["symbol"] == "T_step"
    names = {d["symbol"] for d in data["definitions"]}
    for d in data["definitions"]:
        if d["formula"]:
            assert {
                s.name for s in sympy.sympify(d["formula"], locals={n: sympy.Symbol(n) for n in names}).free_symbols
            } <= names
    assert {"derivative", "elasticity", "change"} <= set(data["rates"][0])
    assert data["sizes"]["m"]["elasticity"] > 0


def test_derivatives_in_symbols(answer):
    expression = answer.derivative("tau_step")
    assert expression == 1
    with pytest.raises(InputError, match="symbol: 'tau_stp'"):
        answer.derivative("tau_stp")


def test_unknown_quantities_are_listed():
    plan, architecture, cluster = make_plan("llama-3-8b", {})
    with pytest.raises(InputError, match=r"quantity: 'stp' is unknown; allowed: backward, bubble, .*nearest: step"):
        explain_training(plan, architecture, cluster, quantity="stp")
