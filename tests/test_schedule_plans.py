"""Plans with schedules of all kinds: simulation, memory, search, what is refused, and how layers are spread."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import sympy
from core_cases import CLASSES, LAYERS, kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Symbol

from llmsim.architecture import Architecture
from llmsim.core.errors import InputError
from llmsim.core.formats import get_format
from llmsim.core.pipelines import SCHEDULES, schedule_facts
from llmsim.core.saved import weight_operands
from llmsim.core.sharding import mesh_sharding
from llmsim.core.symbolic import symbol
from llmsim.core.terms import Sizes
from llmsim.hardware.cluster import Cluster
from llmsim.hardware.profiles import build
from llmsim.plans.rules import violations
from llmsim.plans.training import TrainingPlan
from llmsim.search.evaluate import space_evaluators
from llmsim.search.plan import plan_training
from llmsim.search.select import candidate_plan
from llmsim.search.space import SearchSpace, enumerate_plans
from llmsim.search.sweep import evaluate_space
from llmsim.timing.step_constants import step_constants
from llmsim.training.balance import split_layers, spread_layers
from llmsim.training.build_load import build_load
from llmsim.training.compose import STEP_PARTS, compose_step
from llmsim.training.orders import routes
from llmsim.training.problem import plan_columns, plan_problem
from llmsim.training.simulate import simulate_training

LLAMA, MIXTRAL = (Architecture.from_config(name) for name in ("llama-3-8b", "mixtral-8x7b"))
CLUSTER = Cluster.parse("8x8xh100-sxm-80gb")
SPLIT = [s for s in SCHEDULES if schedule_facts(s).split]
CHUNKS = {"one": 1, "two": 2, "several": 2}


def plan(schedule="1f1b", **changes):
    base = {
        "sequence_length": 4096,
        "global_batch_size": 256,
        "tensor_parallel": 2,
        "pipeline_parallel": 4,
        "data_parallel": 8,
        "schedule": schedule,
        "virtual_pipeline": CHUNKS[schedule_facts(schedule).chunks],
    }
    return TrainingPlan(**(base | changes))


def step(schedule="1f1b", model=LLAMA, **changes):
    return simulate_training(plan(schedule, **changes), model, CLUSTER)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("model", [LLAMA, MIXTRAL], ids=["dense", "experts"])
def test_parts_sum_to_the_step(schedule, recompute, model):
    experts = {"expert_parallel": 8} if model is MIXTRAL else {}
    result = step(schedule, model, recompute=recompute, **experts)
    assert set(result.breakdown_s) == set(STEP_PARTS)
    assert sum(result.breakdown_s.values()) == pytest.approx(result.step_time_s)
    assert min(result.breakdown_s.values()) >= 0
    assert sum(s.repeats for s in result.stages) == 4
    copies = schedule_facts(schedule).copies
    assert sum(s.repeats * sum(s.layers.values()) for s in result.stages) == copies * (32 + 2)


@pytest.mark.parametrize("schedule", SPLIT)
def test_without_a_pipeline_a_schedule_changes_no_time(schedule):
    if schedule == "dualpipe" or schedule_facts(schedule).chunks != "one":
        return
    alone = {"pipeline_parallel": 1, "data_parallel": 32}
    assert step(schedule, **alone).step_time_s == pytest.approx(step(**alone).step_time_s, rel=1e-12)


def test_no_schedule_is_free():
    """What is faster than 1F1B takes more memory on some device."""
    plain = step(recompute="full")
    for schedule in SPLIT:
        other = step(schedule, recompute="full")
        assert other.step_time_s < plain.step_time_s
        assert other.device_bytes > plain.device_bytes


def test_dualpipe_holds_two_copies():
    plain, both = step().stages[1], step("dualpipe").stages[1]
    for part in ("parameters", "gradients"):
        assert both.memory_bytes[part] == pytest.approx(2 * plain.memory_bytes[part])
    assert both.memory_bytes["optimizer"] == pytest.approx(plain.memory_bytes["optimizer"])
    apart = step(sharding="ddp").stages[1], step("dualpipe", sharding="ddp").stages[1]
    assert apart[1].memory_bytes["optimizer"] == pytest.approx(2 * apart[0].memory_bytes["optimizer"])


def test_what_weights_wait_for():
    """32 sbh bytes of a GPT layer: inputs of 14 sbh, gradients of 18 sbh (Qi 2023, arXiv:2401.10241, table 1)."""
    s, b, h, a = (Symbol(n, positive=True) for n in "sbha")
    dims = {"batch": b, "sequence": s, "hidden": h, "heads": a, "kv_heads": a, "head_dim": h / a, "ffn": 4 * h}
    sizes = Sizes(dims, {}, {name: get_format(f) for name, f in CLASSES.items()})
    terms = weight_operands(
        LAYERS["gpt"], mesh_sharding(sequence_parallel=False), kernels((("q", "k", "v"),)), formats=CLASSES
    )
    assert sympy.simplify(sizes.size(terms) - 32 * s * b * h) == 0


@pytest.mark.parametrize("schedule", SPLIT)
def test_one_formula_for_numbers_and_symbols(schedule):
    one = plan(schedule)
    problem, numbers = plan_problem(LLAMA, CLUSTER, one), plan_columns(one)
    constants = step_constants(CLUSTER, problem.structure)
    symbols = {name: symbol(name, getattr(numbers, name)) for name in ("sequence", "micro_batches", "tp", "dp")}

    def seconds(columns):
        return compose_step(build_load(problem, columns, constants).load, constants).seconds

    single, closed = seconds(numbers), seconds(replace(numbers, **symbols))
    assert closed.value == pytest.approx(float(single), rel=1e-12)
    assert float(closed.expr.xreplace({s.expr: s.value for s in symbols.values()})) == pytest.approx(float(single))
    assert step(schedule).step_time_s >= float(single) * (1 - 1e-9)


def test_pairs_hide_expert_transfers():
    model, experts = MIXTRAL, {"expert_parallel": 8, "global_batch_size": 512}
    hidden, bare = (step("dualpipe", model, **experts, overlap=o) for o in ("profile", "none"))
    plain = step("1f1b", model, **experts)
    assert hidden.breakdown_s["ep"] < bare.breakdown_s["ep"]
    assert hidden.breakdown_s["ep"] < plain.breakdown_s["ep"]


@pytest.mark.parametrize(
    ("schedule", "changes", "words"),
    [
        ("dualpipe", {"pipeline_parallel": 5, "data_parallel": 8}, ["even number of stages, not 5", "nearest: zb-h1"]),
        ("dualpipe", {"global_batch_size": 72}, ["even number of micro-batches, not 9"]),
        ("dualpipe", {"global_batch_size": 48}, ["at least 8 micro-batches", "not 6", "nearest: zb-h1"]),
        ("dualpipe-v", {"global_batch_size": 56}, ["at least 8 micro-batches", "nearest: zb-v"]),
        ("interleaved-zb", {"global_batch_size": 72}, ["multiples of the 4 stages, not 9"]),
        ("zb-h1", {"sharding": "zero3"}, ["fully sharded parameters with zb-h1", "allowed: 1f1b or gpipe"]),
        ("1f1b", {"layers_per_stage": (8, 8, 16)}, ["layers_per_stage: 3 numbers for 4 parts"]),
        ("1f1b", {"layers_per_stage": (8, 8, 8, 9)}, ["layers_per_stage: 33 layers in all; allowed: 32"]),
    ],
)
def test_what_a_schedule_cannot_run_is_refused_by_name(schedule, changes, words):
    text = "; ".join(violations(plan(schedule, **changes), LLAMA))
    for word in words:
        assert word in text
    with pytest.raises(InputError, match="is invalid"):
        simulate_training(plan(schedule, **changes), LLAMA, CLUSTER)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"schedule": "zbv"}, "nearest: zb-v"),
        ({"schedule": "zb-v", "virtual_pipeline": 1}, "two chunks per stage"),
        ({"schedule": "zb-v", "virtual_pipeline": 3}, "two chunks per stage"),
        ({"schedule": "interleaved-zb"}, "2 or more: interleaved-zb runs several chunks"),
        ({"schedule": "dualpipe", "virtual_pipeline": 2}, "1: schedule dualpipe runs one chunk"),
        ({"layers_per_stage": "evn"}, "layers_per_stage"),
        ({"layers_per_stage": [-1, 33]}, "layers_per_stage"),
    ],
)
def test_what_no_plan_can_say(fields, words):
    with pytest.raises(InputError, match=words):
        build(TrainingPlan, {"sequence_length": 4096, "global_batch_size": 8, **fields}, "plan")


def test_a_schedule_that_the_framework_lacks_is_listed():
    assert "zb-h1 as if megatron-core had it" in step("zb-h1").assumed["schedule"]
    assert "schedule" not in step("1f1b").assumed
    titan = {"framework": "torchtitan", "sharding": "ddp"}
    assert "schedule" not in step("zb-v", **titan).assumed
    assert "schedule" in step("dualpipe", **titan).assumed


# --- search -----------------------------------------------------------------------------------------------------------

SMALL = Architecture.from_config(
    {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 8,
     "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "tie_word_embeddings": False}
)  # fmt: skip
NODE = Cluster.parse("1x8xh100-sxm-80gb")
FEW = {"tensor_parallel": (1, 2), "context_parallel": (1,), "micro_batch_size": (1, 2), "recompute": ("none", "full")}


def evaluated(space, global_batch=32):
    template = TrainingPlan(sequence_length=8192, global_batch_size=global_batch, imbalance=1.0)
    table = enumerate_plans(SMALL, 8, 8192, global_batch, space)
    found = evaluate_space(space_evaluators(SMALL, NODE, template, table, space), space)
    return found, [candidate_plan(found, i, template) for i in range(len(found))]


def test_columns_hold_every_valid_plan_once_with_its_own_numbers():
    shape = {"pipeline_parallel": (1, 2, 4), "virtual_pipeline": (1, 2)}
    found, plans = evaluated(SearchSpace(**FEW, **shape, schedule=SCHEDULES, sharding=("zero1",), overlap=("profile",)))
    allowed = set()
    for tp, pp, v, mb, again, name, sharding, sp in product(
        (1, 2), (1, 2, 4), (1, 2), (1, 2), ("none", "full"), SCHEDULES, ("zero1",), (True, False)
    ):
        if not schedule_facts(name).takes(v) or (pp == 1) > (name == "1f1b") or sp > (tp > 1):
            continue
        one = TrainingPlan(
            sequence_length=8192, global_batch_size=32, tensor_parallel=tp, pipeline_parallel=pp, virtual_pipeline=v,
            micro_batch_size=mb, data_parallel=8 // tp // pp, recompute=again, schedule=name, sharding=sharding,
            sequence_parallel=sp, imbalance=1.0,
        )  # fmt: skip
        uneven = schedule_facts(name).chunks == "several" and one.micro_batches % pp
        if not uneven and not violations(one, SMALL, 8):
            allowed.add(one)
    assert len(plans) == len(set(plans))
    assert set(plans) == allowed
    assert {p.schedule for p in plans} == set(SCHEDULES)
    for i, one in enumerate(plans):
        single = simulate_training(one, SMALL, NODE)
        assert found.device_bytes[i] == pytest.approx(single.device_bytes, rel=1e-9)
        assert found.fits[i] == single.fits == np.isfinite(found.step_s[i])
        if single.fits and one.schedule != "interleaved":
            assert 0.8 < found.step_s[i] / single.step_time_s <= 1 + 1e-9


def test_schedules_are_a_filter():
    for names in (("zb-v",), ("dualpipe", "zb-h1"), ("1f1b",)):
        _, plans = evaluated(SearchSpace(**FEW, schedule=names))
        assert {p.schedule for p in plans if p.pipeline_parallel > 1} == set(names)
    usual = evaluated(SearchSpace(**FEW))[1]
    assert {p.schedule for p in usual} == {"1f1b", "interleaved"}
    assert set(usual) == set(evaluated(SearchSpace(**FEW, schedule=("interleaved", "1f1b")))[1])


def test_a_v_goes_without_multiples_of_the_stages():
    space = SearchSpace(**FEW, pipeline_parallel=(4,), virtual_pipeline=(2,), schedule=("zb-v", "interleaved"))
    plans = evaluated(space, global_batch=36)[1]
    assert plans
    assert all(p.schedule == "zb-v" or p.micro_batches % 4 == 0 for p in plans)
    assert any(p.micro_batches % 4 for p in plans)


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ({"schedule": ("dualpipe",), "pipeline_parallel": (4,), "micro_batch_size": (16,)},
         ["schedule", "dualpipe", "two micro-batches a stage", "nearest: 1f1b"]),
        ({"schedule": ("zb-v",), "pipeline_parallel": (2,), "virtual_pipeline": (1,)},
         ["schedule", "zb-v", "leaves no plan"]),
    ],
)  # fmt: skip
def test_a_schedule_that_empties_the_space_is_named(filters, words):
    with pytest.raises(InputError) as error:
        evaluated(SearchSpace(**filters))
    for word in words:
        assert word in str(error.value)


def test_an_unknown_schedule_is_refused_with_its_neighbours():
    with pytest.raises(InputError, match="nearest: dualpipe"):
        build(SearchSpace, {"schedule": ("dualpip",)}, "")


def test_finalists_are_tried_with_balanced_layers():
    question = {"sequence": 4096, "global_batch": 64}
    shape = {"pipeline_parallel": (4,), "tensor_parallel": (2,), "schedule": ("1f1b",)}
    even, both, only = (
        plan_training("llama-3-8b", NODE, **question, space=SearchSpace(**shape, layers_per_stage=spreads)).best[0]
        for spreads in (("even",), ("even", "balanced"), ("balanced",))
    )
    assert both.result.step_time_s < even.result.step_time_s
    assert both.result.step_time_s == only.result.step_time_s
    assert sum(both.result.plan.layers_per_stage) == 32
    assert simulate_training(both.result.plan, LLAMA, NODE).step_time_s == both.result.step_time_s


# --- layers over stages -----------------------------------------------------------------------------------------------


def compositions(total, parts):
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        yield from ((first, *rest) for rest in compositions(total - first, parts - 1))


def loads(counts, layers, first, last, owners):
    bounds = np.concatenate([[0], np.cumsum(counts)])
    sums = np.concatenate([[0.0], np.cumsum(layers)])
    parts = sums[bounds[1:]] - sums[bounds[:-1]]
    parts[0] += first
    parts[-1] += last
    return sum(np.bincount(way, parts) for way in owners)


def inner(counts):
    return all(counts[1:-1])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.1, 3), min_size=4, max_size=8), st.floats(0, 4), st.floats(0, 4), st.integers(2, 4))
def test_the_split_is_the_best_of_all(layers, first, last, parts):
    found = split_layers(layers, first, last, parts)
    owners = [list(range(parts))]
    assert sum(found) == len(layers)
    best = min(loads(c, layers, first, last, owners).max() for c in compositions(len(layers), parts) if inner(c))
    assert loads(found, layers, first, last, owners).max() == pytest.approx(best)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.1, 3), st.floats(0, 4), st.floats(0, 4), st.sampled_from(["interleaved", "zb-v", "dualpipe"]))
def test_several_parts_a_device_are_balanced_together(layer, first, last, schedule):
    ways = routes(schedule, 4 if schedule == "dualpipe" else 2, 2)
    owners = [[device for device, _ in way] for way in ways]
    found = spread_layers([layer] * 8, first, last, ways, (2, 2, 2, 2))
    best = min(loads(c, [layer] * 8, first, last, owners).max() for c in compositions(8, 4) if inner(c))
    assert sum(found) == 8
    assert loads(found, [layer] * 8, first, last, owners).max() == pytest.approx(best)


def test_a_split_keeps_to_what_fits():
    found = split_layers([1.0] * 8, 0.0, 4.0, 2, lambda part, a, b: b - a <= (5 if part == 0 else 8))
    assert found == (5, 3)
    assert split_layers([1.0] * 8, 0.0, 4.0, 2, lambda part, a, b: b - a <= 3) is None


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_balanced_layers_make_the_slowest_stage_faster(schedule):
    even, balanced = step(schedule), step(schedule, layers_per_stage="balanced")
    slowest = [max(s.forward_s + s.backward_s for s in r.stages) for r in (even, balanced)]
    assert slowest[1] < slowest[0]
    assert balanced.step_time_s < even.step_time_s
    written = balanced.plan.layers_per_stage
    assert isinstance(written, tuple)
    assert step(schedule, layers_per_stage=written).step_time_s == balanced.step_time_s


def test_even_layers_may_be_written_out():
    assert step(layers_per_stage=(8, 8, 8, 8)).step_time_s == step().step_time_s
    assert step(layers_per_stage="even") == step()
