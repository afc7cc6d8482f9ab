"""Families of kernels: which form they have, its constants, and what makes a shape."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...hardware.attention import DecodeConstants, PrefillConstants, decode_seconds, prefill_seconds
from ...hardware.kernels import KernelConstants, gemm_seconds, grouped_gemm_seconds, quantise_seconds
from .fitting import Family, Machine, Parameter, Sizes

_GEMM = (
    Parameter("gemm_efficiency", 0.8, 0.05, 1.0),
    Parameter("memory_efficiency", 0.75, 0.05, 1.0),
    Parameter("kernel_latency_s", 3e-6, 1e-7, 1e-4, "s"),
    Parameter("tile_half_area", 3000.0, 1.0, 3e5, "element"),
    Parameter("depth_overhead", 130.0, 1.0, 4000.0, "element"),
    Parameter("sharpness", 4.0, 1.2, 12.0),
    Parameter("split_cost_s", 1e-6, 1e-9, 2e-5, "s"),
)
_QUANTISE = (Parameter("quantise_efficiency", 0.4, 0.01, 1.0), Parameter("quantise_latency_s", 3e-6, 1e-8, 1e-4, "s"))


def kernel_constants_of(values: Mapping[str, float], machine: Machine) -> KernelConstants:
    """The constants of a form; those that it does not use are 1."""
    known = dict.fromkeys(KernelConstants.__dataclass_fields__, 1.0)
    known |= {"peak": machine.peak, "bandwidth": machine.bandwidth, "compute_units": machine.compute_units}
    return KernelConstants(**(known | {name: v for name, v in values.items() if name in known}))


def _gemm(s: Sizes, values: Mapping[str, float], machine: Machine) -> np.ndarray:
    """A product with weights of ``weight_bytes`` an element, activations of 16 bits in and out; with a pass that
    quantises its operand where the form has constants for one."""
    k = kernel_constants_of(values, machine)
    inside = s["m"] * s["k"] * np.minimum(s["operand_bytes"], 2.0)
    traffic = inside + s["n"] * s["k"] * s["weight_bytes"] + s["m"] * s["n"] * s["output_bytes"]
    seconds = gemm_seconds(s["m"], s["n"], s["k"], traffic, k)
    if "quantise_latency_s" in values:
        seconds = seconds + values["quantise_latency_s"] + 3 * s["m"] * s["k"] / (k.quantise_efficiency * k.bandwidth)
    return np.asarray(seconds)


def _experts(s: Sizes, values: Mapping[str, float], machine: Machine) -> np.ndarray:
    """The two grouped products of gated experts on one rank, tokens spread evenly."""
    k = kernel_constants_of(values, machine)
    local, inner = s["experts"] / s["ep"], s["inter"] / s["tp"]
    slots = s["tokens"] * s["topk"] / s["ep"]
    slots = np.minimum(slots * values["imbalance"], s["tokens"] * np.minimum(s["topk"], local))
    touched = np.maximum(local * (1 - np.exp(-values["spread"] * slots / local)), 1.0)
    width = np.where(s["gated"] > 0, 2.0, 1.0)
    each = s["weight_bytes"] * touched * s["hidden"] * inner
    up = grouped_gemm_seconds(slots, width * inner, s["hidden"], touched,
                              width * each + 2 * slots * (s["hidden"] + width * inner), k)  # fmt: skip
    down = grouped_gemm_seconds(slots, s["hidden"], inner, touched, each + 2 * slots * (s["hidden"] + inner), k)
    sorting = 4 * s["tokens"] * (s["hidden"] + s["topk"] * s["hidden"] / s["ep"]) / (k.memory_efficiency * k.bandwidth)
    return np.asarray(up + down + values["routing_s"] + sorting)


def _grouped(s: Sizes, values: Mapping[str, float], machine: Machine) -> np.ndarray:
    """Products of equal groups, each with its own weights."""
    k = kernel_constants_of(values, machine)
    rows = s["m"] * s["groups"]
    traffic = 2 * s["groups"] * (s["m"] * s["k"] + s["n"] * s["k"] + s["m"] * s["n"])
    return np.asarray(grouped_gemm_seconds(rows, s["n"], s["k"], s["groups"], traffic, k))


LONG_S = 1e-3
"""Duration from which a kernel of training runs into limits of power and clocks."""


def _trained(s: Sizes, values: Mapping[str, float], machine: Machine) -> np.ndarray:
    """Attention of training: as of prompts, the backward pass with five products where the forward one has two.

    Kernels hold keys and values at one width, the larger. Each doubling of the time beyond a millisecond takes
    ``slowing`` longer.
    """
    constants = {**values, "head_half": 0.0, "memory_efficiency": 1.0, "sharpness": 8.0}
    slowing = constants.pop("slowing")
    width = np.maximum(s["qk_dim"], s["v_dim"])
    traffic = 4 * s["batch"] * s["queries"] * width * (s["heads"] + s["kv_heads"])
    forward = prefill_seconds(s["batch"], s["queries"], 0.0, s["heads"], width, traffic, PrefillConstants(**constants),
                              peak=machine.peak, bandwidth=machine.bandwidth,
                              compute_units=machine.compute_units)  # fmt: skip
    return np.asarray((1 + 1.5 * s["backward"]) * forward * (1 + slowing * np.log2(1 + forward / LONG_S)))


def _prefill(s: Sizes, values: Mapping[str, float], machine: Machine) -> np.ndarray:
    k = PrefillConstants(**values)
    width = s["qk_dim"] * (s["heads"] + s["kv_heads"]) + s["v_dim"] * (s["heads"] + s["kv_heads"])
    traffic = 2 * s["batch"] * s["queries"] * width
    return np.asarray(
        prefill_seconds(s["batch"], s["queries"], 0.0, s["heads"], (s["qk_dim"] + s["v_dim"]) / 2, traffic, k,
                        peak=machine.peak, bandwidth=machine.bandwidth, compute_units=machine.compute_units)
    )  # fmt: skip


def _decode(s: Sizes, values: Mapping[str, float], machine: Machine) -> np.ndarray:
    k = DecodeConstants(**values)
    traffic = s["batch"] * s["context"] * s["kv_heads"] * s["kv_bytes"]
    return np.asarray(
        decode_seconds(s["batch"], s["context"], s["kv_heads"], s["heads"] / s["kv_heads"], s["flops_per_key"],
                       traffic, k, peak=machine.peak, bandwidth=machine.bandwidth,
                       compute_units=machine.compute_units)
    )  # fmt: skip


def _quantise(s: Sizes, values: Mapping[str, float], machine: Machine) -> np.ndarray:
    return np.asarray(quantise_seconds(3 * s["m"] * s["k"], kernel_constants_of(values, machine)))


def _collective(s: Sizes, values: Mapping[str, float], machine: Machine) -> np.ndarray:
    """A latency, a bandwidth, and a root of the size that stands for changes of protocol."""
    message = s["message"]
    return np.asarray(values["latency_s"] + message / values["bandwidth"] + values["protocol_s"] * np.sqrt(message))


def _exchange(s: Sizes, values: Mapping[str, float], machine: Machine) -> np.ndarray:
    """A dispatch or combine of experts' tokens."""
    return np.asarray(values["latency_s"] + s["tokens"] * s["hidden"] * s["topk"] / values["bandwidth"])


