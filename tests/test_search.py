"""The search against brute force, its counts, its filters, and what it says of the plans that it returns."""

from __future__ import annotations

import re
from functools import cache
from io import StringIO
from itertools import product

import numpy as np
import pytest
from rich.console import Console

import llmsim.search.finalists as finalists_module
import llmsim.search.sweep as sweep_module
from llmsim.architecture import Architecture
from llmsim.core.errors import InfeasibleError, InputError
from llmsim.core.units import GIB
from llmsim.hardware.cluster import Cluster
from llmsim.plans.precision import default_precision
from llmsim.plans.rules import violations
from llmsim.plans.training import TrainingPlan
from llmsim.report.training import planning_report
from llmsim.search.answer import NearMiss
from llmsim.search.evaluate import space_evaluators
from llmsim.search.exact import exact_steps
from llmsim.search.hints import batch_hints, memory_hints
from llmsim.search.plan import plan_training
from llmsim.search.select import candidate_plan, kind_of, pareto
from llmsim.search.simplest import complexity
from llmsim.search.space import SearchSpace, divisors, enumerate_plans
from llmsim.search.sweep import evaluate_space
from llmsim.training.simulate import simulate_training

SMALL = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 6,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "tie_word_embeddings": False,
}  # fmt: skip
EXPERTS = {
    "model_type": "mixtral", "hidden_size": 2048, "intermediate_size": 4096, "num_hidden_layers": 6,
    "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 32000, "num_local_experts": 8,
    "num_experts_per_tok": 2,
}  # fmt: skip
DENSE, MOE = Architecture.from_config(SMALL), Architecture.from_config(EXPERTS)
NODE = Cluster(device="v100-sxm-16gb", nodes=1, devices_per_node=8, memory_headroom=0.04)
NODES = Cluster(device="v100-sxm-32gb", nodes=2, devices_per_node=4, memory_headroom=0.04)
QUESTION = {"sequence": 16384, "global_batch": 16}
FEW = {
    "tensor_parallel": (1, 2, 4),
    "pipeline_parallel": (1, 2),
    "virtual_pipeline": (1, 2),
    "context_parallel": (1, 2),
    "micro_batch_size": (1, 2),
    "recompute": ("none", "full@1/2", "full"),
}
CASES = {
    "dense": (DENSE, NODE, SearchSpace(**FEW, sharding=("zero1", "zero3"))),
    "ulysses": (
        DENSE,
        NODES,
        SearchSpace(
            **{**FEW, "recompute": ("full",)},
            context_kind=("ulysses", "all_gather"),
            sharding=("ddp", "zero2", "zero3", "hsdp"),
        ),
    ),
    "combined": (
        DENSE,
        NODE,
        SearchSpace(
            **{**FEW, "recompute": ("none", "full"), "context_parallel": (1, 4, 8)},
            context_kind=("ring", "ulysses+ring"),
            sharding=("zero1", "zero3"),
        ),
    ),
    "experts": (
        MOE,
        NODE,
        SearchSpace(
            **{**FEW, "recompute": ("none", "full"), "micro_batch_size": (1,)},
            expert_parallel=(1, 2, 8),
            expert_tensor_parallel=(1, 2),
        ),
    ),
}


def evaluated(architecture, cluster, space, *, sequence=16384, global_batch=16, slack=None, **fields):
    fields = {"precision": default_precision(cluster.profile), **fields}
    template = TrainingPlan(sequence_length=sequence, global_batch_size=global_batch, imbalance=1.1, **fields)
    table = enumerate_plans(architecture, cluster.n_devices, sequence, global_batch, space)
    evaluators = space_evaluators(architecture, cluster, template, table, space)
    found = evaluate_space(evaluators, space, slack=slack)
    return found, [candidate_plan(found, i, template) for i in range(len(found))]


