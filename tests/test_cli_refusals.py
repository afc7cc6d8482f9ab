"""Wrong input: one line on the error stream that says what would be right, status 2, and nothing half-written."""

from __future__ import annotations

import json

import pytest
from command_line import (
    CLUSTER,
    CONFIG,
    MODEL,
    RUNS,
    plan,
    refused,
    rows_of_validation,
    simulate,
    with_plan,
    write_rows,
)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        # model
        (plan(model="llama-3.2-1c"), ["model: 'llama-3.2-1c'", "llmsim models", "nearest: llama-3.2-1b"]),
        (plan(model="absent.json"), ["'absent.json' does not exist"]),
        # cluster
        (plan(cluster="0x8xh100-sxm-80gb"), ["cluster: nodes: 0", "nearest: 1"]),
        (plan(cluster="1x0xh100-sxm-80gb"), ["devices per node: 0", "1 or more", "nearest: 1"]),
        (plan(cluster="-1x8xh100-sxm-80gb"), ["'-1x8xh100-sxm-80gb'", "NODESxDEVICESxDEVICE"]),
        (plan(cluster="axbxh100"), ["'axbxh100'", "64x8xh100-sxm-80gb"]),
        (plan(cluster="1.5x8xh100"), ["'1.5x8xh100'", "NODESxDEVICESxDEVICE"]),
        (plan(cluster=f"{10**9}x8xh100"), ["nodes: 1000000000", "10,000,000", "nearest: 10000000"]),
        (plan(cluster=f"{'9' * 5000}x8xh100"), ["cluster", "NODESxDEVICESxDEVICE"]),
        (plan(cluster="1x5000xh100"), ["devices per node: 5000", "a node of", "nearest: 625x8xh100-sxm-80gb"]),
        (plan(cluster="10000000x8xh100-sxm-80gb"), ["global_batch: 32", "multiples of the data-parallel degree"]),
        (plan(cluster="1x8xh100-sxm-80gig"), ["device: 'h100-sxm-80gig'", "nearest: h100-sxm-80gb"]),
        (plan(cluster="absent.yaml"), ["cluster: 'absent.yaml'", "No such file"]),
        (plan(cluster="h100-sxm-80gb"), ["cluster: 'h100-sxm-80gb'", "NODESxDEVICESxDEVICE"]),
        (plan(cluster=""), ["cluster: ''"]),
        # profiles
        (plan(framework="megatronn"), ["framework: 'megatronn'", "nearest: megatron"]),
        (plan(precision="nvfp5"), ["precision: 'nvfp5'", "allowed: bf16", "nearest: nvfp4"]),
        (plan(network="infini"), ["network: 'infini'", "nearest: infiniband"]),
        (simulate("--network", "infini"), ["network: 'infini'", "nearest: infiniband"]),
        # quantities
        *((plan(tokens=v), [f"tokens: '{v}'", "nearest: 15T"]) for v in ("nan", "inf", "-1", "0", "abc", "", "1e999")),
        (plan(tokens="1e300"), ["tokens: 1e+300", "up to 1e18"]),
        *((plan(sequence=v), [f"sequence: '{v}'", "whole number", "nearest: 8192"])
          for v in ("nan", "inf", "-1", "0", "abc", "", "1.5", "1e999")),
        (plan(sequence=10**10), ["sequence: 10000000000", "1,000,000,000"]),
        *((plan(global_batch=v), [f"global_batch: '{v}'", "nearest: 256"]) for v in ("nan", "inf", "-1", "0", "abc")),
        (plan(global_batch="1.5"), ["global_batch: '1.5'", "whole number of sequences", "nearest: 2"]),
        (plan(global_batch="1e10"), ["global_batch: 10000000000", "nearest: 1000000000"]),
        *((plan(imbalance=v), [f"imbalance: {v}"]) for v in ("nan", "inf")),
        *((plan(imbalance=v), [f"imbalance: {float(v)}", "nearest: 1"]) for v in ("0.5", "0", "-1")),
        (plan(imbalance="1e300"), ["imbalance: 1e+300", "less than or equal to 1000000"]),
        (plan(imbalance="abc"), ["--imbalance"]),
        *((plan(price=v), [f"price_usd_per_device_hour: {v}"]) for v in ("nan", "-1.0")),
        *((plan(top=v), [f"top: {v}", "nearest: 1"]) for v in (0, -1)),
        (plan(top="x"), ["--top"]),
        # filters
        (plan(tensor_parallel=3), ["tensor_parallel: 3", "heads", "nearest: 2"]),
        (plan(tensor_parallel=0), ["tensor_parallel", "0 is not valid", "nearest: 1"]),
        (plan(tensor_parallel="1,x"), ["tensor_parallel: '1,x'", "1,2,4"]),
        (plan(tensor_parallel=""), ["tensor_parallel: ''", "whole numbers"]),
        (plan(tensor_parallel="9" * 30), ["tensor_parallel", "nearest: 1000000"]),
        (plan(pipeline_parallel=5), ["pipeline_parallel: 5", "nearest: 4"]),
        (plan(virtual_pipeline=5), ["virtual_pipeline: 5", "16 layers"]),
        (plan(context_parallel=3), ["context_parallel: 3", "nearest: 2"]),
        (plan(expert_parallel=2), ["expert_parallel: 2", "no experts"]),
        (plan(micro_batch_size=7), ["micro_batch_size: 7", "nearest: 8"]),
        (plan(recompute="nope"), ["recompute: 'nope'", "nearest: none"]),
        (plan(recompute="full@1/0"), ["recompute: 'full@1/0'", "nearest: full@1/2"]),
        (plan(sharding="zero9"), ["'zero9'", "allowed: 'ddp'", "nearest: zero"]),
        (plan(sharding="hsdp"), ["sharding", "hsdp", "scale-up domain"]),
        (plan(sharding="zero3", pipeline_parallel=8), ["sharding", "without a pipeline"]),
        (plan(context_kind="ulysses,rng"), ["'rng'", "nearest: ring"]),
        (plan(global_batch=33, tensor_parallel=1, pipeline_parallel=1, context_parallel=1),
         ["global_batch: 33", "multiples", "nearest: 32"]),
        # output
        (plan(out="absent/plan.yaml"), ["out: 'absent/plan.yaml'", "directory"]),
        (plan(out="."), ["out: '.'", "is a directory"]),
        (plan(out="x" * 300), ["out", "cannot be written", "name too long"]),
        # fields of a plan
        (["simulate", "train", "-m", MODEL, "-c", CLUSTER], ["plan", "is missing", "--plan FILE", "--set"]),
        (simulate("--set", "x"), ["set: 'x'", "FIELD=VALUE", "nearest: tensor_parallel=8"]),
        (simulate("--set", "=3"), ["set: '=3'", "FIELD=VALUE"]),
        (simulate("--set", "a=[1"), ["set: 'a=[1'"]),
        (simulate("--set", "a=2001-99-99"), ["set: 'a=2001-99-99'"]),
        (simulate(tensor_paralel=2), ["tensor_paralel", "unknown key", "nearest: tensor_parallel"]),
        (simulate(tensor_parallel=3), ["tensor_parallel: 3 does not divide attention heads 32", "nearest: 2"]),
        (simulate(global_batch_size=33), ["global_batch_size: 33", "multiples of 8", "nearest: 32"]),
        (simulate(data_parallel=4), ["degrees multiply to 4", "cluster has 8", "nearest: data_parallel 8"]),
        *((simulate(sequence_length=v), [f"sequence_length: {shown}"])
          for v, shown in ((".nan", "nan"), (".inf", "inf"), ("-.inf", "-inf"), (0, 0), (-1, -1), (1.5, 1.5),
                           ("true", "True"), ("", "None"), ("abc", "'abc'"), ("1e300", "'1e300'"), ("[1]", "[1]"))),
        (simulate(sequence_length=10**12), ["sequence_length: 1000000000000", "nearest: 1000000000"]),
        *((simulate(imbalance=v), ["imbalance", "is not valid"]) for v in (".nan", ".inf", 0.5, -1, "1e300", "true")),
        (simulate(recompute="nope"), ["recompute: 'nope'", "nearest: none"]),
        (simulate(recompute="full@0/0"), ["recompute: 'full@0/0'", "nearest: full@1/2"]),
        (simulate(precision="nvfp5"), ["precision: 'nvfp5'", "nearest: nvfp4"]),
        (simulate(optimizer="adamx"), ["optimizer: 'adamx'", "nearest: adam"]),
        (simulate(framework="torchtitn"), ["framework: 'torchtitn'", "nearest: torchtitan"]),
        (simulate(schedule="1f2b"), ["schedule: '1f2b'", "nearest: 1f1b"]),
        (simulate(schedule="interleaved"), ["virtual_pipeline: 1", "interleaved runs several chunks", "nearest: 2"]),
        (simulate(sharding="zero9"), ["sharding: 'zero9'", "nearest: zero"]),
        (simulate(shard_group=3), ["shard_group: 3", "only with hsdp"]),
        (simulate(document_length="many"), ["document_length: 'many'", "a whole number"]),
        (simulate(document_length="100,200"), ["document_length: (100, 200)", "sum to the sequence's"]),
        (simulate(recompute_layers="fited", recompute="full"), ["recompute_layers: 'fited'", "nearest: fitted"]),
        (simulate(adapter="lora:16:qv"), ["adapter: 'lora:16:qv'", "nearest: lora:16:q"]),
        (simulate(offload_optimizer=1.5), ["offload_optimizer: 1.5", "nearest: 1"]),
        (simulate(context_kind="ulysses+ring"), ["ulysses_parallel: None", "nearest: 2"]),
        (simulate(pad_to_capacity="true"), ["pad_to_capacity: True", "without a capacity_factor"]),
        (plan(adapter="lora:0"), ["adapter: 'lora:0'", "nearest: lora:16"]),
        (plan(offload_activations="0,2"), ["offload_activations", "less than or equal to 1"]),
        (plan(recompute_layers="best"), ["recompute_layers", "'uniform' or 'fitted'"]),
        (plan(epochs=2), ["epochs: 2.0", "with tokens only"]),
        (plan(document_length="9m"), ["document_length", "at most the sequence's"]),
        # names
        (["models", "llama-3.2-1c"], ["model: 'llama-3.2-1c'", "nearest: llama-3.2-1b"]),
        (["hardware", "h100-sxm-80gig"], ["profile: 'h100-sxm-80gig'", "nearest: h100-sxm-80gb"]),
        (["validate", "absent.csv"], ["absent.csv", "No such file"]),
        (["validate", "."], ["'.'", "Is a directory"]),
        (["plans"], ["No such command 'plans'"]),
    ],
    ids=lambda v: " ".join(v)[-50:] if v and v[0] in ("plan", "simulate", "models", "hardware", "validate") else "",
)  # fmt: skip
def test_wrong_arguments(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refused(*arguments)
    for word in words:
        assert word in message
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_fits_has_a_status_of_its_own():
    message = refused(*plan(model="llama-3.1-405b"), status=3)
    for word in ("no plan fits", "nearest miss is TP8", "GiB too much", "may use"):
        assert word in message
    assert "GiB too much" in refused(*plan(sequence=10**9), status=3)


BROKEN_CONFIGS = {
    "broken": ('{"model_type": "llama", "hidden_size": }', ["is no JSON", "line 1, column 40"]),
    "list": ("[1, 2]", ["holds list", "a JSON object"]),
    "package": ('{"name": "x", "version": "1.0.0", "scripts": {}}', ["model.json: model_type", "is missing"]),
    "empty": ("{}", ["model_type", "is missing"]),
    "blank": ("", ["is empty"]),
    "unknown key": (json.dumps({**CONFIG, "mixture_of_depths": 2}),
                    ["mixture_of_depths: 2", "could change the cost", "--ignore-key"]),
    "odd heads": (json.dumps({**CONFIG, "num_key_value_heads": 5}), ["num_key_value_heads: 5", "divisor of 32"]),
    "binary": (bytes(range(256)), ["UTF-8"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN_CONFIGS)
def test_broken_configurations(case, tmp_path):
    content, words = BROKEN_CONFIGS[case]
    path = tmp_path / "model.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for arguments in (plan(model=path), simulate(model=path), ["models", str(path)]):
        message = refused(*arguments)
        for word in words:
            assert word in message


GOOD_PLAN = "sequence_length: 2048\nglobal_batch_size: 32\ndata_parallel: 8\n"
BROKEN_PLANS = {
    "list": ("- 1\n", ["holds a list", "mapping"]),
    "empty": ("", ["holds a NoneType", "mapping"]),
    "cut": ("plan: {sequence_length: 2048,", ["is broken at line 2"]),
    "binary": (bytes(range(256)), ["cannot be read"]),
    "nul": ("a: \0", ["is broken"]),
    "no mapping": ("plan: 3\n", ["plan: 3", "mapping of fields"]),
    "list of plans": ("plan: [1, 2]\n", ["plan: [1, 2]", "mapping of fields"]),
    "more beside": (f"plan: {{{GOOD_PLAN.strip().replace(chr(10), ', ')}}}\ncluster: 3\n", ["'cluster' is unknown"]),
    "number as key": (GOOD_PLAN + "1: 3\n", ["1", "unknown key"]),
    "unknown key": (GOOD_PLAN + "tensor_paralel: 2\n", ["tensor_paralel", "nearest: tensor_parallel"]),
    "twice": (GOOD_PLAN + "data_parallel: 4\n", ["'data_parallel' twice"]),
    "missing": ("sequence_length: 2048\n", ["global_batch_size", "is missing"]),
    "no such day": (GOOD_PLAN + "release: 2001-99-99\n", ["is broken"]),
    "endless": (GOOD_PLAN + f"micro_batch_size: 0x{'f' * 5000}\n", ["micro_batch_size", "nearest: 1000000000"]),
    "deep": ("[" * 3000, ["is broken"]),
    **{
        f"sequence {v}": (GOOD_PLAN.replace("2048", v), ["sequence_length", "is not valid"])
        for v in (".nan", ".inf", "0", "-4", "1.5", "1.0e+30", "true", "null", "many")
    },
}


@pytest.mark.parametrize("case", BROKEN_PLANS)
def test_broken_plans(case, tmp_path):
    content, words = BROKEN_PLANS[case]
    path = tmp_path / "plan.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refused(*with_plan(path))
    for word in words:
        assert word in message


def test_plans_that_are_no_files(tmp_path):
    assert "No such file" in refused(*with_plan(tmp_path / "absent.yaml"))
    assert "Is a directory" in refused(*with_plan(tmp_path))


GOOD_CLUSTER = "device: h100\nnodes: 1\ndevices_per_node: 8\n"
BROKEN_CLUSTERS = {
    "list": ("- 1\n", ["holds a list", "mapping"]),
    "empty": ("", ["mapping"]),
    "unknown key": (GOOD_CLUSTER.replace("devices_per", "device_per"), ["device_per_node", "devices_per_node"]),
    "unknown device": (GOOD_CLUSTER.replace("h100", "h100x"), ["device: 'h100x'", "nearest: h100-sxm-80gb"]),
    "outside": (GOOD_CLUSTER.replace("h100", "../devices/h100-sxm-80gb"), ["is unknown"]),
    "no device": ("nodes: 1\ndevices_per_node: 8\n", ["device", "is missing"]),
    "unknown network": (GOOD_CLUSTER + "network: infini\n", ["network: 'infini'", "nearest: infiniband"]),
    "blank network": (GOOD_CLUSTER + "network: ''\n", ["network: ''"]),
    "no domain": (GOOD_CLUSTER + "scale_up_domain: 0\n", ["scale_up_domain: 0", "nearest: 1"]),
    "other form": (GOOD_CLUSTER + "schema_version: llmsim.cluster/9\n", ["schema_version", "llmsim.cluster/1"]),
    **{
        f"nodes {v}": (GOOD_CLUSTER.replace("nodes: 1", f"nodes: {v}"), ["nodes", "is not valid"])
        for v in ("0", "-1", ".nan", ".inf", "1.5", "true", "many", "1000000000")
    },
}


@pytest.mark.parametrize("case", BROKEN_CLUSTERS)
def test_broken_clusters(case, tmp_path):
    content, words = BROKEN_CLUSTERS[case]
    path = tmp_path / "cluster.yaml"
    path.write_text(content)
    message = refused(*simulate(cluster=path))
    for word in words:
        assert word in message


def broken_tables():
    rows = rows_of_validation()
    whole = "\n".join(",".join(row[:-1]) for row in rows if not any("," in cell for cell in row[:-1]))
    column = rows[0].index("model")
    without = "\n".join(",".join(cells[:column] + cells[column + 1 :]) for cells in rows[:1])
    nan = [rows[0], [*rows[1]]]
    nan[1][rows[0].index("step_time_s")] = "nan"
    return {
        "cut": (RUNS.read_text()[:2000], ["line", "cut off"]),
        "cut between cells": (",".join(rows[0]) + "\nMB1,g,source\n", ["line 2, model", "cut off"]),
        "empty": ("", ["is empty"]),
        "only a header": (",".join(rows[0]) + "\n", ["no rows"]),
        "no model": (without + "\n", ["lacks the column model"]),
        "binary": (bytes(range(256)), ["cannot be read"]),
        "nul": (whole[:50] + "\0", ["line 1", "binary"]),
        "foreign": ('{"name": "x"}', ["line 1"]),
        "nan": (nan, ["line 2, step_time_s", "nan"]),
    }


@pytest.mark.parametrize("case", broken_tables())
def test_broken_tables(case, tmp_path):
    content, words = broken_tables()[case]
    path = tmp_path / "runs.csv"
    if isinstance(content, list):
        write_rows(path, content)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refused("validate", path)
    for word in words:
        assert word in message


def test_a_split_that_does_not_exist(tmp_path):
    path = write_rows(tmp_path / "runs.csv", rows_of_validation())
    assert "framework-model" in refused("validate", path, "--refit-without", "grup")
