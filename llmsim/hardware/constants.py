"""The registry of constants: every rate that profiles state, that fits may move and that closed forms name.

One entry says all of a constant: where a fit and a profile have it, its unit and range, its prior, its symbol and
meaning, and what to measure. Profiles check what they state against it, overlays and fits find it by its path, doctor
says how to settle it, explain names it, and ``docs/constants.md`` lists it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import lru_cache

from .constant import LEARNED, Constant, Kind
from .engine_constants import ENGINE_CONSTANTS

__all__ = ["CONSTANTS", "LEARNED", "Constant", "Kind", "constant_at", "constants_of", "moved_by_serving",
           "moved_by_steps"]  # fmt: skip

WORK_CLASSES = {
    "gemm_32bit": "32-bit products", "gemm_16bit": "16-bit products", "gemm_8bit": "8-bit products",
    "gemm_4bit": "4-bit products", "grouped": "grouped expert products", "attention": "attention",
    "scan": "scans", "memory": "elementwise kernels", "permute": "routing and permutation", "convert": "conversion",
}  # fmt: skip
"""Classes of kernels that share an in-step efficiency."""
FORMAT_CLASSES = {"32bit": "32-bit", "16bit": "16-bit", "8bit": "8-bit", "4bit": "4-bit"}
"""Classes of matrix formats."""

NARROW = ("8bit", "4bit")
"""Classes whose products may have tiles of their own; without, those of 16 bits hold."""

_LEAST = 1e-6
_KERNELS, _STACK = "generations/{generation}", "software/{stack}"
_KERNEL_TABLE = "times of such kernels alone, over sizes"
_NCCL = "bus bandwidth of all-reduces over sizes (nccl-tests)"
_BOTH_MICRO_BATCHES = "the same job with the smallest and the largest micro-batch: llmsim calibrate"
_BOTH_OVERLAPS = "the same job with and without this overlap: llmsim calibrate"


def _efficiency(path: str, symbol: str, meaning: str, *, optional: bool = False) -> Constant:
    """A fraction that says how the form of a kernel was fitted."""
    return Constant(path, symbol, meaning, low=_LEAST, high=1, measure=_KERNEL_TABLE, lever=False, optional=optional)


def _kernel(key: str, symbol: str, meaning: str, unit: str = "1", *, lever: bool = False) -> Constant:
    path = f"{_KERNELS}/{key}"
    return Constant(path, symbol, meaning, unit, high=1e9, measure=_KERNEL_TABLE, more=False, lever=lever)


def _in_situ(work: str, width: float) -> Constant:
    measure = "time a training step of one device whose kernels are mostly of this class"
    meaning = f"in-step rate of {WORK_CLASSES[work]} over the isolated one"
    path = f"{_KERNELS}/in_situ/{work}"
    return Constant(path, f"eta_{work}", meaning, low=_LEAST, high=1, width=width, measure=measure)


def _host(key: str, symbol: str, meaning: str, width: float) -> Constant:
    path = f"{_STACK}/host/{key}"
    return Constant(path, symbol, meaning, "s", width=width, measure=_BOTH_MICRO_BATCHES, more=False)


def _overlap(key: str, transfers: str, width: float | None = None) -> Constant:
    path, meaning = f"{_STACK}/overlap/{key}", f"hidden share of {transfers}"
    return Constant(path, f"phi_{key}", meaning, high=1, width=width, measure=_BOTH_OVERLAPS)


def _wire(path: str, symbol: str, meaning: str, *, low: float, usual: float) -> Constant:
    return Constant(
        path,
        symbol,
        meaning,
        "B/s",
        low=low,
        high=1e15,
        usual=usual,
        fact=True,
        measure="its data sheet, or a copy in one direction",
    )


def _link(kind: str, tier: str, where: str, width: float) -> tuple[Constant, ...]:
    """What collectives reach of a network's bandwidth, and when."""
    reached = "bus bandwidth of a large all-reduce " + (
        "within one scale-up domain (nccl-tests)" if tier == "up" else "over all nodes (nccl-tests)"
    )
    large = f"of the scale-{tier} bandwidth, what large collectives reach"
    between = "in the scale-up domain" if tier == "up" else "between domains"
    return (
        Constant(f"{kind}/{where}efficiency", f"e_{tier}", large, low=_LEAST, high=1, width=width, measure=reached,
                 lever=False, usual=0.8),
        Constant(f"{kind}/{where}latency_s", f"lat_{tier}", f"latency of a step of a ring {between}", "s", low=1e-9,
                 high=1.0, measure=_NCCL, more=False, usual=1e-5),
        Constant(f"{kind}/{where}half_bytes", f"half_{tier}", f"message at half bandwidth, scale-{tier}", "B",
                 high=1e12, measure=_NCCL, more=False, lever=False, usual=5e6),
    )  # fmt: skip


