"""What is refused, and in which words: never a traceback, never a guess."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmsim.architecture import Architecture
from llmsim.core.errors import InputError, UnsupportedError
from llmsim.huggingface import known_model_types
from llmsim.models import bundled_models, bundled_path

CONFIGS = {name: json.loads(bundled_path(name).read_text()) for name in bundled_models()}


def refused(values, **options) -> str:
    with pytest.raises(InputError) as error:
        Architecture.from_config(values, **options)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("llama-3-8b", {"model_type": "lama"}, ["model_type", "'lama'", "llama"]),
        ("llama-3-8b", {"model_type": 3}, ["model_type", "3"]),
        ("llama-3-8b", {"model_type": None}, ["model_type", "is missing"]),
        ("llama-3-8b", {"hidden_size": "4096"}, ["hidden_size", "'4096'", "whole number", "nearest: 4096"]),
        ("llama-3-8b", {"hidden_size": 4096.0}, ["hidden_size", "nearest: 4096"]),
        ("llama-3-8b", {"hidden_size": float("nan")}, ["hidden_size", "nan"]),
        ("llama-3-8b", {"hidden_size": True}, ["hidden_size", "True"]),
        ("llama-3-8b", {"hidden_size": [4096]}, ["hidden_size", "whole number"]),
        ("llama-3-8b", {"num_hidden_layers": 0}, ["num_hidden_layers", "0", "nearest: 1"]),
        ("llama-3-8b", {"num_hidden_layers": -3}, ["num_hidden_layers", "-3"]),
        ("llama-3-8b", {"vocab_size": 10**8}, ["vocab_size", "10000000"]),
        ("llama-3-8b", {"num_hidden_layers": 10**6}, ["num_hidden_layers", "10000"]),
        ("llama-2-7b", {"num_attention_heads": 33, "head_dim": None, "num_key_value_heads": 33},
         ["hidden_size", "33", "4092"]),
        ("llama-3-8b", {"num_key_value_heads": 12}, ["num_key_value_heads", "12", "divisor of 32", "nearest: 8"]),
        ("llama-3-8b", {"tie_word_embeddings": 1}, ["tie_word_embeddings", "true or false", "nearest: true"]),
        ("llama-3-8b", {"tie_word_embeddings": "false"}, ["tie_word_embeddings", "true or false"]),
        ("llama-3-8b", {"n_layers": 31}, ["n_layers", "num_hidden_layers = 32"]),
        ("llama-3-8b", {"d_model": 4097}, ["d_model", "4097", "hidden_size = 4096"]),
        ("llama-3-8b", {"sliding_window": 4096}, ["sliding_window", "could change the cost", "ignore="]),
        ("llama-3-8b", {"num_local_experts": 8}, ["num_local_experts", "model type llama"]),
        ("llama-3-8b", {"position_embedding_type": "ropes"}, ["position_embedding_type", "rope"]),
        ("mixtral-8x7b", {"num_experts_per_tok": 9}, ["num_experts_per_tok", "more than there are", "nearest: 8"]),
        ("gemma3-12b", {"layer_types": ["full_attention"] * 47}, ["layer_types", "47 entries", "48"]),
        ("gemma3-12b", {"layer_types": ["sliding"] * 48}, ["layer_types[0]", "sliding_attention"]),
        ("llama-3-8b", {"layer_types": ["sliding_attention"] * 32}, ["layer_types[0]", "full_attention"]),
        ("nemotron-3-nano", {"hybrid_override_pattern": "MX" * 26}, ["hybrid_override_pattern[1]", "'X'"]),
        ("nemotron-3-super", {"mtp_hybrid_override_pattern": "*E*"}, ["mtp_layer_types", "repeats"]),
        ("nemotron-3-nano", {"mlp_bias": True}, ["mlp_bias", "experts"]),
        ("qwen3-30b-a3b", {"mlp_only_layers": ["0"]}, ["mlp_only_layers[0]"]),
        ("llama-4-scout", {"no_rope_layers": [1, 0]}, ["no_rope_layers", "2 entries", "48"]),
        ("kimi-k2.5", {"text_config": 3}, ["text_config", "object"]),
        ("kimi-k2.5", {"hidden_size": 7168}, ["hidden_size", "could change the cost"]),
        ("kimi-k2.5", {"model_type": "unseen_vl"}, ["model_type", "unseen_vl"]),
        ("mpt-7b-hf", {"attn_config": {"alibi": True, "qk_ln": True}}, ["attn_config.qk_ln"]),
        ("mpt-7b-hf", {"attn_config": {"attn_type": "grouped_query_attention"}}, ["attn_config.attn_type"]),
        ("mamba2-2.7b", {"num_heads": 81}, ["num_heads", "5120", "80"]),
        ("gpt-2", {"add_cross_attention": True}, ["add_cross_attention"]),
        ("glm-5", {"indexer_types": ["full", "shared"] * 39}, ["indexer_types[1]", "shared"]),
        ("qwen2.5-7b", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": None},
         ["max_window_layers", "is missing"]),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(name, change, words):
    message = refused({**CONFIGS[name], **change})
    for word in words:
        assert word in message


def test_a_missing_key_names_its_spellings_and_what_stands_there_instead():
    values = {key: value for key, value in CONFIGS["llama-3-8b"].items() if key != "num_hidden_layers"}
    message = refused({**values, "num_hiden_layers": 32})
    for word in ("num_hidden_layers", "is missing", "n_layers", "num_hiden_layers"):
        assert word in message


def test_keys_that_are_not_understood():
    values = {**CONFIGS["llama-3-8b"], "mixture_of_depths": 2, "extra_towers": 3}
    message = refused(values)
    assert "mixture_of_depths" in message
    assert 'ignore=["mixture_of_depths", "extra_towers"]' in message
    ignored = Architecture.from_config(values, ignore=("mixture_of_depths", "extra_towers"))
    assert ignored.parameters == 8_030_261_248
    misspelt = {**CONFIGS["llama-3-8b"], "num_key_valu_heads": 8}
    del misspelt["num_key_value_heads"]
    assert "nearest: num_key_value_heads" in refused(misspelt)
    nested = {**CONFIGS["kimi-k2.5"], "text_config": {**CONFIGS["kimi-k2.5"]["text_config"], "towers": 2}}
    assert 'ignore=["text_config.towers"]' in refused(nested)
    assert Architecture.from_config(nested, ignore=["text_config.towers"]).parameters == 1_026_408_209_408


def test_neutral_keys_comments_and_nulls_are_let_through():
    neutral = {
        "rope_scaling": {"factor": 8}, "bos_token_id": 1, "quantization_config": {"bits": 4}, "attention_dropout": 0.1,
        "initializer_range": 0.02, "torch_dtype": "bfloat16", "_anything": [1], "sliding_window": None,
        "transformers_version": "4.40.0", "pretraining_tp": 1, "rms_norm_eps": float("nan"), "alibi": False,
        "unheard_of": None,
    }  # fmt: skip
    assert Architecture.from_config({**CONFIGS["llama-3-8b"], **neutral}).parameters == 8_030_261_248


def test_two_ties_that_disagree():
    inner = {**CONFIGS["llama-3.2-1b"], "tie_word_embeddings": True}
    message = refused({"model_type": "mistral3", "tie_word_embeddings": False, "text_config": inner})
    assert "text_config.tie_word_embeddings" in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["is empty"]),
        (b"  \n", ["is empty"]),
        (b'{"model_type": "llama",\n "hidden_size": }', ["line 2, column 17"]),
        (b'{"model_type": "llama"} trailing', ["line 1, column 25"]),
        (b"[1, 2]", ["list", "object"]),
        (b"3", ["int", "object"]),
        (b"null", ["object"]),
        (b"\xff\xfe\x00", ["UTF-8"]),
        (b'{"hidden_size": 1, "hidden_size": 2}', ["hidden_size", "twice"]),
        (b"[" * 100_000, ["model"]),
        (b'{"a": ' + b"1" * 5000 + b"}", ["model"]),
    ],
)
def test_files_that_are_no_configuration(tmp_path, content, words):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    message = refused(path)
    for word in ("broken.json", *words):
        assert word in message


def test_paths_that_cannot_be_read(tmp_path):
    assert "without one" in refused(tmp_path)
    assert "does not exist" in refused(str(tmp_path / "absent.json"))
    (tmp_path / "config.json").mkdir()
    assert "without one" in refused(tmp_path)
    for odd in ("", "a\0b", "x" * 5000, "/dev/null", ".", "/"):
        refused(odd)
    for wrong in (3, None, ["llama-3-8b"], 1.5):
        refused(wrong)
    refused({3: 4})


def test_a_byte_order_mark_is_no_obstacle(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(CONFIGS["llama-3-8b"]).encode())
    assert Architecture.from_config(path).parameters == 8_030_261_248


def test_known_model_types_can_all_be_named():
    types = known_model_types()
    assert {values["model_type"] for values in CONFIGS.values()} <= set(types)
    assert types == sorted(types)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=4,
) | st.sampled_from([0, 1, 2, 3, 7, 64, 4096, 10**7, "full_attention", "M*", "llama", ["full_attention"]])
keys = sorted({key for values in CONFIGS.values() for key in values})


@st.composite
def mutated(draw):
    values = dict(draw(st.sampled_from(list(CONFIGS.values()))))
    if isinstance(values.get("text_config"), dict) and draw(st.booleans()):
        values = dict(values["text_config"])
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from(keys) | st.text(max_size=8))
        values.pop(key, None)
        if draw(st.booleans()):
            values[key] = draw(junk)
    return values


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated())
def test_a_mutated_configuration_is_read_or_refused(values):
    try:
        model = Architecture.from_config(values)
    except (InputError, UnsupportedError) as error:
        assert str(error)  # noqa: PT017
    else:
        assert 0 < model.active_parameters <= model.parameters <= model.parameters_with_mtp
