"""Counts of a step: the same FLOPs, bytes and states as the terms that PyTorch was compared with."""

from __future__ import annotations

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsim.architecture import Architecture
from llmsim.core.errors import InputError, UnsupportedError
from llmsim.core.formats import get_format
from llmsim.hardware.cluster import Cluster
from llmsim.hardware.engines import get_engine
from llmsim.hardware.named import get_device
from llmsim.serving.cache import ONE_DEVICE, model_cache
from llmsim.serving.decode import decode_flops
from llmsim.serving.layer_counts import Degrees
from llmsim.serving.served_model import StepBatch, served_model, touched_share
from llmsim.serving.step_time import machine_of, time_step
from llmsim.serving.weights import CLASSES, weight_scheme
from llmsim.timing.columns import Columns
from llmsim.timing.forward_flops import layer_forward_flops

MODELS = (
    "llama-3.1-8b", "gemma-2-9b", "gpt-oss-20b", "mixtral-8x7b", "deepseek-v2-lite", "deepseek-r1", "qwen3-30b-a3b",
    "mamba2-2.7b", "qwen3-next-80b-a3b", "falcon-7b",
)  # fmt: skip


def flops_of(name: str, batch: StepBatch) -> float:
    return float(served_model(Architecture.from_config(name)).step(batch).total_flops)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("context", [1, 700, 9000])
def test_decoding_has_the_flops_of_a_decoding_step(name: str, context: int) -> None:
    model = Architecture.from_config(name)
    counted = flops_of(name, StepBatch(3, context, logits=3))
    assert counted == pytest.approx(3 * float(decode_flops(model, context + 1)), rel=1e-12)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("queries", "cached"), [(512, 0), (512, 1024), (64, 6000)])
def test_prompts_have_the_flops_of_a_forward_pass(name: str, queries: int, cached: int) -> None:
    if "mamba" in name or "next" in name:
        pytest.skip("scans of prompts go in chunks: counted by the token here")
    model = Architecture.from_config(name)
    columns = Columns(queries, 2, 1, cached=cached)
    body = sum(layer_forward_flops(model.kinds[layer], ONE_DEVICE, columns) for layer in model.layers)
    head = 2 * layer_forward_flops(model.head, ONE_DEVICE, Columns(1, 1, 1))
    assert flops_of(name, StepBatch(0, 0, 2, queries, cached, 2)) == pytest.approx(float(body + head), rel=1e-12)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("context", [1, 100, 5000])
def test_the_cache_is_the_state_of_the_layers(name: str, context: int) -> None:
    model = Architecture.from_config(name)
    assert served_model(model).cache_bytes(context) == model_cache(model).bytes(context)


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_all_parameters(name: str) -> None:
    model = Architecture.from_config(name)
    served = served_model(model)
    held = sum(n * layer.held_bytes for layer, n in served.layers) + served.embedding.held_bytes
    held += 0 if model.tied else served.head.held_bytes
    tied = served.head.held_bytes - served.embedding.held_bytes if model.tied else 0
    assert held + max(tied, 0) == 2 * model.parameters