def allowed_plans(architecture, cluster, space):
    """Every valid plan of a space, formed one by one with the rules of plans and those that the search adds."""
    values = space.model_dump()
    kinds = values["context_kind"] or ("ring", "ulysses")
    shardings = values["sharding"] or ("zero1", "zero3", "hsdp")
    names = ("tensor_parallel", "pipeline_parallel", "virtual_pipeline", "context_parallel", "micro_batch_size")
    names = (*names, "expert_parallel", "expert_tensor_parallel", "recompute")
    layers, found = len(architecture.layers), set()
    widths = values["expert_tensor_parallel"] or ((1, 2, 4) if architecture.has_experts else (1,))
    for choice in product(*(values[n] or (1,) if n != "expert_tensor_parallel" else widths for n in names)):
        one = dict(zip(names, choice, strict=True))
        tp, pp, chunks, cp = choice[:4]
        dp = cluster.n_devices // (tp * pp * cp)
        ranks, parts = dp * cp, pp * chunks
        if tp * pp * cp * dp != cluster.n_devices or (chunks > 1 and layers % parts and (layers + 2) % parts):
            continue
        if one["expert_tensor_parallel"] not in (values["expert_tensor_parallel"] or (1, tp)):
            continue
        ways = [(k, u) for k in kinds for u in ((2, 4) if k == "ulysses+ring" else (None,)) if u is None or u < cp]
        overlaps = ("profile", "tensor", "expert")
        for (kind, ulysses), sharding, together, overlap in product(
            ways[: 1 if cp == 1 else None], shardings, {True, False}, overlaps
        ):
            if overlap == "tensor" and not (together and 1 < tp <= cluster.domain):
                continue
            chunked = pp == 1 or chunks > 1
            if overlap == "expert" and not (one["expert_parallel"] > 1 and chunked and "full" not in one["recompute"]):
                continue
            if sharding in ("zero3", "hsdp") and (pp > 1 or ranks == 1):
                continue
            if sharding == "hsdp" and (ranks <= cluster.domain or ranks % cluster.domain):
                continue
            plan = TrainingPlan(
                sequence_length=16384,
                global_batch_size=16,
                data_parallel=dp,
                context_kind=kind,
                ulysses_parallel=ulysses,
                sharding=sharding,
                shard_group=cluster.domain if sharding == "hsdp" else None,
                sequence_parallel=together and tp > 1,
                schedule="interleaved" if chunks > 1 else "1f1b",
                imbalance=1.1,
                precision=default_precision(cluster.profile),
                overlap=overlap,
                **one,
            )
            uneven = chunks > 1 and plan.micro_batches % pp
            if not uneven and not violations(plan, architecture, cluster.n_devices):
                found.add(plan)
    return found


@cache
def brute_force(name):
    architecture, cluster, space = CASES[name]
    return {p: simulate_training(p, architecture, cluster) for p in allowed_plans(architecture, cluster, space)}


@pytest.mark.parametrize("name", CASES)
def test_the_columns_hold_every_valid_plan_once_with_its_own_numbers(name):
    architecture, cluster, space = CASES[name]
    found, plans = evaluated(architecture, cluster, space)
    singles = brute_force(name)
    assert len(plans) == len(set(plans))
    assert set(plans) == set(singles)
    for i, plan in enumerate(plans):
        single = singles[plan]
        assert found.device_bytes[i] == pytest.approx(single.device_bytes, rel=1e-9)
        assert found.fits[i] == single.fits == np.isfinite(found.step_s[i])
        if single.fits and plan.pipeline_parallel == 1:
            assert found.step_s[i] == pytest.approx(single.step_time_s, rel=1e-9)
        elif single.fits:  # the closed form is near, and a bound from below
            assert 0.9 < found.step_s[i] / single.step_time_s <= 1 + 1e-9
    assert 0.2 * len(found) < found.fits.sum() < len(found)


