"""The rates of a step one by one: their symbols, what they are called, and constants with some of them changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from ..core.numeric import Number
from ..hardware.constants import CONSTANTS, FORMAT_CLASSES, Constant, constants_of
from ..hardware.kernels import FORM_CONSTANTS, KernelConstants
from ..hardware.network import Tier
from ..timing.step_constants import StepConstants

Change: TypeAlias = Callable[[str, Number], Number]
"""(symbol of a rate, its value) -> what to put in its place."""


_DERIVED = {
    c.symbol: c
    for c in (
        *(Constant("", f"peak_{k}", f"{v} peak of the device", "FLOP/s") for k, v in FORMAT_CLASSES.items()),
        Constant("", "B_spine", "bandwidth of a device beyond its pod", "B/s"),
        Constant("", "lat_spine", "latency of a step beyond the pod", "s", more=False),
        Constant("", "half_spine", "message at half bandwidth, beyond the pod", "B", more=False, lever=False),
    )
}
"""Rates that follow from what profiles state: the peak of a class of formats, the network beyond a pod."""


def rates() -> dict[str, Constant]:
    """Symbol -> rate, of the registry and what follows from it."""
    return {**{c.symbol: c for c in CONSTANTS.values() if c.symbol}, **_DERIVED}


SHAPE = "s_shape"
SHAPE_MEANING = "time of layers of this shape in measured runs, over the law"
"""No rate of its own: it comes from a table, and nobody can change it."""

_TIERS = ("up", "out", "spine")


def _symbol(name: str) -> str:
    return CONSTANTS[name].symbol


def rate_meaning(symbol: str, constants: StepConstants) -> str:
    """What a rate is, with the name of the network that it belongs to."""
    names = dict(zip(_TIERS, (tier.name for tier in constants.tiers), strict=False))
    network = names.get(symbol.rpartition("_")[2])
    return rates()[symbol].meaning + (f", {network}" if network else "")


def change_rates(constants: StepConstants, change: Change) -> StepConstants:
    """The constants with every rate passed through ``change``; what is one quantity has one symbol."""
    c = constants
    high = c.high_class.removeprefix("gemm_")
    low = c.low_class.removeprefix("gemm_") if c.low.peak != c.high.peak else high
    tiers = zip(c.tiers, _TIERS, strict=False)
    symbols = {own.key: own.symbol for own in constants_of("software")}
    device = {f: change(_symbol(f"devices/*/{f}"), getattr(c, f)) for f in ("host_bandwidth", "host_memory_bandwidth")}
    return replace(
        c,
        high=_kernels(c.high, high, change),
        low=_kernels(c.low, low, change),
        attention_peak=change(f"peak_{high}", c.attention_peak),
        in_situ={work: change(_symbol(f"generations/*/in_situ/{work}"), value) for work, value in c.in_situ.items()},
        tiers=tuple(_tier(tier, name, change) for tier, name in tiers),
        overlap={name: change(_symbol(f"software/*/overlap/{name}"), value) for name, value in c.overlap.items()},
        stack={key: _changed(symbols.get(key, ""), value, change) for key, value in c.stack.items()},
        inner_efficiency=change(_symbol("devices/*/scale_up/efficiency"), c.inner_efficiency),
        outer_efficiency=change(_symbol("networks/*/efficiency"), c.outer_efficiency),
        **device,
    )


def _changed(symbol: str, value: Number, change: Change) -> Number:
    """A value passed through ``change``, unless closed forms have no symbol for it."""
    return change(symbol, value) if symbol else value


def _kernels(k: KernelConstants, format: str, change: Change) -> KernelConstants:
    own = {f: _changed(_symbol(f"generations/*/{f}"), getattr(k, f), change) for f in FORM_CONSTANTS}
    peak, bandwidth = change(f"peak_{format}", k.peak), change(_symbol("devices/*/memory_bandwidth"), k.bandwidth)
    efficiency = change(_symbol(f"generations/*/gemm_efficiency/{format}"), k.gemm_efficiency)
    return replace(k, peak=peak, bandwidth=bandwidth, gemm_efficiency=efficiency, **own)


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
