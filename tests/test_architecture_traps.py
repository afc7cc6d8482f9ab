"""Traps of configuration files: each of them has misled a parser."""

from __future__ import annotations

import json

import pytest

from llmsim.architecture import Architecture
from llmsim.core.errors import InputError
from llmsim.models import bundled_path


def config(name: str, *drop: str, **change) -> dict:
    values = json.loads(bundled_path(name).read_text())
    return {key: value for key, value in {**values, **change}.items() if key not in drop}


def parameters(values: dict, **options) -> int:
    return Architecture.from_config(values, **options).parameters


def test_a_given_head_width_is_never_overruled():
    model = Architecture.from_config("qwen3-0.6b")
    assert model.kinds["gqa+mlp"].sizes["head_dim"] == 128 != 1024 // 16
    assert Architecture.from_config("gemma-2-9b").kinds["gqa+mlp"].sizes["head_dim"] == 256
    assert Architecture.from_config("gpt-oss-20b").kinds["gqa+moe"].sizes["head_dim"] == 64


@pytest.mark.parametrize("spelling", ["num_experts", "num_local_experts", "n_routed_experts"])
def test_three_spellings_of_the_expert_count(spelling):
    for name, given in (
        ("mixtral-8x7b", "num_local_experts"),
        ("qwen3-30b-a3b", "num_experts"),
        ("deepseek-v2-lite", "n_routed_experts"),
    ):
        values = config(name)
        assert parameters({**config(name, given), spelling: values[given]}) == parameters(values)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("mistral-7b", "num_key_value_heads"),
        ("gemma-2-9b", "head_dim"),
        ("qwen3-8b", "head_dim"),
        ("deepseek-v3", "first_k_dense_replace"),
        ("deepseek-v3", "kv_lora_rank"),
        ("qwen3-30b-a3b", "num_experts"),
        ("llama-3-8b", "intermediate_size"),
        ("llama-3-8b", "vocab_size"),
        ("mamba2-2.7b", "n_groups"),
        ("gemma-2-9b", "sliding_window"),
    ],
)
def test_the_default_of_a_class_is_not_the_value_of_a_model(name, key):
    with pytest.raises(InputError, match=f"{key}.*is missing"):
        Architecture.from_config(config(name, key))


def test_nested_language_model():
    assert parameters(config("kimi-k2.5")) == parameters(config("kimi-k2")) == 1_026_408_209_408
    nested = config("qwen3.5-397b-a17b")
    vision = {"vision_config": {"hidden_size": 1152, "num_heads": 16}, "image_token_id": 248056, "video_token_id": 1}
    assert parameters({**nested, **vision, "vision_start_token_id": 3}) == 396_346_350_336
    gemma = config("gemma3-12b")
    wrapped = {"model_type": "gemma3", "text_config": gemma, "mm_tokens_per_image": 256, "boi_token_index": 5}
    assert parameters(wrapped) == parameters(gemma)
    assert Architecture.from_config(wrapped).model_type == "gemma3_text"
    llava = {"model_type": "llava", "text_config": config("llama-2-7b"), "projector_hidden_act": "gelu"}
    assert parameters(llava) == 6_738_415_616


def test_a_tie_may_stand_outside_of_the_language_model():
    inner = config("llama-3.2-1b", "tie_word_embeddings")
    tied = {"model_type": "mistral3", "tie_word_embeddings": True, "text_config": inner}
    assert (
        parameters(tied) == parameters({**tied, "text_config": {**inner, "tie_word_embeddings": None}}) == 1_235_814_400
    )
    assert parameters({**tied, "tie_word_embeddings": False}) == 1_235_814_400 + 128256 * 2048


def test_listed_layer_types_decide_and_may_be_absent():
    values = config("gpt-oss-20b")
    absent = Architecture.from_config(config("gpt-oss-20b", "layer_types"))
    assert absent.layers == Architecture.from_config(values).layers
    listed = Architecture.from_config({**values, "layer_types": ["full_attention"] * 24})
    assert set(listed.layers) == {"gqa+moe"}
    listed = {**config("gemma3-12b"), "layer_types": ["full_attention"] * 48}  # beside sliding_window_pattern 6
    assert set(Architecture.from_config(listed).layers) == {"gqa+mlp"}
    assert Architecture.from_config(config("gemma-3-1b-text")).layers[5] == "mqa+mlp"
    every_third = Architecture.from_config(config("gemma3-12b", sliding_window_pattern=3))
    assert [kind.startswith("sliding") for kind in every_third.layers[:3]] == [True, True, False]


def test_buffers_and_prediction_modules_do_not_count():
    v3 = Architecture.from_config("deepseek-v3")
    assert v3.parameters == 671_026_404_352  # a published total is 58 x 256 router buffers higher
    assert "router.bias" not in v3.kinds["mla+moe"].parameter_counts()
    assert "router.bias" in Architecture.from_config("gpt-oss-20b").kinds["gqa+moe"].parameter_counts()
    assert parameters(config("deepseek-v3", num_nextn_predict_layers=0)) == v3.parameters


def test_multipliers_do_not_change_counts():
    scaled = config("granite-3.0-8b", embedding_multiplier=12.0, residual_multiplier=0.22, logits_scaling=16.0)
    assert parameters(scaled) == parameters(config("granite-3.0-8b")) == 8_170_848_256


