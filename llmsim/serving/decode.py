"""One decoding step: FLOPs and bytes of the next token after a context.

References
----------
Latent attention with absorbed projections: DeepSeek-V2, arXiv:2405.04434, section 2.1. Roofline: Williams 2009,
doi:10.1145/1498765.1498785.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from ..architecture import Architecture
from ..core.formats import get_format
from ..core.numeric import Number, maximum
from ..hardware.devices import Device
from ..layers.mla import absorbed
from ..timing.columns import Columns
from ..timing.forward_flops import forward_flops
from .cache import ONE_DEVICE, Cache


@lru_cache(maxsize=64)
def decoding(architecture: Architecture) -> Architecture:
    """The model as it decodes: latent attention with absorbed projections; of a model with encoder and decoder, the
    decoder."""
    kinds = {name: absorbed(kind) for name, kind in architecture.kinds.items()}
    layers = architecture.layers
    if architecture.is_encoder_decoder:
        layers = tuple(name for name in layers if kinds[name].causal)
    return replace(architecture, layers=layers, kinds=kinds)


def decode_flops(architecture: Architecture, context: int) -> Number:
    """Multiply-adds x 2 of the next token of one sequence, which is number ``context``, head included."""
    return forward_flops(decoding(architecture), ONE_DEVICE, Columns(1, 1, 1, cached=context - 1))


def weight_bytes(architecture: Architecture, *, batch: int = 1, format: str = "bf16") -> Number:
    """Bytes of weights that a decoding step of ``batch`` sequences reads: of routed experts those that some token is
    expected to be sent to, ``E (1 - (1 - k / E)**batch)`` of E under even routing; of tables the head's."""
    elements: Number = sum(architecture.head.parameter_counts().values())
    for name in decoding(architecture).layers:
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
    architecture: Architecture, cache: Cache, context: int, device: Device, *, devices: int = 1, batch: int = 1
) -> Number:
    """The least time of a decoding step on ``devices`` devices that share weights and caches evenly, seconds: no
    transfer, no launch, and every byte at the rate that copies reach."""
    moved = weight_bytes(architecture, batch=batch) + batch * cache.bytes(context)
    memory = moved / (device.memory_bandwidth.value * device.kernel_rates().constants["memory_efficiency"].value)
    compute = batch * decode_flops(architecture, context) / device.peak_of("bf16")
    return maximum(memory, compute) / devices