@pytest.mark.parametrize("name", CASES)
def test_the_winner_is_the_best_of_all(name):
    architecture, cluster, space = CASES[name]
    answer = plan_training(architecture, cluster, **QUESTION, imbalance=1.1, space=space, simpler_within=0)
    won = answer.best[0].result
    fitting = [r for r in brute_force(name).values() if r.fits]
    assert won.step_time_s == pytest.approx(min(r.step_time_s for r in fitting), rel=1e-9)
    same = next(r for r in fitting if r.plan == won.plan)
    assert (won.step_time_s, won.device_bytes) == (same.step_time_s, same.device_bytes)
    counts = answer.counts
    assert counts.evaluated == len(brute_force(name))
    assert counts.fitting == len(fitting)


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe", "interleaved"])
def test_columns_know_what_eager_stacks_free_in_layers_that_recompute(schedule):
    few = {**FEW, "sequence_parallel": (False,), "context_parallel": (1,), "micro_batch_size": (1,)}
    chunks = (2,) if schedule == "interleaved" else (1,)
    few |= {
        "schedule": (schedule,),
        "sharding": ("ddp", "zero1"),
        "pipeline_parallel": (2,),
        "virtual_pipeline": chunks,
    }
    found, plans = evaluated(DENSE, NODE, SearchSpace(**few), sequence=4096, framework="torch-eager")
    for i, plan in enumerate(plans):
        assert found.device_bytes[i] == pytest.approx(simulate_training(plan, DENSE, NODE).device_bytes, rel=1e-9)
    assert {p.recompute for p in plans} == set(few["recompute"])


@cache
def planned(**changes):
    question = {"sequence": 4096, "global_batch": 64, "tokens": 1e9, "top": 4}
    return plan_training("llama-3-8b", "1x8xh100-sxm-80gb", **(question | changes))


def test_counts_add_up():
    counts = planned().counts
    dropped = dict(counts.rejected)
    assert counts.evaluated == counts.fitting + dropped.pop("memory")
    assert counts.considered == counts.evaluated + sum(dropped.values())
    assert min(dropped.values()) > 0
    assert 0 < planned().preference.plans <= counts.fitting
    assert counts.bounded < counts.fitting
    assert len(planned().best) <= counts.simulated


def test_the_best_plans_differ_in_kind_and_come_in_order():
    results = [job.result for job in planned().best]
    assert len(results) == 4
    assert len({kind_of(r.plan) for r in results}) == 4
    assert [r.step_time_s for r in results[1:]] == sorted(r.step_time_s for r in results[1:])
    assert results[0].step_time_s <= 1.02 * results[1].step_time_s
    assert all(r.fits for r in results)
    alone = planned(top=1)
    assert len(alone.best) == 1
    assert alone.best[0].behind == []
    assert alone.best[0].result.plan == results[0].plan


def test_the_differences_sum_to_the_difference_of_the_steps():
    first = planned().best[0].result.step_time_s
    for job in planned().best[1:]:
        assert sum(d.seconds for d in job.behind) == pytest.approx(job.result.step_time_s - first, abs=1e-12)
    sizes = [abs(d.seconds) for d in planned().best[1].behind]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("within", [0.0, 0.02, 0.2])
def test_of_plans_about_as_fast_the_simplest_is_chosen(name, within):
    architecture, cluster, space = CASES[name]
    answer = plan_training(architecture, cluster, **QUESTION, imbalance=1.1, space=space, simpler_within=within)
    layers = len(architecture.layers)
    fitting = [r for r in brute_force(name).values() if r.fits]
    fastest = min(r.step_time_s for r in fitting)
    near = [r for r in fitting if r.step_time_s <= fastest * (1 + within)]
    least = min((complexity(r.plan, layers), r.step_time_s) for r in near)
    chosen = answer.best[0].result
    assert complexity(chosen.plan, layers) == least[0]
    assert chosen.step_time_s == pytest.approx(least[1], rel=1e-9)
    own = answer.preference
    assert own.step_time_s == pytest.approx(fastest, rel=1e-9)
    assert own.gain == pytest.approx(1 - fastest / chosen.step_time_s, abs=1e-9)
    assert answer.pareto[0].step_time_s == own.step_time_s