_LOG_SIZES = ("m", "n", "k")
GEMM = Family("gemm", _GEMM, _gemm, ("n", "k"), _LOG_SIZES)
QUANTISED_GEMM = Family("gemm", _GEMM + _QUANTISE, _gemm, ("n", "k"), _LOG_SIZES)
TRAINED_GEMM = Family("gemm", _GEMM, _gemm, ("n", "k"), ("flops", "tokens"))
"""Of tables over the products of training: what is left depends on how long a product runs, as power and clocks do."""
EXPERTS = Family(
    "experts",
    (
        *_GEMM,
        Parameter("grouped_efficiency", 0.8, 0.05, 1.0),
        Parameter("routing_s", 5e-6, 1e-8, 5e-4, "s"),
        Parameter("imbalance", 1.2, 1.0, 4.0),
        Parameter("spread", 1.0, 0.1, 8.0),
    ),
    _experts,
    ("hidden", "inter", "experts", "topk"),
    ("slots", "local", "hidden", "inner"),
)
PREFILL = Family(
    "prefill",
    (
        Parameter("efficiency", 0.6, 0.02, 1.0),
        Parameter("head_half", 10.0, 0.1, 500.0, "element"),
        Parameter("prologue", 100.0, 1.0, 3000.0, "element"),
        Parameter("longest", 0.8, 0.05, 1.0),
        Parameter("memory_efficiency", 0.7, 0.02, 1.0),
        Parameter("latency_s", 8e-6, 1e-7, 2e-4, "s"),
        Parameter("sharpness", 4.0, 1.2, 12.0),
    ),
    _prefill,
    ("heads",),
    ("rows", "queries", "qk_dim", "group"),
)
DECODE = Family(
    "decode",
    (
        Parameter("bandwidth_efficiency", 0.8, 0.02, 1.0),
        Parameter("chunk", 512.0, 16.0, 16384.0, "element"),
        Parameter("occupancy", 1.0, 0.05, 8.0),
        Parameter("compute_efficiency", 0.3, 0.002, 1.0),
        Parameter("split_s", 1e-7, 1e-10, 2e-5, "s"),
        Parameter("latency_s", 1e-5, 1e-7, 2e-4, "s"),
        Parameter("sharpness", 3.0, 1.2, 12.0),
    ),
    _decode,
    ("heads",),
    ("rows", "context", "width", "group"),
)
GROUPED = Family(
    "grouped",
    (*_GEMM, Parameter("grouped_efficiency", 0.8, 0.05, 1.0)),
    _grouped,
    ("n", "k"),
    ("m", "n", "k", "groups"),
)
TRAINED_ATTENTION = Family(
    "attention",
    (
        Parameter("efficiency", 0.5, 0.02, 1.0),
        Parameter("prologue", 100.0, 1.0, 3000.0, "element"),
        Parameter("longest", 0.8, 0.05, 4.0),
        Parameter("latency_s", 8e-6, 1e-7, 2e-4, "s"),
        Parameter("slowing", 0.05, 1e-4, 1.0),
    ),
    _trained,
    ("heads", "kv_heads", "qk_dim"),
    ("queries", "heads", "qk_dim"),
)
QUANTISE = Family(
    "quantise",
    (Parameter("quantise_efficiency", 0.4, 0.005, 1.0), Parameter("kernel_latency_s", 3e-6, 1e-7, 1e-4, "s")),
    _quantise,
    ("k",),
    ("m", "k"),
)
COLLECTIVE = Family(
    "collective",
    (
        Parameter("latency_s", 1e-5, 1e-7, 5e-3, "s"),
        Parameter("bandwidth", 2e11, 1e8, 1e13, "B/s"),
        Parameter("protocol_s", 1e-9, 1e-13, 1e-6, "s"),
    ),
    _collective,
    ("message",),
    ("message",),
)
EXCHANGE = Family(
    "exchange",
    (Parameter("latency_s", 5e-5, 1e-6, 5e-3, "s"), Parameter("bandwidth", 1e11, 1e8, 1e13, "1/s")),
    _exchange,
    ("tokens",),
    ("tokens", "hidden", "topk"),
)