_DEVICE, _FABRIC = "devices/{device}", "networks/{fabric}"

CONSTANTS: dict[str, Constant] = {c.name: c for c in (
    *(_efficiency(f"{_KERNELS}/gemm_efficiency/{k}", f"e_gemm_{k}", f"of that peak, what large {v} products reach",
                  optional=k in ("8bit", "4bit"))
      for k, v in FORMAT_CLASSES.items()),
    _kernel("tile_half_area", "A_half", "area of an output tile at half efficiency", "element"),
    _kernel("depth_overhead", "k_extra", "depth that the prologue of a tile is worth", "element"),
    _kernel("split_cost_s", "", "time of each doubling of split-K", "s"),
    _kernel("sharpness", "", "exponent of the soft maximum of computing and memory traffic"),
    _efficiency(f"{_KERNELS}/grouped_efficiency", "e_grouped", "rate of grouped products over plain ones"),
    _efficiency(f"{_KERNELS}/attention_forward", "e_attn_fwd", "of the 16-bit peak, what attention reaches forward"),
    _efficiency(f"{_KERNELS}/attention_backward", "e_attn_bwd", "of the 16-bit peak, what attention reaches backward"),
    _kernel("attention_head_dim_half", "", "width of a head at which attention reaches half of that", "element"),
    _kernel("attention_tail", "", "unfilled time at the end of an attention kernel, in blocks per compute unit"),
    _efficiency(f"{_KERNELS}/scan_forward", "e_scan_fwd", "of the 16-bit peak, what scans reach forward"),
    _efficiency(f"{_KERNELS}/scan_backward", "e_scan_bwd", "of the 16-bit peak, what scans reach backward"),
    _efficiency(f"{_KERNELS}/recurrence", "e_recurrence", "of the 16-bit peak, what recurrences reach"),
    _efficiency(f"{_KERNELS}/memory_efficiency", "e_mem", "of the memory bandwidth, what kernels reach"),
    _efficiency(f"{_KERNELS}/quantise_efficiency", "e_convert", "of the memory bandwidth, what conversions reach"),
    _kernel("kernel_latency_s", "tau", "shortest time of a kernel", "s", lever=True),
    *(replace(_kernel(f"{k}/{key}", "", f"{meaning}, {FORMAT_CLASSES[k]} products", unit), optional=True)
      for k in NARROW
      for key, meaning, unit in (("tile_half_area", "area of an output tile at half efficiency", "element"),
                                 ("depth_overhead", "depth that the prologue of a tile is worth", "element"),
                                 ("split_cost_s", "time of each doubling of split-K", "s"))),
    _in_situ("gemm_32bit", 0.15),
    _in_situ("gemm_16bit", 0.12),
    _in_situ("gemm_8bit", 0.15),
    _in_situ("gemm_4bit", 0.15),
    _in_situ("grouped", 0.25),
    _in_situ("attention", 0.20),
    _in_situ("scan", 0.60),  # no figure of its law is published
    _in_situ("memory", 0.20),
    _in_situ("permute", 0.40),
    _in_situ("convert", 0.25),
    Constant(f"{_DEVICE}/in_situ", "", "in-step rate of kernels over that of the generation: power and clocks",
             low=_LEAST, high=1, width=0.06, measure="time a training step that fits one device", usual=0.95),
    Constant(f"{_STACK}/rates/in_situ/{{generation}}", "", "of the in-step rate, what the kernels of this stack reach",
             low=_LEAST, high=1, width=0.15,
             measure="one step time of this framework on these devices: llmsim calibrate"),
    Constant(f"{_STACK}/rates/attention/{{generation}}", "", "of that, what the attention of this stack reaches",
             low=_LEAST, high=1, width=0.25,
             measure="one step time of this framework with a sequence four times as long: llmsim calibrate"),
    Constant(f"{_STACK}@{{release}}/rate", "", "rate of the kernels of a release over that of its framework", high=1,
             default=1.0, source="a release like its framework", width=0.08,
             measure="one step time of this release: llmsim calibrate"),
    Constant(f"{_STACK}@{{release}}/moe_layer", "", "host time of an expert layer of a release over its framework's",
             default=1.0, source="a release like its framework", width=0.30,
             measure="one step time of this release: llmsim calibrate"),
    _host("launch_s", "tau_launch", "host time of a kernel launch", 0.60),
    Constant("software/{lineage}/host/moe_layer_s{dispatcher}", "tau_moe", "host time of an expert layer", "s",
             width=0.80, measure=_BOTH_MICRO_BATCHES, more=False),
    _host("microbatch_s", "tau_micro", "fixed time of a micro-batch", 0.80),
    _host("step_s", "tau_step", "fixed time of a step", 0.80),
    Constant(f"{_STACK}/host/graphed", "graphed", "host work that captured graphs remove", high=1,
             measure="one step with and without captured graphs"),
    _overlap("gradient", "gradient exchange", 0.25),
    _overlap("parameter", "parameter gathering", 0.25),
    _overlap("tensor", "tensor-parallel transfers", 0.40),
    _overlap("expert", "expert all-to-all", 0.40),
    _overlap("tensor_on", "tensor-parallel transfers, if asked for", 0.25),
    _overlap("expert_on", "expert all-to-all beside the other pass", 0.25),
    _overlap("context", "context-parallel transfers"),
    _overlap("pipeline", "hops between stages"),
    _overlap("offload", "copies to and from the host"),
    Constant(f"{_STACK}/contention", "kappa", "slow-down while computing and communicating", low=1.0, more=False,
             measure="a product alone and beside an all-reduce"),
    Constant(f"{_STACK}/memory/reserved_factor", "rho", "reserved over allocated memory", low=1.0, width=0.05,
             moved_by="memory", measure="a run's memory_reserved beside its memory_allocated: llmsim calibrate",
             more=False, lever=False),
    Constant(f"{_STACK}/memory/context_bytes", "M_context", "driver context and communication buffers", "B",
             width=0.5, moved_by="memory", measure="a run's nvidia-smi beside its memory_reserved: llmsim calibrate",
             more=False, lever=False),
    Constant(f"{_STACK}/memory/workspace_bytes", "M_workspace", "kernel workspaces", "B",
             measure="memory_allocated of a product with hardly any operands", more=False, lever=False),
    Constant(f"{_STACK}/memory/headroom", "", "share of a device's memory that a plan leaves free", high=1,
             measure="how far memory_reserved grows over a long run", more=False, lever=False),
    _wire(f"{_DEVICE}/memory_bandwidth", "B_mem", "bandwidth of the device's memory", low=1e9, usual=3e12),
    _wire(f"{_DEVICE}/host_bandwidth", "B_host", "bandwidth to the host's memory, one way", low=1e7, usual=5e10),
    _wire(f"{_DEVICE}/host_memory_bandwidth", "B_ram", "a device's share of the bandwidth of the host's memory",
          low=1e7, usual=8e10),
    _wire(f"{_DEVICE}/scale_up/bandwidth", "B_up", "scale-up bandwidth of a device, one way", low=1e8, usual=4e11),
    *_link(_DEVICE, "up", "scale_up/", 0.15),
    Constant(f"{_DEVICE}/scale_up/in_switch_traffic", "",
             "bytes on the wire per byte of an all-reduce that the switch adds up", low=1.0, high=2.0, optional=True,
             measure="all-reduces with and without in-switch sums (nccl-tests, NCCL_NVLS_ENABLE)", usual=1.36),
    _wire(f"{_FABRIC}/bandwidth", "B_out", "scale-out bandwidth of a device, one way", low=1e7, usual=5e10),
    *_link(_FABRIC, "out", "", 0.30),
    *ENGINE_CONSTANTS,
)}  # fmt: skip
"""Pattern of the paths of a constant -> constant."""


def constants_of(kind: Kind) -> Iterator[Constant]:
    """What profiles of a kind state."""
    return (c for c in CONSTANTS.values() if c.kind == kind and c.key)


def moved_by_steps() -> tuple[Constant, ...]:
    """The constants that step times move, in the order in which a fit has them."""
    return tuple(c for c in CONSTANTS.values() if c.width is not None and c.moved_by == "step")


def moved_by_serving() -> tuple[Constant, ...]:
    """The constants that latencies and throughputs of servers move, in the order in which a fit has them."""
    return tuple(c for c in CONSTANTS.values() if c.width is not None and c.moved_by == "serving")


@lru_cache(maxsize=1024)
def constant_at(path: str) -> Constant | None:
    """The constant of a path such as ``software/megatron-core/overlap/parameter``; None where there is none."""
    return next((c for name, c in CONSTANTS.items() if fnmatchcase(path, name)), None)
