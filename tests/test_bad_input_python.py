"""Wrong arguments of public functions: an error of ours that names them, whatever they are."""

from __future__ import annotations

import math
import pickle
from datetime import date
from pathlib import Path

import numpy as np
import pytest

import llmsim
from llmsim import (
    Architecture,
    Cluster,
    InfeasibleError,
    InputError,
    LlmsimError,
    SearchSpace,
    TrainingPlan,
    UnsupportedError,
    calibrate_with,
    compare,
    explain_training,
    plan_cluster,
    plan_training,
    simulate_training,
    validate,
)
from llmsim.cli.shell import _described

MODEL, CLUSTER = "llama-3.2-1b", "1x8xh100-sxm-80gb"
STEP = {"sequence_length": 2048, "global_batch_size": 32, "data_parallel": 8}
JOB = {"sequence": 2048, "global_batch": 32}
ANYTHING = (
    b"bytes",
    3.5,
    object(),
    [],
    {},
    {1},
    date(2026, 1, 1),
    lambda: None,
    True,
    math.nan,
    10**400,
    "\udc80",
    "a\0b",
)


def named(words, call, *arguments, **changes):
    """An error of ours with these words, in one line."""
    with pytest.raises(LlmsimError) as error:
        call(*arguments, **changes)
    for word in [words] if isinstance(words, str) else words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, ["sequence_length", "is missing"]),
        ({"sequence_length": 2048}, ["global_batch_size", "is missing"]),
        ({**STEP, "tensor_paralel": 2}, ["tensor_paralel", "nearest: tensor_parallel"]),
        ({**STEP, "sequence_length": "long"}, ["sequence_length: 'long'", "8k"]),
        ({**STEP, "sequence_length": 0}, ["sequence_length: 0", "nearest: 1"]),
        ({**STEP, "sequence_length": "9" * 5000}, "sequence_length"),
        ({**STEP, "global_batch_size": "1.5"}, ["global_batch_size: '1.5'", "nearest: 2"]),
        ({**STEP, "global_batch_size": 1.5}, "global_batch_size: 1.5"),
        ({**STEP, "micro_batch_size": True}, "micro_batch_size: True"),
        ({**STEP, "tensor_parallel": math.nan}, "tensor_parallel: nan"),
        ({**STEP, "tensor_parallel": math.inf}, "tensor_parallel: inf"),
        ({**STEP, "tensor_parallel": -1}, "tensor_parallel: -1"),
        ({**STEP, "tensor_parallel": 10**400}, "tensor_parallel"),
        ({**STEP, "tensor_parallel": [8]}, "tensor_parallel: [8]"),
        ({**STEP, "tensor_parallel": None}, "tensor_parallel: None"),
        ({**STEP, "tensor_parallel": b"8x"}, "tensor_parallel"),
        ({**STEP, "recompute": 3}, "recompute: 3"),
        ({**STEP, "recompute": "everything"}, ["recompute: 'everything'", "nearest"]),
        ({**STEP, "recompute": "full@" + "9" * 5000}, "recompute"),
        ({**STEP, "precision": "bf15"}, "nearest: bf16"),
        ({**STEP, "precision": ["bf16"]}, "precision"),
        ({**STEP, "optimizer": ""}, "optimizer: ''"),
        ({**STEP, "adapter": "lora:" + "9" * 5000}, "adapter"),
        ({**STEP, "adapter": "lora:-1"}, "nearest: lora:16"),
        ({**STEP, "framework": "Megätron"}, "framework: 'Megätron'"),
        ({**STEP, "framework": "../devices/h100-sxm-80gb"}, "is unknown"),
        ({**STEP, "release": 0.8}, "release: 0.8"),
        ({**STEP, "sharding": "zero4"}, "nearest: zero"),
        ({**STEP, "schedule": object()}, "schedule"),
        ({**STEP, "schedule": []}, "schedule: []"),
        ({**STEP, "overlap": "all"}, "overlap: 'all'"),
        ({**STEP, "document_length": "1,2"}, "sum to the sequence's 2048"),
        ({**STEP, "document_length": []}, "document_length"),
        ({**STEP, "document_length": 4096}, "nearest: 2048"),
        ({**STEP, "layers_per_stage": "uneven"}, "layers_per_stage: 'uneven'"),
        ({**STEP, "recompute_layers": "1,2"}, "recompute_layers: (1, 2)"),
        ({**STEP, "offload_optimizer": math.nan}, "offload_optimizer: nan"),
        ({**STEP, "imbalance": 0.5}, "nearest: 1"),
        ({**STEP, "pad_to_capacity": True}, "without a capacity_factor"),
        ({**STEP, "schema_version": "llmsim.training-plan/2"}, "schema_version"),
    ],
)  # fmt: skip
def test_plans(fields, words):
    named(words, TrainingPlan, **fields)
    named(words, TrainingPlan.parse, fields)
    if "missing" not in str(words):
        named(words, TrainingPlan(**STEP).replace, **fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "is missing"),
        ({"device": "h100", "nodes": 1}, "devices_per_node"),
        ({"device": 3, "nodes": 1, "devices_per_node": 8}, "device: 3"),
        ({"device": "h100", "nodes": 0, "devices_per_node": 8}, "nodes: 0"),
        ({"device": "h100", "nodes": 1e30, "devices_per_node": 8}, "nodes"),
        ({"device": "h100", "nodes": "many", "devices_per_node": 8}, "nodes: 'many'"),
        ({"device": "h100", "nodes": True, "devices_per_node": 8}, "nodes: True"),
        ({"device": "h100", "nodes": 1, "devices_per_node": 8, "network": 3}, "network: 3"),
        ({"device": "h100", "nodes": 1, "devices_per_node": 8, "memory_headroom": 1}, "memory_headroom: 1"),
        ({"device": "h100", "nodes": 1, "devices_per_node": 8, "price_usd_per_device_hour": -1}, "-1"),
        ({"device": "h100", "nodes": 1, "devices_per_node": 8, "racks": 1}, "unknown key"),
    ],
)  # fmt: skip
def test_clusters(fields, words):
    named(words, Cluster, **fields)
    named(words, Cluster.parse, fields)
    named(words, simulate_training, STEP, MODEL, fields)


