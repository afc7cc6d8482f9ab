"""Storage formats: how many bytes an element takes, block scales included."""

from __future__ import annotations

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
        Format("int64", 64),
        Format("int32", 32),
        Format("int8", 8),
        Format("bool", 8),
    )
}


def get_format(name: str) -> Format:
    """The format of that name.

    Raises
    ------
    InputError
        For an unknown name, with the nearest ones.
    """
    try:
        return FORMATS[name]
    except KeyError:
        raise unknown_name("format", name, FORMATS) from None
