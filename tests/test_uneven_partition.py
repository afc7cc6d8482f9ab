"""Uneven spreads of layers and recomputation: bounds that hold for all of them, and a search that proves the best."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache
from io import StringIO
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import llmsim.search.finalists as finalists_module
from llmsim.architecture import Architecture
from llmsim.core.errors import InfeasibleError
from llmsim.core.pipelines import SCHEDULES, schedule_facts
from llmsim.hardware.cluster import Cluster
from llmsim.hardware.profiles import build
from llmsim.plans.recompute import parse_recompute
from llmsim.plans.training import TrainingPlan
from llmsim.report.training import planning_report
from llmsim.search.evaluate import space_evaluators
from llmsim.search.plan import plan_training
from llmsim.search.select import candidate_plan
from llmsim.search.space import SearchSpace, enumerate_plans
from llmsim.search.sweep import evaluate_space
from llmsim.search.uneven_partition import Spreads, other_spreads
from llmsim.search.variants import space_variants
from llmsim.training.closed_forms import StageTimes, closed_form
from llmsim.training.longest_path import pipeline_seconds
from llmsim.training.orders import held, routes
from llmsim.training.simulate import simulate_training
from llmsim.training.uneven_partition import held_at_least, pipeline_at_least

EVERY = {"layers_per_stage": ("even", "balanced"), "recompute_layers": ("uniform", "fitted")}
SMALL = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 7,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
}  # fmt: skip
MIXED = {
    "model_type": "deepseek_v2", "hidden_size": 2048, "intermediate_size": 10944, "num_hidden_layers": 7,
    "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 32000, "moe_intermediate_size": 1408,
    "n_routed_experts": 16, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 2,
    "kv_lora_rank": 512, "q_lora_rank": None, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "n_group": 1, "topk_group": 1, "topk_method": "greedy", "norm_topk_prob": False, "routed_scaling_factor": 1.0,
    "tie_word_embeddings": False,
}  # fmt: skip
DENSE, TIED = Architecture.from_config(SMALL), Architecture.from_config({**SMALL, "tie_word_embeddings": True})
EXPERTS = Architecture.from_config(MIXED)


def tight(text: str, headroom: float) -> Cluster:
    """A cluster of whose memory a share stays free, so that some plans fit and others do not."""
    return build(Cluster, {**Cluster.parse(text).model_dump(), "memory_headroom": headroom}, "cluster")


LADDER = ("none", "selective:layernorm,mlp_act", "full@1/2", "full")


def question(architecture, cluster, *, framework="megatron-core", sequence=4096, global_batch=16, **space):
    chosen = SearchSpace(**{"recompute": LADDER, "tensor_parallel": (1, 2), "context_parallel": (1,), **EVERY, **space})
    template = TrainingPlan(
        sequence_length=sequence, global_batch_size=global_batch, framework=framework, imbalance=1.1,
        precision="fp16",
    )  # fmt: skip
    return architecture, cluster, template, chosen


ONE, TWO = "1x8xv100-sxm-16gb", "2x4xv100-sxm-16gb"
FEW, PLAIN = {"micro_batch_size": (1,)}, {"recompute": ("none", "full")}
CASES = {
    "dense": question(DENSE, tight(ONE, 0.3), micro_batch_size=(1, 2), global_batch=32, sequence=2048),
    "tied": question(TIED, tight(ONE, 0.2), **FEW, sharding=("zero1", "ddp", "zero2")),
    "experts": question(EXPERTS, tight(TWO, 0.5), **FEW, expert_parallel=(1, 2), virtual_pipeline=(1,)),
    "split": question(DENSE, tight(TWO, 0.2), schedule=("zb-h1", "interleaved-zb", "zb-v"), micro_batch_size=(1, 2)),
    "paired": question(EXPERTS, tight(TWO, 0.45), **FEW, schedule=("dualpipe", "dualpipe-v"), global_batch=64),
    "gpipe": question(DENSE, tight(TWO, 0.2), schedule=("gpipe", "1f1b"), micro_batch_size=(1, 4)),
    "eager": question(
        DENSE, tight("2x4xv100-sxm-32gb", 0.3), **FEW, **PLAIN, framework="torch-eager", sharding=("ddp", "zero1"),
        schedule=("1f1b", "gpipe", "interleaved"), sequence_parallel=(False,), tensor_parallel=(1,),
    ),
    "offload": question(
        DENSE, tight(ONE, 0.4), **PLAIN, offload_activations=(0.0, 0.5, 1.0), offload_optimizer=(0.0, 1.0),
        micro_batch_size=(2,),
    ),
}  # fmt: skip


@cache
def variants_of(name):
    architecture, cluster, template, space = CASES[name]
    sizes = architecture, cluster.n_devices, template.sequence_length, template.global_batch_size, space
    table = enumerate_plans(*sizes)
    evaluators = space_evaluators(architecture, cluster, template, table, space)
    return space_variants(evaluators, space, template.optimizer)


@cache
def bounds_of(name) -> tuple[Spreads, dict[tuple[int, int, int], float]]:
    """Everything that may fit under some spread, with its bound."""
    spreads = other_spreads(variants_of(name), CASES[name][3], np.inf)
    variant, setting, row, bound, _ = spreads.table()
    keys = zip(variant.tolist(), setting.tolist(), row.tolist(), strict=True)
    return spreads, dict(zip(keys, bound.tolist(), strict=True))


@cache
def entries_of(name) -> list[tuple[int, int, int]]:
    """Number of the variant, of the setting, and of the row of everything that may be spread."""
    spreads, _ = bounds_of(name)
    found = []
    for number, (variant, ways) in enumerate(zip(spreads.variants, spreads.ways, strict=True)):
        rows = [r for r in variant.rows.tolist() if variant.evaluator.table["pp"][r] > 1]
        found += [(number, setting, row) for setting in range(len(ways.settings)) for row in rows]
    return found


def drawn_spread(data, layers, parts):
    """Any layers of each part."""
    cuts = sorted(data.draw(st.lists(st.integers(0, layers), min_size=parts - 1, max_size=parts - 1)))
    return tuple(b - a for a, b in zip([0, *cuts], [*cuts, layers], strict=True))


def every_plan(architecture, cluster, template, space) -> Iterator[TrainingPlan]:
    """All plans of a space, formed one by one from the even ones."""
    usual = space.model_copy(update={"layers_per_stage": ("even",), "recompute_layers": ("uniform",)})
    sizes = architecture, cluster.n_devices, template.sequence_length, template.global_batch_size, usual
    evaluators = space_evaluators(architecture, cluster, template, enumerate_plans(*sizes), usual)
    found = evaluate_space(evaluators, usual, optimizer=template.optimizer)
    seen: dict[TrainingPlan, None] = {}
    for i in range(len(found)):
        plan = candidate_plan(found, i, template)
        if plan.pipeline_parallel == 1:
            seen[plan] = None
            continue
        setting = parse_recompute(plan.recompute)
        whole = "full" if setting.mode == "none" else str(replace(setting, layers=Fraction(1)))
        for layers in space.layers_per_stage:
            if "uniform" in space.recompute_layers:
                seen[plan.replace(layers_per_stage=layers)] = None
            possible = plan.schedule_name != "dualpipe" and not (plan.overlap == "expert" and whole == "full")
            if "fitted" in space.recompute_layers and possible:
                seen[plan.replace(layers_per_stage=layers, recompute=whole, recompute_layers="fitted")] = None
    yield from seen


@cache
def brute_force(name):
    """Every plan of a case simulated."""
    architecture, cluster, template, space = CASES[name]
    return {p: simulate_training(p, architecture, cluster) for p in every_plan(architecture, cluster, template, space)}


def search(architecture, cluster, template, space):
    return plan_training(
        architecture, cluster, sequence=template.sequence_length, global_batch=template.global_batch_size,
        precision=template.precision, framework=template.framework, imbalance=template.imbalance, space=space, cores=1,
        simpler_within=0,
    )  # fmt: skip


def searched(name, **update):
    *own, space = CASES[name]
    return search(*own, space.model_copy(update=update))


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_the_best_of_random_questions_is_found_and_proven(data):
    draw = data.draw
    sizes = {"num_hidden_layers": draw(st.integers(3, 12)), "vocab_size": draw(st.sampled_from([32000, 128256]))}
    own, text = draw(st.sampled_from([SMALL, MIXED])), draw(st.sampled_from([ONE, TWO, "1x8xa100-sxm-40gb"]))
    architecture = Architecture.from_config({**own, **sizes})
    schedules = draw(st.lists(st.sampled_from(SCHEDULES), min_size=1, max_size=2, unique=True))
    case = question(
        architecture, tight(text, draw(st.floats(0.05, 0.8))), global_batch=draw(st.sampled_from([16, 32])),
        tensor_parallel=(draw(st.sampled_from([1, 2])),), pipeline_parallel=(1, draw(st.sampled_from([2, 4]))),
        micro_batch_size=(draw(st.sampled_from([1, 2])),), schedule=("1f1b", *schedules), sequence_parallel=(True,),
        expert_parallel=(1,),
    )  # fmt: skip
    results = (simulate_training(p, *case[:2]) for p in every_plan(*case))
    best = min((r.step_time_s for r in results if r.fits), default=None)
    if best is None:
        with pytest.raises(InfeasibleError):
            search(*case)
        return
    answer = search(*case)
    assert answer.best[0].result.step_time_s == pytest.approx(best, rel=1e-9)
    assert answer.counts.proven


WAYS = [
    (("even", "balanced"), ("uniform", "fitted")),
    (("balanced",), ("uniform",)),
    (("even",), ("fitted",)),
    (("balanced",), ("fitted", "uniform")),
]


@pytest.mark.parametrize("ways", WAYS)
@pytest.mark.parametrize("name", CASES)
def test_the_search_finds_the_best_of_all_spreads(name, ways):
    layers, depths = ways

    def asked(plan: TrainingPlan) -> bool:
        alone = plan.pipeline_parallel == 1
        return alone or (plan.layers_per_stage in layers and plan.recompute_layers in depths)

    fitting = {p: r for p, r in brute_force(name).items() if r.fits and asked(p)}
    if not fitting:
        with pytest.raises(InfeasibleError):
            searched(name, layers_per_stage=layers, recompute_layers=depths)
        return
    answer = searched(name, layers_per_stage=layers, recompute_layers=depths)
    won = answer.best[0].result
    assert won.step_time_s == min(r.step_time_s for r in fitting.values())
    assert answer.counts.proven
    counts = answer.counts.spreads
    uneven = [p for p in brute_force(name) if p.pipeline_parallel > 1 and asked(p)]
    uneven = [p for p in uneven if not p.spreads_evenly]
    assert counts.plans == len(uneven) == counts.too_large + counts.bounded + counts.simulated + counts.left
    assert counts.left == 0
    assert counts.fitting <= counts.simulated


def layers_of(plan: TrainingPlan) -> list[int]:
    """Layers that each stage of a plan with a layout holds."""
    found = [0] * plan.pipeline_parallel
    for way in routes(plan.schedule_name, plan.pipeline_parallel, plan.virtual_pipeline):
        for layers, (device, _) in zip(plan.layers_per_stage, way, strict=True):
            found[device] += layers
    return found


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_spread_is_faster_than_the_bound(name, data):
    """Any layers of each part and, where they are fitted, any depths that fit."""
    architecture, cluster, template, _ = CASES[name]
    spreads, bounds = bounds_of(name)
    entry = data.draw(st.sampled_from(entries_of(name)))
    plans = list(spreads.expanded(*entry, template))
    plan = data.draw(st.sampled_from(plans))
    if data.draw(st.booleans()):
        parts = plan.pipeline_parallel * plan.virtual_pipeline
        layout = drawn_spread(data, len(architecture.layers), parts)
        plan = plan.replace(layers_per_stage=layout)
        if plan.recompute_layers != "uniform" and data.draw(st.booleans()):
            most = simulate_training(
                plan.replace(recompute_layers="fitted"), architecture, cluster
            ).plan.recompute_layers
            plan = plan.replace(recompute_layers=most)
    result = simulate_training(plan, architecture, cluster)
    if result.fits:
        assert bounds[entry] <= result.step_time_s
    if entry not in bounds:
        assert not result.fits


@given(
    st.sampled_from(["gpipe", "1f1b", "interleaved", "zb-h1", "zb-v"]), st.integers(2, 5), st.integers(1, 12), st.data()
)
def test_sums_and_the_slowest_bound_the_longest_path(schedule, pp, m, data):
    facts = schedule_facts(schedule)
    chunks = {"one": 1, "two": 2, "several": data.draw(st.integers(2, 3))}[facts.chunks]
    times = st.lists(st.lists(st.floats(0, 10), min_size=chunks, max_size=chunks), min_size=pp, max_size=pp)
    forward, backward = data.draw(times), data.draw(times)
    weight = [[w * data.draw(st.floats(0, 1)) for w in own] for own in backward] if facts.split else None
    devices = [sum(f) + sum(b) for f, b in zip(forward, backward, strict=True)]
    if facts.chunks == "several":  # in groups of micro-batches, as many as stages
        m *= pp
    exact = pipeline_seconds(schedule, forward, backward, m, 0.0, weight)
    assert pipeline_at_least(schedule, max(devices), sum(devices), m, pp) <= exact * (1 + 1e-9)
    assert pipeline_at_least(schedule, 0.0, sum(devices), m, pp) <= exact * (1 + 1e-9)


def test_falling_stages_reach_the_bound_of_1f1b():
    """Times that fall by 1 - 1/m from stage to stage: no other spread of the same work has a lower closed form."""
    pp, m = 4, 8
    devices = [(1 - 1 / m) ** i for i in range(pp)]
    reached = closed_form("1f1b", StageTimes(devices, [0.0] * pp, [1] * pp), m, pp, 1, 0.0)
    assert pipeline_at_least("1f1b", 0.0, sum(devices), m, pp) == pytest.approx(reached)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_devices_hold_at_least_what_they_forward_first(schedule):
    facts = schedule_facts(schedule)
    for pp in (2, 4, 6):
        for chunks in {"one": (1,), "two": (2,), "several": (2, 3)}[facts.chunks]:
            for m in range(1, 4 * pp + 1):
                whole = (facts.paired and m < 2 * pp) or (facts.shape == "both" and m % 2)
                if whole or (facts.chunks == "several" and m % pp):
                    continue
                share = 1 / chunks if facts.shape == "loop" else 0.5
                for rank in range(pp):
                    most = max(plain for plain, _ in held(schedule, rank, pp, chunks, m)) * share
                    assert 0.5 * most <= held_at_least(schedule, rank, pp, chunks, m) <= most * (1 + 1e-12)


@pytest.mark.parametrize(
    ("headroom", "fits"),
    [
        (0.4, {("even", "uniform"), ("balanced", "uniform"), ("even", "fitted"), ("balanced", "fitted")}),
        (
            0.45,
            {("balanced", "uniform"), ("balanced", "fitted")},
        ),  # two layers beside an end are too many
        (0.5, set()),
    ],
)
def test_plans_that_fit_only_where_layers_or_depths_are_uneven_are_found(headroom, fits):
    cluster, found = tight(ONE, headroom), {}
    shape = {
        "pipeline_parallel": (4,),
        "tensor_parallel": (2,),
        "virtual_pipeline": (1,),
        "recompute": ("none", "full"),
    }
    for layers, depths in product(("even", "balanced"), ("uniform", "fitted")):
        space = SearchSpace(**shape, layers_per_stage=(layers,), recompute_layers=(depths,))
        question = {"sequence": 4096, "global_batch": 32, "precision": "fp16", "space": space, "simpler_within": 0}
        try:
            found[layers, depths] = plan_training(DENSE, cluster, **question).best[0].result
        except InfeasibleError as error:
            assert "nearest miss" in str(error)  # noqa: PT017
    assert set(found) == fits
    if found:
        every = SearchSpace(**shape, **EVERY)
        question = {"sequence": 4096, "global_batch": 32, "precision": "fp16", "space": every, "simpler_within": 0}
        best = plan_training(DENSE, cluster, **question)
        assert best.counts.proven
        assert best.best[0].result.step_time_s == min(r.step_time_s for r in found.values())
        assert best.best[0].result.plan.layers_per_stage != "even"


def test_a_search_that_simulates_too_few_says_how_far_it_may_be_off(monkeypatch):
    def under(headroom):
        space = SearchSpace(pipeline_parallel=(4,), tensor_parallel=(2,), virtual_pipeline=(1,), **PLAIN, **EVERY)
        question = {"sequence": 4096, "global_batch": 32, "precision": "fp16", "space": space, "simpler_within": 0}
        return plan_training(DENSE, tight(ONE, headroom), **question)

    best = under(0.4).best[0].result.step_time_s
    monkeypatch.setattr(finalists_module, "MOST_SPREADS", 0)
    answer = under(0.4)
    counts = answer.counts
    assert not counts.proven
    assert counts.spreads.left > 0
    assert answer.best[0].result.step_time_s / (1 + counts.bound_gap) <= best
    console = Console(width=200, record=True, file=StringIO())
    console.print(planning_report(answer))
    text = console.export_text()
    assert "may be faster by up to" in text
    assert "not looked at" in text
    with pytest.raises(InfeasibleError, match=r"spread .* unevenly were not looked at"):
        under(0.45)