@pytest.mark.parametrize(
    "value", [*ANYTHING, None, "", "x", "1x", "1xx1", " x x ", "٣x8xh100", "1x8xh100\n1x8xh100", Path(".")]
)
def test_what_is_no_cluster(value):
    for call in (Cluster.parse, lambda v: simulate_training(STEP, MODEL, v), lambda v: plan_training(MODEL, v, **JOB)):
        named("", call, value)


def test_fabrics_that_do_not_exist():
    for value in ("infini", "", 3, [], b"x", "../devices/h100-sxm-80gb"):
        named("network", Cluster.parse, CLUSTER, network=value)
        named("network", plan_training, MODEL, CLUSTER, **JOB, network=value)
    named("memory_headroom: 2", Cluster.parse(CLUSTER).replace, memory_headroom=2)


@pytest.mark.parametrize(
    "value", [*ANYTHING, None, "", "no-such-model", "org/no-such-model", Path("/"), Path("absent.json"), "/dev/null"]
)
def test_what_is_no_model(value):
    for call in (
        Architecture.from_config,
        lambda v: simulate_training(STEP, v, CLUSTER),
        lambda v: explain_training(STEP, v, CLUSTER),
        lambda v: plan_training(v, CLUSTER, **JOB),
        lambda v: compare([v], "4k"),
        lambda v: plan_cluster(v, [CLUSTER], **JOB, tokens=1e9),
    ):
        named("", call, value)


def test_arguments_of_reading_a_configuration():
    named("ignore", Architecture.from_config, MODEL, ignore=3)
    named("search", Architecture.from_config, MODEL, search=3)
    named("key: 1", Architecture.from_config, {"model_type": "llama", 1: 2})
    named("model_type", Architecture.from_config, {"model_type": ["llama"]})
    named("hf download meta-llama/Foo config.json", Architecture.from_config, "meta-llama/Foo")


@pytest.mark.parametrize("value", [*ANYTHING, None, "", "absent.yaml", Path("."), Path("/dev/null")])
def test_what_is_no_plan(value):
    for call in (simulate_training, explain_training):
        named("", call, value, MODEL, CLUSTER)


