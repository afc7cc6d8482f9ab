"""Architectures: parameter counts against published ones, names and files, and what the structure carries."""

from __future__ import annotations

import csv
import json
import shutil
import time
from pathlib import Path

import pytest

from llmsim.architecture import Architecture
from llmsim.core.errors import InputError
from llmsim.core.parameters import derive_parameters
from llmsim.core.sharding import mesh_sharding
from llmsim.core.terms import Sizes
from llmsim.models import HUB_IDS, bundled_models, bundled_path

VALIDATION = Path(__file__).parents[1] / "validation"
MEASURED = sorted(path.stem for path in (VALIDATION / "architectures").glob("*.json"))
with open(VALIDATION / "parameter_counts.csv", newline="", encoding="utf-8") as counts:
    COUNTED = list(csv.DictReader(counts))


def load(name: str) -> Architecture:
    return Architecture.from_config(name, search=(VALIDATION,))


@pytest.mark.parametrize("row", COUNTED, ids=lambda row: row["model"])
def test_parameters_equal_the_counted_ones(row):
    assert load(row["architecture_file"].removesuffix(".json")).parameters == int(row["parameters"])


def test_every_file_loads_and_is_in_one_place():
    assert not {*MEASURED} & {*bundled_models()}
    assert len(MEASURED) + len(bundled_models()) == 280
    for name in [*MEASURED, *bundled_models()]:
        model = load(name)
        assert model.name == name
        assert set(model.layers) == set(model.kinds)
        assert 0 < model.active_parameters <= model.parameters <= model.parameters_with_mtp


def test_hub_ids_of_the_counts_resolve():
    for row in COUNTED:
        if row["hub_id"]:
            assert Architecture.from_config(row["hub_id"]).parameters == int(row["parameters"])


def test_aliases_point_at_bundled_models():
    assert set(HUB_IDS) <= set(bundled_models())
    assert Architecture.from_config("meta-llama/Meta-Llama-3-70B").name == "llama-3-70b"
    assert Architecture.from_config("META-LLAMA-3-70b").name == "llama-3-70b"
    assert Architecture.from_config("Llama-3-70B").name == "llama-3-70b"
    assert bundled_path("someone/Llama-3-70B") is None


def test_a_name_is_looked_up_beside_first(tmp_path):
    for folder in (tmp_path, tmp_path / "architectures"):
        folder.mkdir(exist_ok=True)
    shutil.copy(bundled_path("gpt-2-xl"), tmp_path / "gpt-2.json")
    assert Architecture.from_config("gpt-2").parameters == 124_439_808
    assert Architecture.from_config("gpt-2", search=(tmp_path,)).parameters == 1_557_611_200
    shutil.copy(bundled_path("opt-125m"), tmp_path / "architectures" / "gpt-2.json")
    assert Architecture.from_config("gpt-2", search=[tmp_path]).parameters == 125_239_296


def test_a_file_a_directory_and_a_mapping_are_the_same(tmp_path):
    path = bundled_path("qwen3-8b")
    shutil.copy(path, tmp_path / "config.json")
    by_file, by_directory = Architecture.from_config(path), Architecture.from_config(str(tmp_path))
    by_mapping = Architecture.from_config(json.loads(path.read_text()))
    assert by_file.parameters == by_directory.parameters == by_mapping.parameters == 8_190_735_360
    assert (by_file.name, by_directory.name, by_mapping.name) == ("qwen3-8b", tmp_path.name, "qwen3")


def test_an_unknown_name_gives_the_nearest_ones():
    with pytest.raises(InputError, match="llama-3-70b") as error:
        Architecture.from_config("llama3-70b")
    assert "neither a file nor a known model" in str(error.value)
    with pytest.raises(InputError, match="bloom-l72-h14336-a112"):
        Architecture.from_config("bloom-l72-h14336-a113", search=(VALIDATION,))


def test_loading_one_model_takes_milliseconds():
    load("llama-3-8b")
    start = time.perf_counter()
    for _ in range(20):
        load("llama-3-8b")
    assert (time.perf_counter() - start) / 20 < 0.005


def test_models_of_one_structure_share_their_operators():
    small, large = load("llama-3-8b").kinds["gqa+mlp"], load("llama-3-70b").kinds["gqa+mlp"]
    assert small.operators is large.operators
    assert small.sizes != large.sizes
    assert load("llama-3-8b").head.operators is load("qwen3-32b").head.operators
    gemma = load("gemma-2-9b").kinds
    assert gemma["sliding-gqa+mlp"].operators is gemma["gqa+mlp"].operators
    assert load("deepseek-v3").mtp[0].operators is load("deepseek-r1").mtp[0].operators


