"""Attention of inference: bounded by peak and bandwidth, never faster for more work, the same for arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsim.core.symbolic import recorded_switches, symbol
from llmsim.hardware.attention import TILE_ROWS, DecodeConstants, PrefillConstants, decode_seconds, prefill_seconds
from llmsim.hardware.devices import bundled_device
from llmsim.hardware.kernel_fits import KernelFit, fitted_devices, kernel_fit, kernel_fits

WIDTH = 128


def fits(family: str) -> list[tuple[str, KernelFit]]:
    """(device, fit) of a family."""
    found = ((d, kernel_fits(d, "silicon")) for d in fitted_devices("silicon"))
    return [(d, f) for d, own in found if own is not None for f in own.fits if f.family == family]


PREFILLS, DECODES = fits("prefill"), fits("decode")


def limits(device: str, format: str = "bf16") -> dict[str, float]:
    own = bundled_device(device)
    return {"peak": own.peak_of(format), "bandwidth": own.memory_bandwidth.value, "compute_units": own.compute_units}


def decode(device, fit, batch, context, heads=64, kv_heads=8, width=WIDTH, kv_bytes=2):
    traffic = 2.0 * batch * context * kv_heads * width * kv_bytes
    return decode_seconds(batch, context, kv_heads, heads / kv_heads, 4 * width, traffic,
                          DecodeConstants(**fit.values), **limits(device))  # fmt: skip


def prefill(device, fit, batch, queries, cached=0.0, heads=64, kv_heads=8, width=WIDTH):
    traffic = 4.0 * batch * queries * width * heads + 4.0 * batch * (queries + cached) * width * kv_heads
    return prefill_seconds(batch, queries, cached, heads, width, traffic, PrefillConstants(**fit.values),
                           **limits(device))  # fmt: skip


batches, contexts, sequences = st.integers(1, 512), st.integers(1, 131_072), st.integers(1, 32_768)
heads = st.sampled_from([(8, 1), (8, 8), (32, 8), (64, 8), (96, 8), (128, 8)])
longer = st.floats(1.0, 4.0)


@given(st.sampled_from(DECODES), batches, contexts, heads)
def test_decoding_takes_the_keys_at_the_bandwidth_at_least(own, batch, context, layout):
    device, fit = own
    traffic = 4.0 * batch * context * layout[1] * WIDTH
    flops = 4.0 * batch * layout[0] * context * WIDTH
    seconds = decode(device, fit, batch, context, *layout)
    assert seconds > fit.values["latency_s"]
    assert seconds > traffic / limits(device)["bandwidth"]
    assert seconds > flops / limits(device)["peak"]


@given(st.sampled_from(DECODES), batches, contexts, heads, st.sampled_from(["batch", "context", "heads"]), longer)
def test_decoding_never_gets_faster_with_more_work(own, batch, context, layout, which, factor):
    device, fit = own
    sizes = {"batch": batch, "context": context, "heads": layout[0], "kv_heads": layout[1]}
    more = {**sizes, which: sizes[which] * factor}
    if which == "heads":
        more["kv_heads"] = sizes["kv_heads"] * factor
    assert decode(device, fit, **more) >= decode(device, fit, **sizes) * (1 - 1e-12)


@given(st.sampled_from(DECODES), batches, contexts, heads)
def test_more_queries_on_the_same_keys_are_never_faster(own, batch, context, layout):
    device, fit = own
    few, many = (decode(device, fit, batch, context, count, layout[1]) for count in (layout[0], 2 * layout[0]))
    assert many >= few * (1 - 1e-12)


def test_one_long_sequence_uses_the_whole_device():
    """32 k tokens with 4 KiB of keys and values each: 40 us at the bandwidth of H100."""
    own = "h100-sxm-80gb"
    least = 4.0 * 32_768 * 8 * WIDTH / limits(own)["bandwidth"]
    assert least == pytest.approx(40e-6, rel=0.01)
    for library in ("trtllm", "vllm"):
        fit = kernel_fit(own, "decode", library, "bf16")
        assert fit is not None
        assert least < decode(own, fit, 1, 32_768) < 2 * least


def test_a_large_batch_reaches_the_fitted_bandwidth():
    fit = kernel_fit("h100-sxm-80gb", "decode", "vllm", "bf16")
    assert fit is not None
    least = 4.0 * 256 * 8192 * 8 * WIDTH / limits("h100-sxm-80gb")["bandwidth"]
    reached = least / fit.values["bandwidth_efficiency"]
    assert reached < decode("h100-sxm-80gb", fit, 256, 8192) < 1.2 * reached


def test_narrow_keys_take_less_time():
    fit = kernel_fit("h100-sxm-80gb", "decode", "vllm", "bf16")
    assert fit is not None
    wide, narrow = (decode("h100-sxm-80gb", fit, 64, 8192, kv_bytes=each) for each in (2, 1))
    assert 0.5 * wide < narrow < 0.6 * wide


@given(st.sampled_from(PREFILLS), st.integers(1, 64), sequences, st.integers(0, 65_536), heads)
def test_prompts_stay_below_the_peak(own, batch, queries, cached, layout):
    device, fit = own
    pairs = queries * cached + queries * (queries + 1) / 2
    flops = 4.0 * batch * layout[0] * pairs * WIDTH
    seconds = prefill(device, fit, batch, queries, cached, *layout)
    assert seconds > fit.values["latency_s"]
    assert seconds > flops / limits(device, fit.format.split("-")[0])["peak"]
    assert seconds > 4.0 * batch * queries * WIDTH * layout[0] / limits(device)["bandwidth"]


@given(
    st.sampled_from(PREFILLS), st.integers(1, 64), sequences, st.integers(0, 65_536), heads,
    st.sampled_from(["batch", "queries", "cached", "heads"]), longer,
)  # fmt: skip
def test_prompts_never_get_faster_with_more_work(own, batch, queries, cached, layout, which, factor):
    device, fit = own
    sizes = {"batch": batch, "queries": queries, "cached": cached, "heads": layout[0], "kv_heads": layout[1]}
    more = {**sizes, which: sizes[which] * factor}
    assert prefill(device, fit, **more) >= prefill(device, fit, **sizes) * (1 - 1e-12)


def test_chunks_of_a_prompt_take_about_as_long_as_the_whole():
    fit = kernel_fit("h100-sxm-80gb", "prefill", "vllm", "bf16")
    assert fit is not None
    whole = prefill("h100-sxm-80gb", fit, 1, 16_384)
    chunks = sum(prefill("h100-sxm-80gb", fit, 1, 2048, cached) for cached in range(0, 16_384, 2048))
    assert whole < chunks < 1.5 * whole


def test_arrays_give_what_numbers_give():
    fit = kernel_fit("h100-sxm-80gb", "decode", "vllm", "bf16")
    assert fit is not None
    batch, context = np.array([1, 7, 256]), np.array([100, 131_072, 4096])
    each = [decode("h100-sxm-80gb", fit, int(b), int(c)) for b, c in zip(batch, context, strict=True)]
    assert decode("h100-sxm-80gb", fit, batch, context) == pytest.approx(each, rel=1e-12)
    fit = kernel_fit("h100-sxm-80gb", "prefill", "vllm", "bf16")
    assert fit is not None
    queries = np.array([1, TILE_ROWS, TILE_ROWS + 1, 8192])
    each = [prefill("h100-sxm-80gb", fit, 2, int(q)) for q in queries]
    assert prefill("h100-sxm-80gb", fit, 2, queries) == pytest.approx(each, rel=1e-12)


def test_symbols_give_what_numbers_give():
    fit = kernel_fit("h100-sxm-80gb", "decode", "vllm", "bf16")
    assert fit is not None
    context = symbol("context", 32_768)
    with recorded_switches():
        formula = decode("h100-sxm-80gb", fit, 4, context)
    expected = decode("h100-sxm-80gb", fit, 4, 32_768)
    assert formula.value == pytest.approx(expected, rel=1e-12)
    assert float(formula.expr.subs({context.expr: 32_768})) == pytest.approx(expected, rel=1e-12)