def test_a_window_that_is_not_used_is_ignored():
    off = config("qwen2.5-7b", use_sliding_window=False, sliding_window=4096, max_window_layers=14)
    assert set(Architecture.from_config(off).layers) == {"gqa+mlp"}
    on = Architecture.from_config({**off, "use_sliding_window": True})
    assert on.layers == ("gqa+mlp",) * 14 + ("sliding-gqa+mlp",) * 14


def test_a_null_rank_means_no_query_latent():
    lite = Architecture.from_config("deepseek-v2-lite")
    assert "q_down.weight" not in lite.kinds["mla+moe"].parameter_counts()
    assert parameters(config("deepseek-v2-lite", "q_lora_rank")) == lite.parameters


def test_the_stated_head_width_of_latent_attention_is_a_decoy():
    assert parameters(config("deepseek-v3", head_dim=64, qk_head_dim=192, num_key_value_heads=1)) == 671_026_404_352


def test_llama4_widths():
    maverick = Architecture.from_config("llama-4-maverick")
    assert maverick.kinds["chunked-gqa+mlp"].sizes["ffn"] == 16384
    assert maverick.kinds["chunked-gqa+moe"].sizes["moe_ffn"] == 8192
    assert maverick.kinds["chunked-gqa+moe"].sizes["shared_ffn"] == 8192
    by_list = config("llama-4-maverick", moe_layers=list(range(1, 48, 2)), no_rope_layers=[])
    assert Architecture.from_config(by_list).layers == maverick.layers


def test_falcon_key_value_heads():
    assert Architecture.from_config("falcon-7b").kinds["mqa+mlp"].sizes["kv_heads"] == 1  # the file says 71
    assert Architecture.from_config("falcon-40b").kinds["gqa+mlp"].sizes["kv_heads"] == 8


def test_shared_experts_of_width_zero_are_none():
    coder = Architecture.from_config(config("qwen3-480b-a35b"))
    assert "shared_ffn" not in coder.kinds["gqa+moe"].sizes
    shared = Architecture.from_config(config("qwen3-480b-a35b", shared_expert_intermediate_size=2560))
    assert shared.kinds["gqa+moe"].parameters - coder.kinds["gqa+moe"].parameters == 3 * 6144 * 2560 + 6144


def test_null_widths_are_four_times_the_hidden_one():
    assert Architecture.from_config("gpt-2").kinds["mha+mlp"].sizes["ffn"] == 3072
    assert parameters(config("gpt-2", n_inner=1000)) < 124_439_808


def test_dense_layers_inside_a_mixture():
    values = config("qwen3-30b-a3b", mlp_only_layers=[0, 2], decoder_sparse_step=2)
    assert Architecture.from_config(values).layers[:6] == (
        "gqa+mlp",
        "gqa+moe",
        "gqa+mlp",
        "gqa+moe",
        "gqa+mlp",
        "gqa+moe",
    )
    assert set(Architecture.from_config(config("deepseek-v3", first_k_dense_replace=61)).layers) == {"mla+mlp"}


def test_other_spellings():
    plain = {
        "model_type": "llama", "dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "ffn_hidden_size": 14336,
        "n_vocab": 128256, "max_seq_len": 8192, "tie_word_embeddings": False,
    }  # fmt: skip
    assert parameters(plain) == 8_030_261_248
    gpt = {"model_type": "gpt2", "d_model": 768, "n_layer": 12, "num_heads": 12, "vocab_size": 50257, "n_ctx": 1024}
    assert parameters(gpt) == 124_439_808


def test_generic_switches_of_measured_files():
    alibi = config("gpt-2", position_embedding_type="alibi")
    assert parameters(alibi) == 124_439_808 - 1024 * 768
    rope = Architecture.from_config(config("gpt-2", position_embedding_type="rope"))
    assert "rotary" in [op.kind for op in rope.kinds["mha+mlp"].operators]
    assert parameters(config("gpt-2", gated_mlp=True)) > 124_439_808
    bare = config("gpt-2", attention_bias=False, mlp_bias=False)
    assert 124_439_808 - parameters(bare) == 12 * (4 * 768 + 3072 + 768)


def test_opt_with_a_narrow_embedding_and_norms_behind():
    # OPT-350M: embedding 512 wide, no final norm (counted with the class of transformers on the meta device)
    small = {
        "model_type": "opt", "hidden_size": 1024, "ffn_dim": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "word_embed_proj_dim": 512, "do_layer_norm_before": False, "vocab_size": 50272,
        "max_position_embeddings": 2048, "_remove_final_layer_norm": False, "layerdrop": 0.0, "prefix": "</s>",
    }  # fmt: skip
    assert parameters(small) == 331_196_416


def test_prediction_pattern_and_latent_experts_of_nemotron():
    values = config("nemotron-3-super")
    assert parameters(config("nemotron-3-super", "num_hidden_layers")) == parameters(values)
    with pytest.raises(InputError, match=r"hybrid_override_pattern.*has 88 entries"):
        Architecture.from_config({**values, "num_hidden_layers": 87})
    assert Architecture.from_config(values).kinds["moe"].sizes["latent"] == 1024