@pytest.mark.parametrize("format", ["fp8-block", "nvfp4", "mxfp4", "w4g128", "w4g128z", "q4_k", "q6_k", "int8"])
def test_stored_formats_have_the_bytes_of_tensors_with_their_scales(format: str) -> None:
    own = get_format(format)
    values = np.zeros(4096 * 4096 * own.bits // 8, np.uint8).nbytes
    scales = 4096 * 4096 // own.block * own.scale_bits // 8 if own.block else 0
    assert own.bytes(4096 * 4096) == values + scales


def test_tensor_parallel_ranks_share_weights_heads_and_sums() -> None:
    model = Architecture.from_config("llama-3.1-70b")
    one, four = (served_model(model, Degrees(tensor=n)).step(StepBatch(8, 1000, logits=8)) for n in (1, 4))
    assert four.weight_bytes["mlp"] * 4 == one.weight_bytes["mlp"]
    assert four.decode_bytes * 4 == one.decode_bytes
    assert one.reductions == 0
    assert four.reductions == 2 * 80 + 1
    assert four.reduced_bytes == (2 * 80 + 1) * 8 * 8192 * 2


def test_keys_are_repeated_where_there_are_more_ranks_than_heads() -> None:
    model = Architecture.from_config("llama-3.1-70b")
    eight, sixteen = (served_model(model, Degrees(tensor=n)).cache_bytes(1000) for n in (8, 16))
    assert eight == sixteen


def test_experts_are_read_as_often_as_tokens_are_sent_to_them() -> None:
    assert touched_share(256, 8, 1) == pytest.approx(8 / 256)
    assert touched_share(8, 2, 10_000) == pytest.approx(1)
    model = served_model(Architecture.from_config("mixtral-8x7b"))
    few, many = (model.step(StepBatch(n, 100, logits=n)).weight_bytes["experts"] for n in (1, 1000))
    assert few * 4 == pytest.approx(many)


def test_latent_attention_decodes_absorbed_and_prompts_expand() -> None:
    model = served_model(Architecture.from_config("deepseek-r1"))
    decode, prompt = model.step(StepBatch(1, 4000, logits=1)), model.step(StepBatch(0, 0, 1, 1, 4000, 1))
    assert decode.decode_flops / prompt.prompt_flops == pytest.approx(278_528 / 81_920)
    assert decode.decode_bytes == 61 * 4001 * 576 * 2


@pytest.mark.parametrize(
    ("name", "degrees", "message"),
    [("t5-base", Degrees(), "generate text"), ("bert-base", Degrees(), "generate text")],
)
def test_models_that_do_not_generate_are_refused(name: str, degrees: Degrees, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        served_model(Architecture.from_config(name), degrees)


# --- stored formats by name -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bf16", "fp8", "nvfp4", "mxfp4", "int8", "awq", "w4g64", "q4_k_m", "nf4", "FP8 "])
def test_schemes_name_a_format_for_each_class(name: str) -> None:
    assert set(weight_scheme(name).formats) == set(CLASSES)


def test_checkpoints_leave_out_what_they_leave_out() -> None:
    assert weight_scheme("nvfp4", latent_attention=True).formats["attention"].name == "bf16"
    assert weight_scheme("mxfp4", has_experts=True).formats["attention"].name == "bf16"
    assert weight_scheme("mxfp4", has_experts=True).formats["experts"].name == "mxfp4"
    own = weight_scheme("experts:nvfp4,attention:fp8").formats
    assert (own["experts"].name, own["attention"].name, own["mlp"].name) == ("nvfp4", "fp8", "bf16")


@pytest.mark.parametrize("name", ["fp9", "experts:", "heads:fp8", "w4g", ""])
def test_unknown_formats_are_refused_with_the_nearest(name: str) -> None:
    with pytest.raises(InputError):
        weight_scheme(name)


def test_products_are_computed_in_what_a_device_multiplies() -> None:
    hopper, ampere, blackwell = map(get_device, ("h100", "a100", "b200"))
    fp8, nvfp4, mxfp4 = map(weight_scheme, ("fp8", "nvfp4", "mxfp4"))
    assert fp8.compute("mlp", hopper) == "fp8"
    assert fp8.compute("mlp", ampere) == "bf16"
    assert nvfp4.compute("mlp", hopper) == "bf16"
    assert nvfp4.compute("mlp", blackwell) == "fp4"
    assert mxfp4.compute("mlp", hopper) == "bf16"
    assert mxfp4.compute("mlp", blackwell) == "fp8"
    assert fp8.compute("head", hopper) == "bf16"


# --- time of a step -------------------------------------------------------------------------------------------------

CLUSTER = Cluster.parse("1x4xh100-sxm-80gb")
RATES = get_engine("vllm").rates()


def seconds(name: str, batch: StepBatch, *, tensor: int = 4, weights: str = "bf16", kv: str = "bf16") -> float:
    model = served_model(Architecture.from_config(name), Degrees(tensor=tensor), weights=weights, cache=kv)
    return float(time_step(model, batch, machine_of(CLUSTER, model), RATES).seconds)


counts = st.integers(1, 300)
lengths = st.integers(1, 20_000)
names = st.sampled_from(["llama-3.1-8b", "gpt-oss-20b", "deepseek-v2-lite", "qwen3-30b-a3b"])


@settings(max_examples=60, deadline=None)
@given(names, counts, lengths, st.integers(1, 4096), st.integers(0, 8000))
def test_a_mixed_step_lies_between_its_parts(name: str, running: int, context: int, queries: int, cached: int) -> None:
    decode = seconds(name, StepBatch(running, context, logits=running))
    prompt = seconds(name, StepBatch(0, 0, 1, queries, cached, 1))
    mixed = seconds(name, StepBatch(running, context, 1, queries, cached, running + 1))
    assert max(decode, prompt) * (1 - 1e-12) <= mixed <= (decode + prompt) * (1 + 1e-12)


@settings(max_examples=60, deadline=None)
@given(names, counts, lengths, counts, lengths)
def test_more_sequences_and_longer_contexts_are_never_faster(
    name: str, running: int, context: int, more: int, longer: int
) -> None:
    short = seconds(name, StepBatch(running, context, logits=running))
    assert seconds(name, StepBatch(running + more, context, logits=running + more)) >= short
    assert seconds(name, StepBatch(running, context + longer, logits=running)) >= short


@settings(max_examples=30, deadline=None)
@given(counts, lengths)
def test_more_stored_bits_of_one_kernel_are_never_faster(running: int, context: int) -> None:
    batch = StepBatch(running, context, logits=running)
    narrow, wide = (seconds("llama-3.1-8b", batch, weights=w) for w in ("w4g128", "w8g128"))
    assert narrow <= wide
    narrow, wide = (seconds("llama-3.1-8b", batch, kv=k) for k in ("fp8", "bf16"))
    assert narrow <= wide


def test_parts_add_up_and_windows_never_cost_more() -> None:
    model = served_model(Architecture.from_config("gpt-oss-20b"))
    time = time_step(model, StepBatch(16, 8000, logits=16), machine_of(CLUSTER, model), RATES)
    assert float(time.seconds) == pytest.approx(sum(time.parts.values()))
    counted = model.step(StepBatch(16, 8000, logits=16))
    whole = 24 * 16 * 8001 * model.layers[0][0].kept_bytes
    assert counted.decode_bytes < whole


def test_numbers_arrays_and_symbols_agree() -> None:
    model = served_model(Architecture.from_config("qwen3-30b-a3b"), Degrees(tensor=2, expert=2))
    machine = machine_of(CLUSTER, model)
    running, context = np.array([1, 7, 64]), np.array([100, 5000, 900])
    array = time_step(model, StepBatch(running, context, 1, 512, 0, running + 1), machine, RATES).seconds
    b, x = sympy.symbols("b x", positive=True)
    closed = time_step(model, StepBatch(b, x, 1, 512, 0, b + 1), machine, RATES).seconds
    for n, (own, length) in enumerate(zip(running.tolist(), context.tolist(), strict=True)):
        single = time_step(model, StepBatch(own, length, 1, 512, 0, own + 1), machine, RATES).seconds
        assert array[n] == pytest.approx(single, rel=1e-12)
        assert float(closed.subs({b: own, x: length})) == pytest.approx(single, rel=1e-9)
