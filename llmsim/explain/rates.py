"""The rates of a step one by one: their symbols, what they are called, and constants with some of them changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from ..core.numeric import Number
from ..hardware.kernels import KernelConstants
from ..hardware.network import Tier
from ..timing.constants import StepConstants

Change: TypeAlias = Callable[[str, Number], Number]
"""(symbol of a rate, its value) -> what to put in its place."""


@dataclass(frozen=True)
class Rate:
    """A rate.

    Attributes
    ----------
    meaning, unit
        What it is.
    more
        Whether more of it makes a step faster (a bandwidth) or slower (a latency).
    share
        Whether it is a fraction that cannot exceed 1.
    least
        What it cannot fall below.
    lever
        Whether somebody can change it: hardware, software, but not how a kernel's form was fitted.
    """

    meaning: str
    unit: str = ""
    more: bool = True
    share: bool = False
    least: float = 0.0
    lever: bool = True


CLASSES = {
    "gemm_32bit": "32-bit products", "gemm_16bit": "16-bit products", "gemm_8bit": "8-bit products",
    "gemm_4bit": "4-bit products", "grouped": "grouped expert products", "attention": "attention",
    "scan": "scans", "memory": "elementwise kernels", "permute": "routing and permutation", "convert": "conversion",
}  # fmt: skip
"""Class of kernels -> what it is."""
_TRANSFERS = {
    "gradient": "gradient exchange", "parameter": "parameter gathering", "tensor": "tensor-parallel transfers",
    "context": "context-parallel transfers", "expert": "expert all-to-all", "pipeline": "hops between stages",
    "offload": "copies to and from the host", "tensor_on": "tensor-parallel transfers, if asked for",
    "expert_on": "expert all-to-all beside the other pass",
}  # fmt: skip
_FORMATS = {"32bit": "32-bit", "16bit": "16-bit", "8bit": "8-bit", "4bit": "4-bit"}


def _fitted(meaning: str) -> Rate:
    """A fraction that says how the form of a kernel or a collective was fitted."""
    return Rate(meaning, share=True, lever=False)


def _wait(meaning: str) -> Rate:
    return Rate(meaning, "s", more=False)


RATES: dict[str, Rate] = {
    **{f"peak_{k}": Rate(f"{v} peak of the device", "FLOP/s") for k, v in _FORMATS.items()},
    **{f"e_gemm_{k}": _fitted(f"of that peak, what large {v} products reach") for k, v in _FORMATS.items()},
    "B_mem": Rate("bandwidth of the device's memory", "bytes/s"),
    "B_up": Rate("scale-up bandwidth of a device, one way", "bytes/s"),
    "B_out": Rate("scale-out bandwidth of a device, one way", "bytes/s"),
    "B_spine": Rate("bandwidth of a device beyond its pod", "bytes/s"),
    "B_host": Rate("bandwidth to the host's memory, one way", "bytes/s"),
    "B_ram": Rate("a device's share of the bandwidth of the host's memory", "bytes/s"),
    "lat_up": _wait("latency of a step in the scale-up domain"),
    "lat_out": _wait("latency of a step between domains"),
    "lat_spine": _wait("latency of a step beyond the pod"),
    "half_up": Rate("message at half bandwidth, scale-up", "bytes", more=False, lever=False),
    "half_out": Rate("message at half bandwidth, scale-out", "bytes", more=False, lever=False),
    "half_spine": Rate("message at half bandwidth, beyond the pod", "bytes", more=False, lever=False),
    "e_up": _fitted("of the scale-up bandwidth, what large collectives reach"),
    "e_out": _fitted("of the scale-out bandwidth, what large collectives reach"),
    "A_half": Rate("area of an output tile at half efficiency", "elements", more=False, lever=False),
    "k_extra": Rate("depth that the prologue of a tile is worth", "elements", more=False, lever=False),
    "e_grouped": _fitted("rate of grouped products over plain ones"),
    "e_attn_fwd": _fitted("of the 16-bit peak, what attention reaches forward"),
    "e_attn_bwd": _fitted("of the 16-bit peak, what attention reaches backward"),
    "e_scan_fwd": _fitted("of the 16-bit peak, what scans reach forward"),
    "e_scan_bwd": _fitted("of the 16-bit peak, what scans reach backward"),
    "e_recurrence": _fitted("of the 16-bit peak, what recurrences reach"),
    "e_mem": _fitted("of the memory bandwidth, what kernels reach"),
    "e_convert": _fitted("of the memory bandwidth, what conversions reach"),
    "tau": _wait("shortest time of a kernel"),
    **{f"eta_{k}": Rate(f"in-step rate of {v} over the isolated one", share=True) for k, v in CLASSES.items()},
    **{f"phi_{k}": Rate(f"hidden share of {v}", share=True) for k, v in _TRANSFERS.items()},
    "kappa": Rate("slow-down while computing and communicating", more=False, least=1.0),
    "tau_launch": _wait("host time of a kernel launch"),
    "tau_moe": _wait("host time of an expert layer"),
    "graphed": Rate("host work that captured graphs remove", share=True),
    "tau_micro": _wait("fixed time of a micro-batch"),
    "tau_step": _wait("fixed time of a step"),
    "rho": Rate("reserved over allocated memory", more=False, least=1.0, lever=False),
    "M_context": Rate("driver context and communication buffers", "bytes", more=False, lever=False),
    "M_workspace": Rate("kernel workspaces", "bytes", more=False, lever=False),
}
"""Symbol -> rate."""

SHAPE = "s_shape"
SHAPE_MEANING = "time of layers of this shape in measured runs, over the law"
"""No rate of its own: it comes from a table, and nobody can change it."""

_KERNEL = {
    "bandwidth": "B_mem", "tile_half_area": "A_half", "depth_overhead": "k_extra", "grouped_efficiency": "e_grouped",
    "attention_forward": "e_attn_fwd", "attention_backward": "e_attn_bwd", "scan_forward": "e_scan_fwd",
    "scan_backward": "e_scan_bwd", "recurrence": "e_recurrence", "memory_efficiency": "e_mem",
    "quantise_efficiency": "e_convert", "kernel_latency_s": "tau",
}  # fmt: skip
_STEP = {
    "host_bandwidth": "B_host", "host_memory_bandwidth": "B_ram", "inner_efficiency": "e_up",
    "outer_efficiency": "e_out", "contention": "kappa", "launch_s": "tau_launch", "moe_layer_s": "tau_moe",
    "graphed": "graphed", "microbatch_s": "tau_micro", "step_s": "tau_step", "reserved_factor": "rho",
    "context_bytes": "M_context", "workspace_bytes": "M_workspace",
}  # fmt: skip
_TIERS = ("up", "out", "spine")


def rate_meaning(symbol: str, constants: StepConstants) -> str:
    """What a rate is, with the name of the network that it belongs to."""
    names = dict(zip(_TIERS, (tier.name for tier in constants.tiers), strict=False))
    network = names.get(symbol.rpartition("_")[2])
    return RATES[symbol].meaning + (f", {network}" if network else "")


def change_rates(constants: StepConstants, change: Change) -> StepConstants:
    """The constants with every rate passed through ``change``; what is one quantity has one symbol."""
    c = constants
    high = c.high_class.removeprefix("gemm_")
    low = c.low_class.removeprefix("gemm_") if c.low.peak != c.high.peak else high
    tiers = zip(c.tiers, _TIERS, strict=False)
    step = {field: change(symbol, getattr(c, field)) for field, symbol in _STEP.items()}
    return replace(
        c,
        high=_kernels(c.high, high, change),
        low=_kernels(c.low, low, change),
        attention_peak=change(f"peak_{high}", c.attention_peak),
        in_situ={work: change(f"eta_{work}", value) for work, value in c.in_situ.items()},
        tiers=tuple(_tier(tier, name, change) for tier, name in tiers),
        overlap={name: change(f"phi_{name}", value) for name, value in c.overlap.items()},
        **step,
    )


def _kernels(k: KernelConstants, format: str, change: Change) -> KernelConstants:
    own = {field: change(symbol, getattr(k, field)) for field, symbol in _KERNEL.items()}
    peak, efficiency = change(f"peak_{format}", k.peak), change(f"e_gemm_{format}", k.gemm_efficiency)
    return replace(k, peak=peak, gemm_efficiency=efficiency, **own)


def _tier(tier: Tier, name: str, change: Change) -> Tier:
    return replace(
        tier,
        bandwidth=change(f"B_{name}", tier.bandwidth),
        latency_s=change(f"lat_{name}", tier.latency_s),
        half_bytes=change(f"half_{name}", tier.half_bytes),
    )


def scaled(constants: StepConstants, symbol: str, factor: float) -> StepConstants:
    """The constants with one rate times a factor."""
    return change_rates(constants, lambda name, value: value * factor if name == symbol else value)
