"""Kernel rates: never faster than the peak, never decreasing in the work, the same for numbers, arrays and symbols."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsim.core.symbolic import recorded_switches, symbol
from llmsim.hardware.devices import device_names
from llmsim.hardware.kernels import (
    attention_seconds,
    gemm_seconds,
    grouped_gemm_seconds,
    kernel_constants,
    memory_seconds,
    quantise_seconds,
)
from llmsim.hardware.named import get_device

sizes = st.integers(1, 40_000)
devices = st.sampled_from(device_names())


def gemm(m, n, d, k, groups=1):
    return gemm_seconds(m, n, d, 2 * (m * d + d * n + m * n) * groups, k, groups)


@given(devices, sizes, sizes, sizes)
def test_gemm_stays_below_the_peak(name, m, n, d):
    k = kernel_constants(get_device(name), "bf16")
    seconds = gemm(m, n, d, k)
    assert seconds >= k.kernel_latency_s
    assert seconds >= 2.0 * m * n * d / k.peak
    assert seconds >= 2 * (m * d + d * n + m * n) / k.bandwidth


@given(sizes, sizes, sizes, st.sampled_from(["m", "n", "d"]), st.floats(1.0, 3.0))
def test_gemm_grows_with_each_size(m, n, d, which, factor):
    k = kernel_constants(get_device("h100-sxm-80gb"), "bf16")
    shape = {"m": m, "n": n, "d": d}
    larger = {**shape, which: shape[which] * factor}
    assert gemm(larger["m"], larger["n"], larger["d"], k) >= gemm(m, n, d, k) * (1 - 1e-12)


@given(st.integers(64, 16_384), st.integers(64, 16_384), st.integers(64, 16_384))
def test_gemm_is_continuous(m, n, d):
    k = kernel_constants(get_device("a100-sxm-80gb"), "bf16")
    assert gemm(m * (1 + 1e-9), n, d, k) == pytest.approx(gemm(m, n, d, k), rel=1e-6)


@given(st.integers(1, 128), st.integers(1, 4096), st.integers(64, 8192), st.integers(64, 8192))
def test_groups_cost_at_least_one_product(groups, rows, n, d):
    k = kernel_constants(get_device("b200-sxm-180gb"), "bf16")
    total = rows * groups
    traffic = 2 * (total * d + groups * d * n + total * n)
    one = gemm_seconds(total, n, d, traffic, k)
    assert grouped_gemm_seconds(total, n, d, groups, traffic, k) >= one * (1 - 1e-9)
    assert grouped_gemm_seconds(total, n, d, 1, traffic, k) == pytest.approx(one)


@given(st.floats(1e6, 1e15), st.integers(64, 10**7), st.sampled_from([64, 96, 128, 192]), st.booleans())
def test_attention_stays_below_the_peak_and_grows(flops, rows, head_dim, backward):
    k = kernel_constants(get_device("h200-sxm-141gb"), "bf16")

    def seconds(f, r, h):
        return attention_seconds(f, r, h, 1e6, k, backward=backward, peak=k.peak)

    assert seconds(flops, rows, head_dim) >= flops / k.peak
    assert seconds(2 * flops, rows, head_dim) >= seconds(flops, rows, head_dim)
    # The same work in more blocks fills the device better.
    assert seconds(flops, 2 * rows, head_dim) <= seconds(flops, rows, head_dim)


@given(st.floats(0, 1e12), st.integers(1, 10))
def test_memory_bound_kernels_respect_the_bandwidth(traffic, launches):
    k = kernel_constants(get_device("mi300x-192gb"), "bf16")
    assert memory_seconds(traffic, launches, k) >= traffic / k.bandwidth
    assert memory_seconds(traffic, launches, k) >= launches * k.kernel_latency_s
    assert quantise_seconds(traffic, k) >= traffic / k.bandwidth


@given(st.lists(st.tuples(sizes, sizes, sizes), min_size=1, max_size=5))
def test_scalar_equals_array(shapes):
    k = kernel_constants(get_device("gb200-186gb"), "fp8")
    m, n, d = np.array(shapes).T
    together = gemm(m, n, d, k)
    each = [gemm(int(a), int(b), int(c), k) for a, b, c in shapes]
    assert together == pytest.approx(each, rel=1e-12)


@pytest.mark.parametrize("shape", [(64, 512, 1024), (4096, 8192, 8192), (8192, 28672, 128), (3, 5, 7)])
def test_scalar_equals_symbol_in_its_regime(shape):
    k = kernel_constants(get_device("h100-sxm-80gb"), "bf16")
    m, n, d = (symbol(name, value) for name, value in zip("mnd", shape, strict=True))
    with recorded_switches() as switches:
        formula = gemm(m, n, d, k)
    expected = gemm(*shape, k)
    assert formula.value == pytest.approx(expected, rel=1e-12)
    put_in = {s.expr: s.value for s in (m, n, d)}
    assert float(formula.expr.subs(put_in)) == pytest.approx(expected, rel=1e-12)
    assert switches
    slope = float(formula.expr.diff(m.expr).subs(put_in))
    step = 1e-6 * shape[0]
    assert slope == pytest.approx((gemm(shape[0] + step, *shape[1:], k) - expected) / step, rel=1e-2, abs=1e-15)