@pytest.mark.parametrize("name", bundled_models())
def test_the_parameter_pass_finds_the_same_parameters(name):
    model = load(name)
    sharding = mesh_sharding(sequence_parallel=True)
    for kind in (*model.kinds.values(), model.embedding, model.head):
        found = derive_parameters(kind.operators, sharding)
        assert Sizes(kind.sizes, {}).count(p.elements for p in found) == kind.parameters


def test_only_matrices_are_open_to_low_precision():
    model = load("deepseek-v3")
    kind = model.kinds["mla+moe"]
    low = {
        p.name for p in derive_parameters(kind.operators, mesh_sharding(sequence_parallel=True)) if p.format == "weight"
    }
    assert low == {
        "q_down.weight", "q.weight", "kv_down.weight", "k_rope.weight", "k_up.weight", "v_up.weight",
        "attention_out.weight", "expert_gate.weight", "expert_up.weight", "expert_down.weight",
        "shared_gate.weight", "shared_up.weight", "shared_down.weight",
    }  # fmt: skip
    for end in (model.embedding, model.head):
        assert {read.tensor.format for op in end.operators for read in op.weights} == {"weight_high"}


@pytest.mark.parametrize(
    ("name", "active"),
    [
        # as published, except that the input embedding counts, which some leave out
        ("nemotron-3-super", 12.77e9),  # 12.7B
        ("nemotron-3-nano", 3.58e9),  # 3.6B
        ("qwen3-235b-a22b", 22.19e9),
        ("qwen3-30b-a3b", 3.35e9),
        ("kimi-k2", 32.86e9),
        ("mixtral-8x7b", 12.88e9),
        ("qwen3-480b-a35b", 35.47e9),
    ],
)
def test_active_parameters(name, active):
    assert load(name).active_parameters == pytest.approx(active, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        # in billions, of the language model without prediction modules
        ("seed-oss-36b", 36.15), ("ministral-3-3b", 3.43), ("ministral-3-8b", 8.49), ("ministral-3-14b", 13.51),
        ("devstral-2-123b", 125.0), ("mistral-small-4-119b", 118.97), ("step-3.5-flash", 196.96), ("hy3", 295.03),
        ("glm-4.7-flash", 29.94), ("gemma-4-12b", 11.91), ("gemma-4-31b", 30.70), ("qwen3.5-9b", 8.95),
        ("gemma-4-26b-a4b", 25.23), ("exaone-4.0-32b", 32.0), ("command-r-plus", 103.8),
        ("qwen3.5-27b", 26.90), ("qwen3.5-35b-a3b", 34.66), ("qwen3.5-122b-a10b", 122.1), ("phi-3-medium", 13.96),
        ("phi-3.5-moe", 41.87), ("command-r-08-2024", 32.30), ("starcoder2-15b", 15.96), ("olmo-2-32b", 32.23),
        ("qwen1.5-110b", 111.2), ("qwen2-57b-a14b", 57.41), ("baichuan2-13b", 13.90), ("glm-4-32b-0414", 32.57),
        ("exaone-3.5-32b", 32.0), ("opt-66b", 65.72), ("falcon3-10b", 10.31), ("yi-9b", 8.83), ("solar-10.7b", 10.73),
        ("smollm3-3b", 3.075), ("deepseek-llm-67b", 67.42), ("chatglm3-6b", 6.24), ("internlm2-20b", 19.86),
    ],
)  # fmt: skip
def test_parameters_are_the_published_ones(name, published):
    assert load(name).parameters == pytest.approx(published * 1e9, rel=5e-3)


def test_layers_may_have_heads_of_their_kind():
    gemma = load("gemma-4-31b").kinds
    assert [gemma["sliding-gqa+mlp"].sizes[size] for size in ("heads", "kv_heads", "head_dim")] == [32, 16, 256]
    assert [gemma["gqa+mlp"].sizes[size] for size in ("heads", "kv_heads", "head_dim")] == [32, 4, 512]
    names = {kind: [op.name for op in gemma[kind].operators] for kind in ("sliding-gqa+mlp", "gqa+mlp")}
    assert "v" in names["sliding-gqa+mlp"]
    assert "v" not in names["gqa+mlp"]
    assert "v_norm" in names["gqa+mlp"]
    step = load("step-3.5-flash")
    assert step.layers[:5] == ("gqa+mlp", "sliding-gqa+mlp", "sliding-gqa+mlp", "sliding-gqa+moe", "gqa+moe")
    assert [step.kinds[kind].sizes["heads"] for kind in ("gqa+moe", "sliding-gqa+moe")] == [64, 96]


def test_active_parameters_of_deepseek_v3_are_the_published_ones():
    model = load("deepseek-v3")
    assert model.active_parameters - model.vocab * model.hidden == pytest.approx(36.6e9, rel=2e-3)
    dense = load("llama-3-8b")
    assert dense.active_parameters == dense.parameters


