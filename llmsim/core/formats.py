"""Storage formats: how many bytes an element takes, block scales included."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import unknown_name
from .numeric import Number, ceil_div


@dataclass(frozen=True, slots=True)
class Format:
    """A way to store one element.

    Attributes
    ----------
    name
        As used in profiles and plans.
    bits
        Bits of the element itself.
    scale_bits, block
        One scale of ``scale_bits`` bits for every ``block`` elements; ``block`` 0 means no block scale (a per-tensor
        scale is a single number and is not counted).
    """

    name: str
    bits: int
    scale_bits: int = 0
    block: int = 0

    def bytes(self, elements: Number) -> Number:
        """Bytes of ``elements`` elements, scales included (exact on integers, rounded up to whole scale blocks)."""
        size = elements * (self.bits // 8) if self.bits % 8 == 0 else ceil_div(elements * self.bits, 8)
        if self.block:
            size = size + ceil_div(elements, self.block) * self.scale_bits // 8
        return size


FORMATS = {
    f.name: f
    for f in (
        Format("fp64", 64),
        Format("fp32", 32),
        Format("tf32", 32),
        Format("bf16", 16),
        Format("fp16", 16),
        Format("fp8", 8),
        Format("fp8-block", 8, scale_bits=32, block=128),  # DeepSeek-V3, arXiv:2412.19437 section 3.3: 1x128 tiles
        Format("mxfp8", 8, scale_bits=8, block=32),  # OCP Microscaling Formats (MX) v1.0, table 1
        Format("nvfp4", 4, scale_bits=8, block=16),  # two-level scale: an e4m3 per 16 elements, one fp32 per tensor
        Format("mxfp4", 4, scale_bits=8, block=32),  # OCP Microscaling Formats (MX) v1.0, table 1
        Format("nf4", 4, scale_bits=8, block=64),  # QLoRA, arXiv:2305.14314: scales of 64 in 8 bits (double quantised)
        Format("q8_0", 8, scale_bits=16, block=32),  # GGUF blocks: ggml-common.h of llama.cpp
        Format("q6_k", 6, scale_bits=144, block=256),
        Format("q5_k", 5, scale_bits=128, block=256),
        Format("q4_k", 4, scale_bits=128, block=256),
        Format("q3_k", 3, scale_bits=112, block=256),
        Format("q2_k", 2, scale_bits=160, block=256),
        Format("q5_0", 5, scale_bits=16, block=32),
        Format("q4_0", 4, scale_bits=16, block=32),
        Format("q4_1", 4, scale_bits=32, block=32),
        Format("iq4_xs", 4, scale_bits=64, block=256),
        Format("int64", 64),
        Format("int32", 32),
        Format("int8", 8),
        Format("int4", 4),
        Format("bool", 8),
    )
}

_GROUPED = re.compile(r"w([2-8])g([1-9][0-9]{0,4})(z?)")
"""Whole numbers of so many bits in groups with a 16-bit scale, and with ``z`` a zero point of as many bits."""


def get_format(name: str) -> Format:
    """The format of that name: one of those above, or ``w4g128`` for whole numbers of 4 bits in groups of 128 with a
    16-bit scale each (``w4g128z``: and a zero point).

    Raises
    ------
    InputError
        For an unknown name, with the nearest ones.
    """
    if (found := FORMATS.get(name)) is not None:
        return found
    grouped = _GROUPED.fullmatch(str(name))
    if grouped is None:
        raise unknown_name("format", name, [*FORMATS, "w4g128", "w4g128z"])
    bits, group = int(grouped[1]), int(grouped[2])
    return Format(str(name), bits, scale_bits=16 + (bits if grouped[3] else 0), block=group)
