"""Seconds of a kernel from its shape: continuous, never decreasing in the work, never faster than the peak.

Every formula takes numbers, arrays (operators x plans) or symbols and returns the same. Constants come from a
:class:`~llmsim.hardware.devices.GenerationRates` profile; peaks and bandwidths from the device.

References
----------
The tile and wave form of matrix products follows the usual account of tiled kernels (NVIDIA, "Matrix multiplication
background user's guide"): a grid of output tiles spread over the compute units, each with a prologue, and split-K
when the tiles do not fill the device.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..core.numeric import Number, maximum, minimum, soft_maximum
from .constants import CONSTANTS
from .devices import Device

TILES = ((256, 256), (256, 128), (128, 128), (128, 64), (64, 64), (64, 32))
"""Rows and columns of the output tiles between which a product may choose."""
SPLITS = (1, 2, 4, 8, 16)
"""Parts into which a product may split its depth."""

FORMAT_CLASS = {
    "fp64": "32bit",
    "fp32": "32bit",
    "tf32": "32bit",
    "bf16": "16bit",
    "fp16": "16bit",
    "fp8": "8bit",
    "fp4": "4bit",
}
"""Matrix format -> class of the efficiency that applies."""


@dataclass(frozen=True, slots=True)
class KernelConstants:
    """The numbers that the kernel formulas need, as plain values (or arrays of calibration draws).

    ``peak`` FLOP/s of the matrix format in use; ``bandwidth`` bytes/s; the rest as in the generation profile.
    """

    peak: Number
    bandwidth: Number
    compute_units: Number
    gemm_efficiency: Number
    tile_half_area: Number
    depth_overhead: Number
    split_cost_s: Number
    sharpness: Number
    grouped_efficiency: Number
    attention_forward: Number
    attention_backward: Number
    attention_head_dim_half: Number
    attention_tail: Number
    scan_forward: Number
    scan_backward: Number
    recurrence: Number
    memory_efficiency: Number
    quantise_efficiency: Number
    kernel_latency_s: Number


FORM_CONSTANTS = tuple(f.name for f in fields(KernelConstants) if f"generations/*/{f.name}" in CONSTANTS)
"""The constants of a generation that do not depend on the matrix format, by their keys in its profile."""


def kernel_constants(device: Device, format: str) -> KernelConstants:
    """The constants of a device for products in a matrix format (bf16, fp8 ...).

    Raises
    ------
    InputError
        When the device has no rate for the format.
    """
    rates = device.kernel_rates().constants
    native = format if device.supports(format) else "bf16" if format in ("fp8", "fp4") else format
    own = FORMAT_CLASS[native]
    efficiency = rates.get(f"gemm_efficiency/{own}") or rates["gemm_efficiency/16bit"]
    return KernelConstants(
        peak=device.peak_of(native),
        bandwidth=device.memory_bandwidth.value,
        compute_units=device.compute_units,
        gemm_efficiency=efficiency.value,
        **{key: rates.get(f"{own}/{key}", rates[key]).value for key in FORM_CONSTANTS},
    )


def gemm_compute_seconds(rows: Number, columns: Number, depth: Number, groups: Number, k: KernelConstants) -> Number:
    """Compute time of ``groups`` products of (rows x depth) by (depth x columns), each with its own output.

    The least over output tiles and split-K factors: time of one tile times the waves of tiles, at least one. A tile of
    area A runs at ``e A / (A + A0)`` of a compute unit's peak, on ``depth / split + k0`` steps.
    """
    per_unit = k.gemm_efficiency * k.peak / k.compute_units
    depths = [depth / split + k.depth_overhead for split in SPLITS]
    best: Number | None = None
    for tile_rows, tile_columns in TILES:
        area = tile_rows * tile_columns
        tiles = maximum(rows / tile_rows, 1.0) * maximum(columns / tile_columns, 1.0) * groups
        step = 2.0 * area * (area + k.tile_half_area) / area / per_unit
        for doublings, (split, steps) in enumerate(zip(SPLITS, depths, strict=True)):
            waves = maximum(tiles * (split / k.compute_units), 1.0)
            time = waves * step * steps + doublings * k.split_cost_s
            best = time if best is None else minimum(best, time)
    return best


def gemm_seconds(
    rows: Number, columns: Number, depth: Number, traffic_bytes: Number, k: KernelConstants, groups: Number = 1
) -> Number:
    """Time of a matrix product, seconds: latency plus the soft maximum of its compute and its memory time."""
    compute = gemm_compute_seconds(rows, columns, depth, groups, k)
    memory = traffic_bytes / (k.memory_efficiency * k.bandwidth)
    return k.kernel_latency_s + soft_maximum(compute, memory, k.sharpness)


def grouped_gemm_seconds(
    rows: Number, columns: Number, depth: Number, groups: Number, traffic_bytes: Number, k: KernelConstants
) -> Number:
    """Time of a grouped product over ``groups`` experts that share ``rows`` rows evenly, seconds.

    Towards many groups the rate falls to ``grouped_efficiency`` of a plain product's; a group of one is a plain
    product.
    """
    slower = 1 + (1 / k.grouped_efficiency - 1) * (1 - 1 / groups)
    compute = gemm_compute_seconds(rows / groups, columns, depth, groups, k) * slower
    memory = traffic_bytes / (k.memory_efficiency * k.bandwidth)
    return k.kernel_latency_s + soft_maximum(compute, memory, k.sharpness)


def attention_seconds(
    flops: Number,
    rows: Number,
    head_dim: Number,
    traffic_bytes: Number,
    k: KernelConstants,
    *,
    backward: bool,
    peak: Number,
) -> Number:
    """Time of a fused attention kernel, seconds.

    Parameters
    ----------
    flops
        Executed multiply-adds x 2 (what is masked out is not executed where the kernel skips it).
    rows
        Query rows x heads on this rank; blocks of 128 rows are spread over the compute units, and the longest blocks
        of a causal kernel leave a tail that weighs less the more blocks there are.
    head_dim
        Width of a query head.
    peak
        16-bit peak, FLOP/s: attention stays in 16 bits under every recipe.
    """
    efficiency = k.attention_backward if backward else k.attention_forward
    width = head_dim / (head_dim + k.attention_head_dim_half)
    tail = 1.0 + k.attention_tail * k.compute_units * 128 / rows
    compute = flops * tail / (efficiency * width * peak)
    memory = traffic_bytes / (k.memory_efficiency * k.bandwidth)
    return k.kernel_latency_s + soft_maximum(compute, memory, k.sharpness)


def scan_seconds(
    flops: Number, traffic_bytes: Number, launches: Number, k: KernelConstants, *, efficiency: Number, peak: Number
) -> Number:
    """Time of the kernels of a scan, seconds: the soft maximum of their products and of their memory traffic.

    Parameters
    ----------
    flops
        Of the products inside them, forward or backward.
    efficiency
        Fraction of ``peak`` that these reach: of matrices (``scan_forward``, ``scan_backward``), or element by element
        (``recurrence``).
    peak
        16-bit peak, FLOP/s.
    """
    memory = traffic_bytes / (k.memory_efficiency * k.bandwidth)
    return launches * k.kernel_latency_s + soft_maximum(flops / (efficiency * peak), memory, k.sharpness)


def memory_seconds(traffic_bytes: Number, launches: Number, k: KernelConstants) -> Number:
    """Time of kernels that only move memory (norms, activations, copies), seconds."""
    return launches * k.kernel_latency_s + traffic_bytes / (k.memory_efficiency * k.bandwidth)


def quantise_seconds(traffic_bytes: Number, k: KernelConstants) -> Number:
    """Time of converting a matrix operand to the low-precision format, seconds."""
    return k.kernel_latency_s + traffic_bytes / (k.quantise_efficiency * k.bandwidth)