def test_prediction_modules_count_apart():
    model, bare = load("deepseek-v3"), load("deepseek-v3-no-mtp")
    assert model.parameters == bare.parameters == bare.parameters_with_mtp
    assert (len(model.mtp), len(bare.mtp)) == (1, 0)
    hidden, layer = model.hidden, model.kinds["mla+moe"].parameters
    assert model.parameters_with_mtp - model.parameters == layer + 2 * hidden * hidden + 3 * hidden
    hybrid = load("nemotron-3-super")
    assert [op.name for op in hybrid.mtp[0].operators if op.kind in ("attention", "dispatch")] == [
        "attention",
        "dispatch",
    ]


def test_windows_stand_on_their_kinds():
    windows = {name: kind.window for name, kind in load("gpt-oss-20b").kinds.items()}
    assert windows == {"sliding-gqa+moe": 128, "gqa+moe": None}
    gemma = load("gemma3-12b")
    assert [gemma.kinds[name].window for name in gemma.layers[:6]] == [1024] * 5 + [None]
    assert [load("gemma-2-9b").kinds[name].window for name in load("gemma-2-9b").layers[:2]] == [4096, None]
    assert load("mistral-7b-v0.1").kinds["sliding-gqa+mlp"].window == 4096
    assert load("mistral-nemo-12b").kinds["gqa+mlp"].window is None
    assert load("qwen2.5-72b").kinds["gqa+mlp"].window is None  # 131072 stands in the file, and is not used
    scout = load("llama-4-scout")
    assert [scout.kinds[name].window for name in scout.layers[:4]] == [8192] * 3 + [None]


def kinds_of(name: str, layer: int = 0) -> list[str]:
    model = load(name)
    return [op.kind for op in model.kinds[model.layers[layer]].operators]


def test_structure_is_carried():
    scout = load("llama-4-scout").kinds
    assert "rotary" in kinds_of("llama-4-scout")
    assert "rotary" not in kinds_of("llama-4-scout", 3)
    assert "nope-gqa+moe" in scout
    assert kinds_of("llama-4-scout").count("norm") == 4  # two of them without a gain, on queries and keys
    assert kinds_of("gemma-2-9b").count("norm") == 4
    assert kinds_of("bloom-560m").count("rotary") == kinds_of("gpt-2").count("rotary") == 0
    assert "gate" in kinds_of("llama-3-8b")
    assert "activation" in kinds_of("gpt-2")
    names = {
        name: [op.name for op in load(name).kinds[load(name).layers[0]].operators]
        for name in ("falcon-7b", "falcon-40b")
    }
    assert [name.endswith("_norm") for name in names["falcon-7b"]].count(True) == 1
    assert [name.endswith("_norm") for name in names["falcon-40b"]].count(True) == 2
    assert names["falcon-7b"].index("up") > names["falcon-7b"].index("attention_residual")
    assert [op.name for op in load("bloom-560m").embedding.operators] == ["embedding", "embedding_norm"]
    assert load("gpt-2").embedding.sizes["positions"] == 1024
    assert load("opt-125m").embedding.sizes["positions"] == 2050
    assert load("mpt-7b").embedding.sizes["positions"] == 65536
    olmo = [op.name for op in load("olmo-2-7b").kinds["mha+mlp"].operators]
    assert "attention_norm" not in olmo
    assert "attention_post_norm" in olmo
    bert = [op.name for op in load("bert-base").kinds["mha+mlp"].operators]
    assert bert.index("attention_post_norm") == bert.index("attention_residual") + 1


def test_ends():
    tied, untied = load("gemma-2-9b"), load("llama-3-8b")
    assert (tied.tied, untied.tied) == (True, False)
    assert tied.head.parameters == tied.vocab * tied.hidden + tied.hidden
    assert tied.embedding.parameters == tied.vocab * tied.hidden
    assert (untied.hidden, untied.vocab, untied.max_positions) == (4096, 128256, 8192)


def test_layers_in_order():
    assert load("deepseek-v3").layers == ("mla+mlp",) * 3 + ("mla+moe",) * 58
    assert load("nemotron-3-nano").layers[:6] == ("mamba2", "moe", "mamba2", "moe", "mamba2", "gqa")
    jamba = load("jamba-v0.1").layers
    assert jamba[:5] == ("mamba+mlp", "mamba+moe", "mamba+mlp", "mamba+moe", "gqa+mlp")
    assert load("llama-4-maverick").layers[:4] == (
        "chunked-gqa+mlp", "chunked-gqa+moe", "chunked-gqa+mlp", "nope-gqa+moe",
    )  # fmt: skip
    assert "32 x gqa+mlp" in repr(load("llama-3-8b"))