@pytest.mark.parametrize(
    "changes",
    [
        *({name: value} for name in ("sequence", "global_batch") for value in
          (0, -1, 1.5, 2048.0, math.nan, None, [], "", "many", "1.5", "-1", "1e400", True, 10**12, "٣")),
        *({"tokens": value} for value in (0, -1, math.nan, math.inf, "", "15X", [], True, "1e30", 10**400)),
        *({"tokens": 1e9, "epochs": value} for value in (0, -1, math.nan, math.inf, "2", None, [])),
        *({"precision": value} for value in ("", "bf15", 3, [], [3], "bf16,bf15", ["bf16", None], "bf16;nope")),
        *({"framework": value} for value in ("", "torchtitam", 3, [])),
        *({"release": value} for value in (None, 3, [])),
        *({"optimizer": value} for value in ("", "adamv", 3, [])),
        *({"adapter": value} for value in ("", "lora", "lora:0", None, 3, [])),
        *({"document_length": value} for value in (0, "many", 4096, [1, 2], (), math.nan)),
        *({"capacity_factor": value} for value in (0, -1, math.nan, "much", [])),
        *({"pad_to_capacity": value} for value in (True, "perhaps", 3)),
        *({"imbalance": value} for value in (0.5, math.nan, "much", [])),
        *({"price": value} for value in (-1, math.nan, math.inf, "dear", [])),
        *({"headroom": value} for value in (-0.1, 1, math.nan, "little", [])),
        *({"oom_risk": value} for value in (0, 0.6, math.nan, "little", [], True)),
        {"oom_risk": 0.1, "headroom": 0.1},
        *({"percentile": value} for value in (0, 100, math.nan, "90", [], True)),
        *({name: value} for name in ("top", "cores") for value in (0, -1, 1.5, "2", [], True, math.nan)),
        *({"fit": value} for value in ("fit.yaml", {}, 3)),
        *({"space": value} for value in (3, "all", [], {"tp": 1}, {"tensor_parallel": "x"}, {"tensor_parallel": 0})),
        {"precision": "bf16,fp8-current", "space": {"precision": ["bf16"]}},
    ],
    ids=str,
)  # fmt: skip
def test_questions(changes):
    name = "epochs" if "epochs" in changes else next(iter(changes))
    spelling = {"price": "price_usd_per_device_hour", "headroom": "memory_headroom", "space": ""}
    named(spelling.get(name, name), plan_training, MODEL, CLUSTER, **{**JOB, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        *({"clusters": value} for value in ([], [3], 3, "", None, [""], {})),
        *({"global_batch": value} for value in ([], "", "32,x", [1.5], [None], 0, {})),
        *({"objective": value} for value in ("speed", "", 3, [], None)),
        *({"deadline_days": value} for value in (0, -1, math.nan, math.inf, "soon", [])),
        *({"budget_usd": value} for value in (0, -1, math.nan, math.inf, "soon", [])),
        *({"tokens": value} for value in (0, math.nan, "much", None)),
        {"epochs": 0},
        {"tensor_paralel": 2},
        {"top": 1},
        {"framework": "torchtitam"},
    ],
    ids=str,
)  # fmt: skip
def test_choices_of_a_cluster(changes):
    question = {"clusters": [CLUSTER], **JOB, "tokens": 1e9, **changes}
    named("", plan_cluster, MODEL, question.pop("clusters"), **question)


@pytest.mark.parametrize(
    "changes",
    [
        *({"models": value} for value in ([], "", None, 3, ["llama-3-8b", "llama-3-8b"], [None], {})),
        *({"sequences": value} for value in ([], "", "8k:4k", "x", [0], [2, 1], [1.5], None, 2**30, {})),
        *({"sequences": value} for value in ("4k,4k", [True], ["x"], [math.nan])),
        *({"device": value} for value in ("h101", "", 3, [])),
        *({name: value} for name in ("devices", "batch") for value in (0, -1, 1.5, "2", math.nan, [])),
    ],
    ids=str,
)  # fmt: skip
def test_comparisons(changes):
    arguments = {"models": ["llama-3-8b"], "sequences": [4096], **changes}
    named("", compare, arguments.pop("models"), arguments.pop("sequences"), **arguments)


@pytest.mark.parametrize("value", [*ANYTHING, None, "", "absent.csv", Path("/"), "/dev/null"])
def test_what_is_no_file(value):
    named("", validate, value, progress=False)
    named("", calibrate_with, value)


def test_other_arguments():
    named("refit_without", validate, "runs.csv", refit_without="nothing", progress=False)
    named("refit_without", validate, "runs.csv", refit_without=[], progress=False)
    for value in ("stp", "", 3, []):
        named("quantity", explain_training, STEP, MODEL, CLUSTER, quantity=value)
    for fit in ("fit.yaml", 3, {}):
        named("fit", simulate_training, STEP, MODEL, CLUSTER, fit=fit)
        named("fit", explain_training, STEP, MODEL, CLUSTER, fit=fit)
        named("assumed", simulate_training, STEP, MODEL, CLUSTER, assumed=[fit])


@pytest.mark.parametrize(
    "fields",
    [
        {"tensor_parallel": "x"}, {"tensor_parallel": ""}, {"tensor_parallel": "1,,2"}, {"tensor_parallel": 0},
        {"tensor_parallel": []}, {"tensor_parallel": 1.5}, {"tensor_parallel": "9" * 5000}, {"tp": 1},
        {"recompute": "some"}, {"recompute": 3}, {"sharding": "zero9"}, {"schedule": "1f2b"}, {"schedule": 3},
        {"precision": "bf15"}, {"offload_optimizer": 2}, {"offload_optimizer": math.nan},
        {"sequence_parallel": "maybe"},
        {"layers_per_stage": "odd"}, {"rank_order": "dp-tp"}, {"context_kind": 3.5},
    ],
    ids=str,
)  # fmt: skip
def test_spaces(fields):
    named(next(iter(fields)), SearchSpace, **fields)
    named(next(iter(fields)), SearchSpace().replace, **fields)


