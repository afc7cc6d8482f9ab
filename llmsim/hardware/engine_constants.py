"""Entries of the registry that belong to inference engines: what a step costs beside its counts.

Kernels of an engine reach shares of a device's peaks (``rates/``), collectives of small messages a share of the
scale-up bandwidth (``wire/``), and everything that no kernel explains is time of the host or between kernels
(``host/``). What fits move is the logarithm of all engines' values together and, of layers, of each engine's own.
"""

from __future__ import annotations

from .constant import Constant

_ENGINE = "engines/{engine}"
_SERVER = "time per output token over batch sizes of a server: llmsim validate --refit-without"
_PREFILL = "time to first token of single requests over prompt lengths"


def _rate(key: str, symbol: str, meaning: str, width: float) -> Constant:
    return Constant(f"{_ENGINE}/rates/{key}", symbol, meaning, low=1e-3, high=1, width=width, moved_by="serving",
                    measure=_SERVER, lever=False)  # fmt: skip


def _time(key: str, symbol: str, meaning: str, width: float, measure: str = _SERVER) -> Constant:
    return Constant(f"{_ENGINE}/{key}", symbol, meaning, "s", high=10.0, width=width, moved_by="serving",
                    measure=measure, more=False)  # fmt: skip


def _memory(key: str, symbol: str, meaning: str, unit: str, *, width: float | None = None) -> Constant:
    return Constant(f"{_ENGINE}/memory/{key}", symbol, meaning, unit, width=width, moved_by="memory", more=False,
                    measure="the memory lines of an engine's start-up log", lever=False)  # fmt: skip


ENGINE_CONSTANTS = (
    _rate("dense", "e_dense", "of the memory bandwidth, what products with dense weights reach", 0.10),
    _rate("experts", "e_experts", "of the memory bandwidth, what products with experts' weights reach", 0.12),
    _rate("cache", "e_cache", "of the memory bandwidth, what attention of decoding sequences reaches", 0.15),
    _rate("compute_16bit", "e_16bit", "of the 16-bit peak, what products of a prompt reach", 0.15),
    _rate("compute_8bit", "e_8bit", "of the 8-bit peak, what products of a prompt reach", 0.20),
    _rate("compute_4bit", "e_4bit", "of the 4-bit peak, what products of a prompt reach", 0.30),
    _rate("experts_compute", "e_grouped_prompt", "rate of experts' products of a prompt over dense ones", 0.25),
    _rate("converted", "e_converted", "rate of reading weights that are brought back to 16 bits over the others", 0.30),
    _rate("attention", "e_attn_prompt", "of the 16-bit peak, what attention of a prompt reaches", 0.25),
    _time("host/step_s", "tau_iteration", "fixed time of a step", 0.60),
    _time("host/layer_s", "tau_layer", "time of a layer beside its kernels", 0.30),
    _time("host/moe_layer_s", "tau_experts", "further time of an expert layer", 0.35),
    _time("host/experts_s", "tau_routing", "further time of an expert layer for each 128 experts", 0.60),
    _time("host/expert_parallel_s", "tau_ep", "the same for each doubling of its ranks", 0.60),
    _time("host/latent_layer_s", "tau_latent", "further time of a layer with latent attention", 0.50),
    _time("host/quantised_layer_s", "tau_quantise", "further time of a layer whose inputs are converted", 0.60),
    _time("host/attention_s", "tau_attention", "time of starting and joining attention of decoding sequences", 0.50),
    _time("host/sequence_layer_s", "tau_sequence", "time of a layer for each sequence that decodes", 0.30),
    _time("host/request_s", "tau_request", "time of a request outside of steps before its first token", 0.20, _PREFILL),
    _time("wire/reduction_s", "tau_reduce", "time of an all-reduce for each doubling of its ranks", 0.25),
    Constant(f"{_ENGINE}/wire/efficiency", "e_reduce",
             "of the scale-up bandwidth, what all-reduces of small messages reach", low=1e-3, high=1, width=0.20,
             moved_by="serving", measure="custom all-reduces over sizes"),
    Constant(f"{_ENGINE}/interference", "omega", "of what prompts add to steps, what decoding sequences wait for",
             high=2.0, width=0.30, moved_by="serving", measure=_SERVER, more=False),
    Constant(f"{_ENGINE}/first_wave", "phi", "of the requests that arrive at once, what the mean request waits for",
             high=2.0, measure=_PREFILL, more=False),
    _memory("sampler_copies", "m_logits", "copies of the 32-bit logits of all sequences", "1", width=0.2),
    _memory("forward_copies", "m_forward", "copies of the widest activations of a layer", "1", width=0.3),
    _memory("activation_bytes", "M_step", "further memory while a step runs", "B", width=0.5),
    _memory("context_bytes", "M_init", "memory of the driver and of libraries, one device", "B", width=0.3),
    _memory("group_bytes", "M_group", "further memory of communicators of several devices", "B", width=0.3),
    _memory("graph_layer_bytes", "M_graph", "captured graphs, for each layer", "B", width=0.3),
)  # fmt: skip