def test_the_order_of_simplicity_is_the_one_stated():
    plan = TrainingPlan(sequence_length=4096, global_batch_size=64, tensor_parallel=2, data_parallel=4)
    order = [
        plan,
        plan.replace(overlap="tensor"),
        plan.replace(precision="fp8-current"),
        plan.replace(offload_optimizer=1),
        plan.replace(context_parallel=2, data_parallel=2),
        plan.replace(context_parallel=2, data_parallel=2, context_kind="ulysses"),
        plan.replace(pipeline_parallel=2, data_parallel=2),
        plan.replace(pipeline_parallel=2, data_parallel=2, virtual_pipeline=2),
        plan.replace(pipeline_parallel=4, data_parallel=1),
        plan.replace(pipeline_parallel=2, data_parallel=2, layers_per_stage="balanced"),
        plan.replace(pipeline_parallel=2, context_parallel=2, data_parallel=1),
    ]
    assert [complexity(p, 32) for p in order] == sorted(complexity(p, 32) for p in order)
    assert len({complexity(p, 32) for p in order}) == len(order)


def test_shares_that_are_none_are_refused():
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match="from 0 to 1"):
            planned(simpler_within=wrong)
    with pytest.raises(InputError, match="this or a percentile"):
        planned(simpler_within=0.1, percentile=90)


@pytest.mark.parametrize(
    ("devices", "batch", "near"), [(384, 1024, 1152), (384, 96, None), (512, 7, None), (24, 64, 72), (96, 1000, 1008)]
)
def test_batches_that_odd_factors_of_the_devices_do_not_divide(devices, batch, near):
    hints = batch_hints(devices, batch)
    assert [f"a batch of {near:,} would" in hint for hint in hints] == ([] if near is None else [True])


def test_memory_that_would_save_much_is_hinted_at():
    plan, usual = TrainingPlan(sequence_length=8, global_batch_size=8), SearchSpace()
    near, slow = NearMiss(plan, 0.5, 3 * GIB), NearMiss(plan, 0.95, 3 * GIB)
    assert "3.00 GiB more would save 50 %" in memory_hints([near], 1.0, usual)[0]
    assert memory_hints([slow], 1.0, usual) == memory_hints([], 1.0, usual) == []
    assert memory_hints([near], 1.0, SearchSpace(offload_optimizer=(0, 1))) == []


def test_the_front_of_time_and_memory_holds_what_nothing_beats():
    found, _ = evaluated(*CASES["dense"])
    front = pareto(found, limit=10**6)
    assert found.step_s[front[0]] == found.step_s.min()
    for i in front:
        faster, smaller = found.step_s <= found.step_s[i], found.device_bytes <= found.device_bytes[i]
        strictly = (found.step_s < found.step_s[i]) | (found.device_bytes < found.device_bytes[i])
        assert not (faster & smaller & strictly & found.fits).any()
    assert min(found.device_bytes) == found.device_bytes[front[-1]]
    few = pareto(found, limit=3)
    assert (few[0], few[-1]) == (front[0], front[-1])
    assert len(few) == min(3, len(front))


def test_a_job_takes_its_steps():
    best = planned().best[0]
    assert best.job.steps == -(-(10**9) // (64 * 4096))
    assert best.job.days * 86_400 == pytest.approx(best.job.steps * best.result.step_time_s)
    assert planned(tokens=None).best[0].job is None


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("tensor_parallel", (2, 4)),
        ("pipeline_parallel", (2,)),
        ("virtual_pipeline", (2, 4)),
        ("context_parallel", (2,)),
        ("micro_batch_size", (2, 4)),
        ("recompute", ("full@1/2",)),
        ("sharding", ("ddp", "zero2")),
        ("context_kind", ("ulysses",)),
        ("sequence_parallel", (False,)),
        ("sequence_parallel", (True,)),
        ("expert_parallel", (2, 4)),
        ("expert_tensor_parallel", (2,)),
    ],
)
def test_filters_are_honoured(field, values):
    sparse = field.startswith("expert")
    _, plans = evaluated(MOE if sparse else DENSE, NODE, SearchSpace(**({"recompute": ("full",)} | {field: values})))
    silent = {  # a setting of a mechanism that a plan does not use says nothing
        "context_kind": lambda p: p.context_parallel == 1,
        "sequence_parallel": lambda p: p.tensor_parallel == 1,
    }.get(field, lambda p: False)
    assert {getattr(p, field) for p in plans if not silent(p)} == set(values)
    if field in ("context_kind", "sequence_parallel"):
        assert any(map(silent, plans))


