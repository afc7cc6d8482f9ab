"""Long contexts: caches against published figures, decoding against closed forms, crossovers to the token."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsim import Architecture, InputError, UnsupportedError
from llmsim.hardware.named import get_device
from llmsim.serving.cache import model_cache
from llmsim.serving.compare import compare
from llmsim.serving.decode import decode_flops, roofline_seconds, weight_bytes

GIB = 2**30

PER_TOKEN = {
    "llama-2-7b": 524_288,
    "llama-3-8b": 131_072,
    "llama-3-70b": 327_680,
    "qwen2.5-7b": 57_344,
    "falcon-7b": 8_192,
    "deepseek-v3": 70_272,
}
"""Bytes in 16 bits: 2 x layers x key/value heads x width x 2, or of the latent and its rotary part."""


@pytest.mark.parametrize("name", PER_TOKEN)
def test_cache_per_token(name):
    cache = model_cache(Architecture.from_config(name))
    assert cache.per_token == PER_TOKEN[name]
    assert cache.windowed == {}
    assert cache.per_sequence == 0


@pytest.mark.parametrize(
    ("name", "per_token", "per_sequence"),
    [
        ("deepseek-v3.2", 70_272 + 61 * 128, 0),
        ("qwen3-next-80b-a3b", 24_576, 36 * (32 * 128 * 128 * 4 + (2 * 16 * 128 + 32 * 128) * 3 * 2)),
        ("mamba2-2.7b", 0, 64 * (80 * 64 * 128 * 4 + (5120 + 2 * 128) * 3 * 2)),
    ],
)
def test_indexers_and_states(name, per_token, per_sequence):
    """An indexer keeps a key of 128 bytes a layer and token; recurrences keep states in 32 bits and what their short
    convolutions still need."""
    cache = model_cache(Architecture.from_config(name))
    assert (cache.per_token, cache.per_sequence) == (per_token, per_sequence)
    assert cache.windowed == {}


def test_recurrences_cost_the_same_at_any_length():
    model = Architecture.from_config("mamba2-2.7b")
    assert decode_flops(model, 1) == decode_flops(model, 10**6)
    assert compare([model], [4096]).models[0].longest_context is None


@pytest.mark.parametrize(("name", "expected_gib"), [("gemma-2-9b", 21.65625), ("gpt-oss-120b", 4.504394)])
def test_windows_stop_growing(name, expected_gib):
    """Half the layers see 4,096 or 128 positions: 42.0 and 9.0 GiB without windows."""
    cache = model_cache(Architecture.from_config(name))
    assert cache.bytes(131_072) / GIB == pytest.approx(expected_gib, rel=1e-6)
    window = max(cache.windowed)
    assert cache.bytes(window + 1) - cache.bytes(window) == cache.per_token


@pytest.mark.parametrize("context", [1, 1000, 131_072])
def test_absorbed_latent_attention(context):
    """278,528 FLOPs a layer and cached position, where keys and values of full width would take 81,920."""
    model = Architecture.from_config("deepseek-v3")
    assert decode_flops(model, context + 1) - decode_flops(model, context) == 61 * 278_528


def test_decoding_of_a_dense_model_by_hand():
    model = Architecture.from_config("llama-3-8b")
    matrices = model.parameters - 128_256 * 4096 - (2 * 32 + 1) * 4096  # neither the lookup nor the gains multiply
    assert decode_flops(model, 1000) == 2 * matrices + 32 * 4 * 32 * 128 * 1000


@given(st.integers(1, 64), st.integers(1, 64))
@settings(max_examples=20, deadline=None)
def test_more_sequences_touch_more_experts(small, more):
    model = Architecture.from_config("mixtral-8x7b")
    assert weight_bytes(model, batch=small) <= weight_bytes(model, batch=small + more) <= 2 * model.parameters
    assert weight_bytes(model, batch=1) == 2 * (model.active_parameters - 32_000 * 4096)


def test_a_step_is_bound_by_memory_then_by_compute():
    model, device = Architecture.from_config("llama-3-8b"), get_device("h100-sxm-80gb")
    cache = model_cache(model)
    one, many = (roofline_seconds(model, cache, 128, device, batch=b) for b in (1, 4096))
    assert many < 4096 * one
    assert many == pytest.approx(4096 * decode_flops(model, 128) / device.peak_of("bf16"))


def test_curves_grow_and_crossovers_are_exact():
    found = compare(["llama-3-8b", "gemma3-12b"], [2**k for k in range(12, 21)])
    for model in found.models:
        for metric in ("train_flops_per_token", "decode_flops_per_token", "cache_bytes", "decode_s_per_token"):
            values = getattr(model, metric)
            assert values == sorted(values)
    assert {c.metric for c in found.crossovers} >= {"train_flops_per_token", "cache_bytes"}
    for crossing in (c for c in found.crossovers if c.metric == "cache_bytes"):
        first, second = (model_cache(Architecture.from_config(n)) for n in (crossing.first, crossing.second))
        at = crossing.sequence
        assert second.bytes(at) < first.bytes(at)
        assert second.bytes(at - 1) >= first.bytes(at - 1)


def test_longest_context_fills_the_devices():
    found = compare(["llama-3-70b"], [4096], device="h100-sxm-80gb", devices=4, batch=2)
    model = found.models[0]
    room = 4 * 0.9 * get_device("h100-sxm-80gb").memory_bytes.value - 2 * model.parameters
    assert model.longest_context == math.floor(room / 2 / model.cache_per_token)
    assert compare(["llama-3-70b"], [4096], devices=1).models[0].longest_context == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"models": []}, "at least one model"),
        ({"models": ["llama-3-8b", "llama-3-8b"]}, "each model once"),
        ({"sequences": [8, 4]}, "increase"),
        ({"sequences": []}, "increase"),
        ({"sequences": [2**28]}, "at most"),
        ({"devices": 0}, "whole number"),
        ({"batch": 0}, "whole number"),
        ({"device": "h10"}, "h100"),
        ({"models": ["lama-3-8b"]}, "llama-3-8b"),
    ],
)
def test_wrong_questions_are_refused(arguments, words):
    question = {"models": ["llama-3-8b"], "sequences": [4096], **arguments}
    with pytest.raises((InputError, UnsupportedError), match=words):
        compare(**question)
