"""How the weights of a served model are stored, and in which format their products are computed.

References
----------
GPTQ, arXiv:2210.17323; AWQ, arXiv:2306.00978; FP8 formats, arXiv:2209.05433; Microscaling Formats (MX) v1.0; GGUF:
block layouts of llama.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ..core.errors import InputError, nearest_names
from ..core.formats import Format, get_format
from ..hardware.devices import Device

WeightClass: TypeAlias = Literal["attention", "mlp", "experts", "head", "embedding", "other"]
"""Matrices of mixers, of dense and shared feed-forward parts, of routed experts, the two ends, and all else: norms,
routers, biases."""
CLASSES: tuple[WeightClass, ...] = ("attention", "mlp", "experts", "head", "embedding", "other")
BLOCK_SCALED = ("mxfp8", "mxfp4", "nvfp4")
"""Formats whose products need a device that applies the scales of blocks itself."""
QUANTISED: tuple[WeightClass, ...] = ("attention", "mlp", "experts")


@dataclass(frozen=True)
class WeightScheme:
    """Formats of weights by class.

    Attributes
    ----------
    name
        As it was asked for.
    formats
        Class -> format in memory.
    product
        Matrix format that quantised weights are multiplied in where a device has it: ``fp8``, ``fp4``, ``bf16`` for
        weights that are converted back first.
    """

    name: str
    formats: Mapping[WeightClass, Format]
    product: str = "bf16"

    def compute(self, kind: WeightClass, device: Device) -> str:
        """The matrix format of products with weights of a class, on a device."""
        format = self.formats[kind]
        scaled = format.name not in BLOCK_SCALED or format.name in device.block_scaling
        return self.product if format.bits < 16 and scaled and device.supports(self.product) else "bf16"

    @property
    def quantised(self) -> bool:
        """Whether any class takes less than 16 bits."""
        return any(self.formats[kind].bits < 16 for kind in QUANTISED)


@dataclass(frozen=True)
class _Named:
    format: str
    product: str = "bf16"
    only: tuple[WeightClass, ...] = QUANTISED
    ends: str = "bf16"


_SCHEMES = {
    "bf16": _Named("bf16"),
    "fp16": _Named("fp16", ends="fp16"),
    "fp32": _Named("fp32", ends="fp32"),
    "fp8": _Named("fp8", "fp8"),
    "fp8-block": _Named("fp8-block", "fp8"),
    "mxfp8": _Named("mxfp8", "fp8"),
    "int8": _Named("int8", "fp8"),
    "nvfp4": _Named("nvfp4", "fp4"),
    "mxfp4": _Named("mxfp4", "fp8", ("experts",)),
    "int4": _Named("w4g128"),
    "awq": _Named("w4g128z"),
    "gptq": _Named("w4g128z"),
    "int4-experts": _Named("w4g32", only=("experts",)),
    "nf4": _Named("nf4"),
    "q8_0": _Named("q8_0", ends="q8_0"),
    "q6_k": _Named("q6_k", ends="q6_k"),
    "q5_k": _Named("q5_k", ends="q6_k"),
    "q4_k": _Named("q4_k", ends="q6_k"),
    "q3_k": _Named("q3_k", ends="q6_k"),
    "q2_k": _Named("q2_k", ends="q6_k"),
    "q5_0": _Named("q5_0", ends="q6_k"),
    "q4_0": _Named("q4_0", ends="q6_k"),
    "q4_1": _Named("q4_1", ends="q6_k"),
    "iq4_xs": _Named("iq4_xs", ends="q6_k"),
}
_ALIASES = {
    "bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "w8a8": "int8", "int8-w8a8": "int8",
    "fp8-dynamic": "fp8", "fp8-e4m3": "fp8", "w4a16": "int4", "fp4": "nvfp4", "q4_k_m": "q4_k", "q4_k_s": "q4_k",
    "q5_k_m": "q5_k", "q5_k_s": "q5_k", "q3_k_m": "q3_k", "bitsandbytes": "nf4", "bnb-4bit": "nf4",
    "q2_k_s": "q2_k", "q2_k_l": "q2_k", "q2_k_xl": "q2_k", "q3_k_s": "q3_k", "q3_k_l": "q3_k", "q3_k_xl": "q3_k",
    "q4_k_l": "q4_k", "q4_k_xl": "q4_k", "q5_k_l": "q5_k", "q5_k_xl": "q5_k", "q6_k_l": "q6_k", "q6_k_xl": "q6_k",
    "q8_k_xl": "q8_0",
}  # fmt: skip
_GROUPED = re.compile(r"w[2-8]g[1-9][0-9]{0,4}z?")


def weight_scheme(text: str, *, latent_attention: bool = False, has_experts: bool = False) -> WeightScheme:
    """The formats that a name stands for: ``bf16``, ``fp8``, ``nvfp4``, ``w4g128``, ``q4_k`` ...; or classes with a
    format each, ``experts:nvfp4,attention:bf16,mlp:fp8``.

    Parameters
    ----------
    latent_attention
        Whether attention keeps a latent: 4-bit checkpoints of such models leave their mixers in 16 bits (NVIDIA's
        DeepSeek-R1-FP4).
    has_experts
        Whether there are routed experts, which are all that ``mxfp4`` quantises (gpt-oss).

    Raises
    ------
    InputError
        For an unknown name or class.
    """
    name = re.sub(r"\s+", "", text.strip().lower())
    name = _ALIASES.get(name, name)
    if ":" in name:
        return _by_class(text, name)
    if _GROUPED.fullmatch(name):
        named = _Named(name)
    elif name in _SCHEMES:
        named = _SCHEMES[name]
    else:
        known = [*_SCHEMES, *_ALIASES]
        near = ", ".join(nearest_names(name, known))
        raise InputError("weights", text, f"{', '.join(_SCHEMES)}, w4g128, or experts:nvfp4,attention:bf16 ...", near)
    only = named.only if has_experts else QUANTISED
    if latent_attention and get_format(named.format).bits == 4:
        only = tuple(kind for kind in only if kind != "attention")
    return _scheme(name, dict.fromkeys(only, named.format), named.product, named.ends)


def _by_class(text: str, name: str) -> WeightScheme:
    own: dict[WeightClass, str] = {}
    products = []
    for part in name.split(","):
        kind, _, form = part.partition(":")
        if kind not in CLASSES or not form:
            near = ", ".join(nearest_names(kind, CLASSES))
            raise InputError("weights", text, f"CLASS:FORMAT with a class of {', '.join(CLASSES)}", near)
        form = _ALIASES.get(form, form)
        named = _SCHEMES.get(form, _Named(form))
        get_format(named.format)
        own[kind] = named.format
        products.append(named.product)
    product = next((p for p in ("fp4", "fp8") if p in products), "bf16")
    return _scheme(name, own, product, "bf16")


def _scheme(name: str, formats: Mapping[WeightClass, str], product: str, ends: str) -> WeightScheme:
    usual: dict[WeightClass, str] = {"head": ends, "embedding": ends}
    plain = ends if ends in ("fp16", "fp32") else "bf16"
    each = {kind: get_format(formats.get(kind, usual.get(kind, plain))) for kind in CLASSES}
    return WeightScheme(name, each, product)