def test_experts_run_without_sequence_parallelism_where_tensors_are_whole():
    _, plans = evaluated(MOE, NODE, SearchSpace(sequence_parallel=(False,)))
    assert {p.tensor_parallel for p in plans} == {1}


def test_odd_sequences_go_without_sequence_parallelism():
    space = SearchSpace(tensor_parallel=(2,))
    _, plans = evaluated(DENSE, NODE, space, sequence=4095)
    assert plans
    assert {p.sequence_parallel for p in plans} == {False}


def test_a_stack_that_shards_fully_runs_on_one_device():
    answer = plan_training("llama-3.2-1b", "1x1xtpu-v5p", sequence=2048, global_batch=8)
    assert answer.best[0].result.plan.sharding == "zero3"
    assert answer.assumed["framework"].startswith("maxtext")


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ({"tensor_parallel": (3,)}, ["tensor_parallel: 3", "heads or widths", "nearest: 2"]),
        ({"pipeline_parallel": (5,)}, ["pipeline_parallel: 5", "8 devices", "nearest: 4"]),
        ({"pipeline_parallel": (2,), "context_parallel": (8,)},
         ["pipeline_parallel: 2 leaves no plan with context_parallel [8]", "devices"]),
        ({"context_parallel": (3,)}, ["context_parallel: 3", "nearest: 2"]),
        ({"virtual_pipeline": (5,)}, ["virtual_pipeline: 5", "6 layers", "nearest: 1"]),
        ({"virtual_pipeline": (2,), "pipeline_parallel": (1,)}, ["virtual_pipeline: 2", "need a pipeline"]),
        ({"virtual_pipeline": (4,), "pipeline_parallel": (2,), "micro_batch_size": (16,)},
         ["virtual_pipeline: 4", "multiples of the stages", "nearest: 1"]),
        ({"micro_batch_size": (7,)}, ["micro_batch_size: 7", "16 sequences", "nearest: 8"]),
        ({"expert_parallel": (2,)}, ["expert_parallel: 2", "no experts", "nearest: 1"]),
        ({"expert_tensor_parallel": (2,)}, ["expert_tensor_parallel: 2", "no experts"]),
        ({"sharding": ("hsdp",)}, ["sharding", "hsdp", "leaves no plan", "8 devices"]),
        ({"sharding": ("zero3",), "pipeline_parallel": (2,)}, ["sharding", "zero3", "without a pipeline"]),
    ],
)  # fmt: skip
def test_an_empty_space_says_which_value_empties_it(filters, words):
    with pytest.raises(InputError) as error:
        evaluated(DENSE, NODE, SearchSpace(**filters))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("architecture", "filters", "words"),
    [
        (MOE, {"expert_parallel": (3,)}, ["expert_parallel: 3", "8 experts", "nearest: 2"]),
        (MOE, {"expert_tensor_parallel": (3,)}, ["expert_tensor_parallel: 3", "ranks of a stage"]),
        (MOE, {"sequence_parallel": (False,), "tensor_parallel": (2,)}, ["sequence_parallel", "experts"]),
        (Architecture.from_config({**SMALL, "num_key_value_heads": 4}),
         {"context_kind": ("ulysses",), "context_parallel": (8,)}, ["context_kind", "key/value heads"]),
    ],
)  # fmt: skip
def test_an_empty_space_of_other_models(architecture, filters, words):
    with pytest.raises(InputError) as error:
        evaluated(architecture, NODE, SearchSpace(**filters))
    for word in words:
        assert word in str(error.value)


def test_a_sharding_of_experts_that_does_not_divide_their_width_is_dropped():
    narrow = Architecture.from_config({**EXPERTS, "intermediate_size": 4098})
    _, plans = evaluated(narrow, NODE, SearchSpace(expert_tensor_parallel=(1, 2, 4), recompute=("full",)))
    assert {p.expert_tensor_parallel for p in plans} == {1, 2}


def test_a_batch_that_nothing_divides_names_the_nearest():
    space = SearchSpace(tensor_parallel=(1,), pipeline_parallel=(1,), context_parallel=(1,))
    with pytest.raises(InputError, match=r"global_batch: 33 .*multiples.* 8 or more; nearest: 32"):
        plan_training(DENSE, NODE, sequence=2048, global_batch=33, space=space)