def test_traces():
    torch = pytest.importorskip("torch")
    module, inputs = torch.nn.Linear(4, 4), torch.zeros(2, 4)
    for value in (None, "linear", 3, torch.nn.Linear):
        named("module", llmsim.trace, value, inputs)
    for value in (None, 3, torch.zeros(2, 5), [], ["x"], {"nothing": inputs}):
        named("", llmsim.trace, module, value)
    named("loss", llmsim.trace, module, inputs, loss=3)
    named("", llmsim.trace, module, inputs, loss=lambda y: y)  # no scalar
    table = llmsim.trace(module, inputs)
    for value in (None, "table", module):
        named("traced", llmsim.simulate_traced, value, CLUSTER)
    for changes in (
        {"micro_batches": 0}, {"micro_batches": 1.5}, {"pipeline_parallel": "2"}, {"pipeline_parallel": 2},
        {"sharding": []}, {"sharding": "zero9"}, {"optimizer": 3}, {"framework": []}, {"framework": "torchtitam"},
    ):  # fmt: skip
        named(next(iter(changes)), llmsim.simulate_traced, table, CLUSTER, **changes)
    named("cluster", llmsim.simulate_traced, table, 3)


def test_where_nothing_fits():
    with pytest.raises(InfeasibleError, match="no plan fits") as error:
        plan_training("llama-3.1-405b", "1x1xh100-sxm-80gb", sequence="8k", global_batch=1)
    assert error.value.lacking_bytes > 0
    assert error.value.nearest in str(error.value)
    with pytest.raises(InfeasibleError):
        plan_cluster(MODEL, CLUSTER, **JOB, tokens="15T", deadline_days=1)


def test_errors_survive_a_pickle():
    for error in (_error(TrainingPlan), _error(Cluster.parse, 3), InfeasibleError("none")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again)) == (type(error), str(error))
        assert vars(again) == vars(error)


def _error(call, *arguments):
    with pytest.raises(InputError) as error:
        call(*arguments)
    return error.value


def test_checked_objects_survive_a_pickle():
    for own in (TrainingPlan(**STEP), Cluster.parse(CLUSTER), SearchSpace(tensor_parallel=4)):
        assert pickle.loads(pickle.dumps(own)) == own == own.replace()


def test_texts_of_the_command_line_work():
    typed = plan_training(MODEL, CLUSTER, sequence="2k", global_batch="32", tokens="10B", precision="bf16,fp8-current")
    plain = plan_training(
        MODEL,
        CLUSTER,
        sequence=2048,
        global_batch=32,
        tokens=10e9,
        space=SearchSpace(precision=("bf16", "fp8-current")),
    )
    assert [p.result.step_time_s for p in typed.best] == [p.result.step_time_s for p in plain.best]
    assert typed.best[0].job == plain.best[0].job
    assert TrainingPlan(**{**STEP, "sequence_length": "2k", "global_batch_size": "32"}) == TrainingPlan(**STEP)
    assert SearchSpace(tensor_parallel="4,8", recompute="none;selective:layernorm,mlp_act", sharding="zero1") == (
        SearchSpace(tensor_parallel=(4, 8), recompute=("none", "selective:layernorm,mlp_act"), sharding=("zero1",))
    )
    assert plan_training(MODEL, CLUSTER, sequence=np.int64(2048), global_batch=np.int64(32)).best


def test_paths_are_texts_or_paths(tmp_path):
    plan, cluster = tmp_path / "plan.yaml", tmp_path / "cluster.yaml"
    plan.write_text("sequence_length: 2k\nglobal_batch_size: 32\ndata_parallel: 8\n")
    cluster.write_text("device: h100\nnodes: 1\ndevices_per_node: 8\n")
    times = {simulate_training(p(plan), MODEL, p(cluster)).step_time_s for p in (str, Path)}
    assert times == {simulate_training(STEP, MODEL, CLUSTER).step_time_s}


def test_one_model_is_compared():
    assert compare("llama-3-8b", "4k:16k").sequences == [4096, 8192, 16384]
    assert compare("llama-3-8b", 4096).models == compare(["llama-3-8b"], [4096]).models


def test_kinds_of_errors():
    assert [_described(e)["kind"] for e in (InputError("a", 1), UnsupportedError("b"), InfeasibleError("c"))] == [
        "input", "unsupported", "infeasible",
    ]  # fmt: skip
    torch = pytest.importorskip("torch")
    with pytest.raises(UnsupportedError, match="has no FLOP formula"):
        llmsim.trace(_product(torch), torch.zeros(4))


def _product(torch):
    class Product(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(4))

        def forward(self, x):
            return torch.dot(self.weight, x)

    return Product()
