"""Seconds of one iteration of an inference engine: its counts at the rates of a device, a network and an engine.

Every class of products takes the soft maximum of reading its weights and computing with them; attention of prompts and
of decoding sequences are kernels of their own. Weights are read once, whatever the mixture of prompts and decoding
sequences, so that a mixed step takes less than its parts one after the other.

References
----------
Roofline: Williams 2009, doi:10.1145/1498765.1498785. Overheads as terms of their own: inference-sim (BLIS).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..core.numeric import Number, log2, soft_maximum, total, where
from ..hardware.cluster import Cluster
from .served_model import ServedModel, StepBatch, StepCounts
from .weights import CLASSES, WeightClass

SHARPNESS = 4.0
"""Of the soft maximum between reading and computing."""
BITS_OF = {"bf16": 16, "fp8": 8, "fp4": 4}
"""Matrix format of products -> bits that name the constant of what they reach."""


@dataclass(frozen=True)
class Machine:
    """What a step needs to know of the devices of one replica: numbers, so that many can stand side by side.

    Attributes
    ----------
    bandwidth, peak
        Of the device's memory, bytes/s; of 16-bit products, FLOP/s.
    product_bits, product_peak, converted
        Class of weights -> bits of the format that its products are computed in, their peak, and 1 where weights are
        brought back to 16 bits before they are multiplied, else 0.
    link_bandwidth, stage_bandwidth
        Of one device to the others of its stage, and to the next stage, one way, bytes/s.
    """

    bandwidth: Number
    peak: Number
    product_bits: dict[WeightClass, Number]
    product_peak: dict[WeightClass, Number]
    converted: dict[WeightClass, Number]
    link_bandwidth: Number
    stage_bandwidth: Number


def machine_of(cluster: Cluster, model: ServedModel) -> Machine:
    """The devices of a replica of a model.

    Groups of ranks that are larger than a scale-up domain are as slow as the fabric.
    """
    device, ranks = cluster.profile, model.degrees.ranks
    up = device.scale_up.bandwidth.value
    out = cluster.fabric.bandwidth.value if cluster.n_devices > cluster.domain else up
    formats = {kind: model.scheme.compute(kind, device) for kind in CLASSES}
    narrow = {kind: model.scheme.formats[kind].bits < 16 and formats[kind] == "bf16" for kind in CLASSES}
    return Machine(
        bandwidth=device.memory_bandwidth.value,
        peak=device.peak_of("bf16"),
        product_bits={kind: BITS_OF[format] for kind, format in formats.items()},
        product_peak={kind: device.peak_of(format) for kind, format in formats.items()},
        converted={kind: int(own) for kind, own in narrow.items()},
        link_bandwidth=up if ranks <= cluster.domain else out,
        stage_bandwidth=up if 2 * ranks <= cluster.domain else out,
    )


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step by part; the parts add up.

    Attributes
    ----------
    parts
        ``dense``, ``experts``, ``head`` (products), ``prompt attention``, ``decode attention``, ``states``,
        ``elementwise``, ``wire``, ``host``.
    """

    parts: dict[str, Number]

    @property
    def seconds(self) -> Number:
        """Their sum."""
        return total(self.parts.values())


def step_seconds(counts: StepCounts, machine: Machine, rates: Mapping[str, Number]) -> StepTime:
    """The time of a step.

    Parameters
    ----------
    counts
        Of the busiest rank, from :meth:`~llmsim.serving.served_model.ServedModel.step`.
    rates
        Key of an engine's constant -> value, see :mod:`llmsim.hardware.engine_constants`.
    """
    products = {kind: _products(kind, counts, machine, rates) for kind in CLASSES}
    reached, peak = rates["rates/cache"] * machine.bandwidth, rates["rates/attention"] * machine.peak
    decode = soft_maximum(counts.decode_bytes / reached, counts.decode_flops / peak, SHARPNESS)
    busy = where(counts.sequences > 0, 1, 0)
    return StepTime(
        {
            "dense": total(products[kind] for kind in ("attention", "mlp", "other")),
            "experts": products["experts"],
            "head": products["head"],
            "prompt attention": soft_maximum(counts.prompt_bytes / reached, counts.prompt_flops / peak, SHARPNESS),
            "decode attention": decode + busy * counts.attention_layers * rates["host/attention_s"],
            "states": soft_maximum(counts.state_bytes / reached, counts.scan_flops / peak, SHARPNESS),
            "elementwise": counts.row_bytes / (rates["rates/dense"] * machine.bandwidth),
            "wire": _wire(counts, machine, rates),
            "host": _host(counts, rates),
        }
    )


def _products(kind: WeightClass, counts: StepCounts, machine: Machine, rates: Mapping[str, Number]) -> Number:
    """Products with weights of one class."""
    grouped = kind == "experts"
    slower = 1 - machine.converted[kind] * (1 - rates["rates/converted"])
    reached = rates["rates/experts" if grouped else "rates/dense"] * slower * machine.bandwidth
    bits = machine.product_bits[kind]
    narrow = where(bits == 8, rates["rates/compute_8bit"], rates["rates/compute_4bit"])
    share = where(bits == 16, rates["rates/compute_16bit"], narrow)
    if grouped:
        share = share * rates["rates/experts_compute"]
    memory = (counts.weight_bytes[kind] + counts.activation_bytes[kind]) / reached
    return soft_maximum(memory, counts.flops[kind] / (share * machine.product_peak[kind]), SHARPNESS)


def _wire(counts: StepCounts, machine: Machine, rates: Mapping[str, Number]) -> Number:
    """All-reduces, exchanges of experts and hops between stages."""
    ranks, joined = counts.ranks, counts.reducing_ranks
    reached, step = rates["wire/efficiency"] * machine.link_bandwidth, rates["wire/reduction_s"]
    reduced = counts.reductions * step * log2(joined) + counts.reduced_bytes * (2 * (joined - 1) / joined) / reached
    exchanged = counts.exchanges * step * log2(ranks) + counts.exchanged_bytes * ((ranks - 1) / ranks) / reached
    sent = counts.hops * step + counts.sent_bytes / (rates["wire/efficiency"] * machine.stage_bandwidth)
    return reduced + exchanged + sent


def _host(counts: StepCounts, rates: Mapping[str, Number]) -> Number:
    """What no kernel explains."""
    routed = rates["host/moe_layer_s"] + rates["host/experts_s"] * (counts.experts / 128)
    routed = routed + rates["host/expert_parallel_s"] * log2(counts.expert_ranks)
    return (
        rates["host/step_s"]
        + counts.layers * rates["host/layer_s"]
        + counts.moe_layers * routed
        + counts.latent_layers * rates["host/latent_layer_s"]
        + counts.converted_layers * rates["host/quantised_layer_s"]
        + counts.layers * rates["host/sequence_layer_s"] * counts.sequences
    )


def time_step(model: ServedModel, batch: StepBatch, machine: Machine, rates: Mapping[str, Number]) -> StepTime:
    """The time of a step of a batch."""
    return step_seconds(model.step(batch), machine, rates)