def test_what_fits_nowhere_comes_with_the_nearest_miss():
    with pytest.raises(InfeasibleError) as error:
        plan_training("llama-3.1-70b", "1x2xh100-sxm-80gb", sequence=4096, global_batch=8)
    message = str(error.value)
    figures = re.search(r"needs ([\d.,]+) GiB .* may use ([\d.,]+) GiB, ([\d.,]+) GiB too much", message)
    needed, limit, over = (float(figure.replace(",", "")) for figure in figures.groups())
    assert needed == pytest.approx(limit + over, abs=0.02)
    assert limit < Cluster.parse("1x2xh100-sxm-80gb").profile.memory_bytes.value / GIB
    assert over > 0
    for word in ("llama-3.1-70b", "nearest miss is TP2", "optimizer", "plans that divide"):
        assert word in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sequence": 0}, "sequence: 0"),
        ({"sequence": 2048.0}, "sequence: 2048.0"),
        ({"sequence": True}, "sequence: True"),
        ({"sequence": float("nan")}, "sequence: nan"),
        ({"sequence": None}, "sequence: None"),
        ({"sequence": "2048.5"}, "sequence: '2048.5'"),
        ({"global_batch": -1}, "global_batch: -1"),
        ({"global_batch": 10**10}, "nearest: 1000000000"),
        ({"tokens": float("nan")}, "tokens: nan"),
        ({"tokens": float("inf")}, "tokens: inf"),
        ({"tokens": 0}, "tokens: 0"),
        ({"tokens": -1e9}, "tokens: -1"),
        ({"tokens": 1e300}, "up to 1e18"),
        ({"imbalance": 0.5}, "imbalance: 0.5"),
        ({"imbalance": float("nan")}, "imbalance: nan"),
        ({"precision": "nvfp5"}, "nearest: nvfp4"),
        ({"framework": "torchtitn"}, "torchtitan"),
        ({"network": "infiniband"}, "infiniband-ndr-400|infiniband-edr-100"),
        ({"price": -1}, "price_usd_per_device_hour: -1"),
        ({"price": float("nan")}, "price_usd_per_device_hour: nan"),
        ({"top": 0}, "top: 0"),
    ],
)  # fmt: skip
def test_values_that_cannot_be_used_are_refused(changes, words):
    with pytest.raises(InputError, match=words):
        planned(**changes)


def test_a_space_is_checked_when_it_is_made():
    for wrong in ({"tensor_parallel": (0,)}, {"tensor_parallel": ()}, {"tensor_parallel": (10**20,)}, {"tp": (1,)}):
        with pytest.raises(InputError):
            SearchSpace(**wrong)
    with pytest.raises(InputError, match="nearest: none"):
        SearchSpace(recompute=("nope",))


def test_what_was_not_said_is_listed():
    one = planned().assumed
    assert set(one) >= {"precision", "framework", "scale-up domain"}
    assert "routing" not in one
    assert "network" not in one  # one node needs none
    answer = plan_training(MOE, NODES, **QUESTION)
    assert {"network", "routing"} <= set(answer.assumed)
    said = plan_training(
        MOE, NODES, **QUESTION, network="ethernet-100-per-node", imbalance=1.2, framework="nemo", precision="fp16"
    )
    assert not {"network", "routing", "framework", "precision"} & set(said.assumed)
    assert "release" in planned(release="0.0-unheard-of").assumed


def test_a_cluster_of_millions_is_searched_in_columns():
    found, _ = evaluated(DENSE, Cluster.parse("8192x8xh100-sxm-80gb"), SearchSpace(recompute=("full",)),
                         global_batch=2**20)  # fmt: skip
    assert len(found) > 1000


def test_many_micro_batches_take_no_longer_to_simulate():
    answer = plan_training("llama-3-8b", "1x8xh100-sxm-80gb", sequence=2048, global_batch=10**9)
    assert answer.best[0].result.step_time_s > 0


def test_divisors():
    assert divisors(12) == [1, 2, 3, 4, 6, 12]
    assert divisors(36, 9) == [1, 2, 3, 4, 6, 9]
    assert divisors(1) == [1]


