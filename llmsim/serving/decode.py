"""One decoding step: FLOPs and bytes of the next token after a context.

References
----------
Latent attention with absorbed projections: DeepSeek-V2, arXiv:2405.04434, section 2.1. Roofline: Williams 2009,
doi:10.1145/1498765.1498785.
"""

from __future__ import annotations

from dataclasses import replace

from ..architecture import Architecture
from ..core.formats import get_format
from ..core.numeric import Number, maximum, minimum
from ..hardware.devices import Device
from ..layers.base import LayerKind
from ..timing.conventions import CONVENTIONS, layer_flops
from .cache import Cache


def decode_flops(architecture: Architecture, context: Number) -> Number:
    """Multiply-adds x 2 of the next token of one sequence after ``context`` tokens, head included."""
    found: Number = layer_flops(architecture.head, context, CONVENTIONS["model-full"])
    for name in dict.fromkeys(architecture.layers):
        found = found + architecture.layers.count(name) * kind_decode_flops(architecture.kinds[name], context)
    return found


def kind_decode_flops(kind: LayerKind, context: Number) -> Number:
    """Of one layer.

    Recurrences advance by one step, so that nothing is scored inside a chunk but the token itself. Latent attention
    works on the latent: up-projections are absorbed into queries and outputs, which costs what projecting the token
    costs, and the core is wider.
    """
    step = replace(kind, sizes={**kind.sizes, "chunk_context": 1}) if "chunk_context" in kind.sizes else kind
    found = layer_flops(step, context, CONVENTIONS["model-full"])
    if _latent(kind):
        sizes = kind.sizes
        seen = context if kind.window is None else minimum(context, kind.window)
        own = next(op for op in kind.operators if op.kind == "attention")
        expanded = sizes[own.reads[0].dims[-1]] + sizes[own.write.dims[-1]]
        found = found + 2 * sizes["heads"] * (2 * sizes["kv_rank"] + sizes["rope_dim"] - expanded) * seen
    return found


def _latent(kind: LayerKind) -> bool:
    return any(op.name == "kv_down" and op.write.state for op in kind.operators)


def weight_bytes(architecture: Architecture, *, batch: int = 1, format: str = "bf16") -> Number:
    """Bytes of weights that a decoding step of ``batch`` sequences reads: of routed experts those that some token is
    expected to be sent to, ``E (1 - (1 - k / E)**batch)`` of E under even routing; of tables the head's."""
    elements: Number = sum(architecture.head.parameter_counts().values())
    for name in architecture.layers:
        kind = architecture.kinds[name]
        whole, active = kind.parameters, sum(kind.parameter_counts(active=True).values())
        elements = elements + active
        if kind.is_moe:
            experts, chosen = kind.sizes["experts"], kind.sizes["top_k"]
            touched = experts * (1 - (1 - chosen / experts) ** batch)
            elements = (
                elements + (whole - active) * (touched - chosen) / (experts - chosen) if experts > chosen else elements
            )
    return elements * get_format(format).bits / 8


def roofline_seconds(
    architecture: Architecture, cache: Cache, context: Number, device: Device, *, devices: int = 1, batch: int = 1
) -> Number:
    """The least time of a decoding step on ``devices`` devices that share weights and caches evenly, seconds: no
    transfer, no launch, and every byte at the rate that copies reach."""
    moved = weight_bytes(architecture, batch=batch) + batch * cache.bytes(context)
    memory = moved / (device.memory_bandwidth.value * device.kernel_rates().memory_efficiency.value)
    compute = batch * decode_flops(architecture, context) / device.peak_of("bf16")
    return maximum(memory, compute) / devices