# --- what a search keeps, and what it proves --------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_a_pool_keeps_what_may_matter(name):
    architecture, cluster, space = CASES[name]
    every, plans = evaluated(architecture, cluster, space)
    pool, kept = evaluated(architecture, cluster, space, slack=0.02)
    assert pool.evaluated == every.evaluated == len(plans)
    assert pool.fitting == every.fitting == every.fits.sum()
    known = dict(zip(kept, pool.step_s, strict=True))
    numbers = dict(zip(plans, every.step_s, strict=True))
    assert all(numbers[plan] == seconds for plan, seconds in known.items())
    assert len(pool) < len(every)
    near = {plan for plan, seconds in numbers.items() if seconds <= 1.02 * every.step_s.min()}
    assert near <= set(kept)
    assert {plans[i] for i in pareto(every, limit=10**6)} <= set(kept)
    best: dict[object, float] = {}
    for plan, seconds in numbers.items():
        best[kind_of(plan)] = min(seconds, best.get(kind_of(plan), np.inf))
    for kind, seconds in best.items():
        if np.isfinite(seconds):
            assert min(known[p] for p in kept if kind_of(p) == kind) == seconds


def test_where_nothing_fits_a_pool_keeps_the_nearest_miss():
    space = SearchSpace(**{**FEW, "recompute": ("none",)})
    large, cluster = Architecture.from_config("llama-3-70b"), Cluster.parse("1x8xl40s-48gb")
    every, plans = evaluated(large, cluster, space, sequence=16384)
    pool, kept = evaluated(large, cluster, space, sequence=16384, slack=0.02)
    assert pool.fitting == 0
    assert kept == [plans[int(every.device_bytes.argmin())]]


@pytest.mark.parametrize("name", CASES)
def test_a_proven_winner_leaves_no_bound_below_it(name):
    architecture, cluster, space = CASES[name]
    answer = plan_training(architecture, cluster, **QUESTION, imbalance=1.1, space=space)
    assert answer.counts.proven
    assert answer.counts.bound_gap <= 0
    best = answer.preference.step_time_s
    assert all(r.step_time_s >= best for r in brute_force(name).values() if r.fits)


@pytest.mark.parametrize("name", CASES)
def test_exact_times_of_many_are_those_of_each(name):
    architecture, cluster, space = CASES[name]
    found, plans = evaluated(architecture, cluster, space)
    fitting = np.flatnonzero(found.fits)
    singles = brute_force(name)
    seconds = exact_steps(found, fitting)
    assert seconds == pytest.approx([singles[plans[i]].step_time_s for i in fitting], rel=1e-9)
    assert (found.step_s[fitting] <= seconds * (1 + 1e-9)).all()


def test_a_search_that_gives_up_says_how_far_it_may_be_off(monkeypatch):
    architecture, cluster, space = CASES["dense"]
    monkeypatch.setattr(finalists_module, "MOST_EXACT", 0)
    monkeypatch.setattr(
        finalists_module, "fastest_by_kind", lambda found, count, each: [int(found.step_s.argsort()[40])]
    )
    answer = plan_training(architecture, cluster, **QUESTION, imbalance=1.1, space=space)
    assert not answer.counts.proven
    assert answer.counts.bound_gap > 0
    console = Console(width=200, record=True, file=StringIO())
    console.print(planning_report(answer))
    assert "may be faster by up to" in console.export_text()


@pytest.mark.parametrize("name", CASES)
def test_several_processes_find_what_one_finds(name, monkeypatch):
    architecture, cluster, space = CASES[name]
    question = {**QUESTION, "imbalance": 1.1, "space": space}
    alone = plan_training(architecture, cluster, **question, cores=1)
    monkeypatch.setattr(sweep_module, "WORTH_A_PROCESS", 1)
    together = plan_training(architecture, cluster, **question, cores=3)
    assert [j.result.plan for j in together.best] == [j.result.plan for j in alone.best]
    assert together.pareto == alone.pareto
    counts, own = together.counts, alone.counts
    assert (counts.considered, counts.evaluated, counts.fitting) == (own.considered, own.evaluated, own.fitting)
    assert counts.proven
