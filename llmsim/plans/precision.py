"""Precision recipes: the format of matrix products, of what they keep, and what converting to it costs.

References
----------
fp8 with delayed and current scaling: NVIDIA Transformer Engine documentation; block scaling: DeepSeek-V3,
arXiv:2412.19437, section 3.3; mxfp8: OCP Microscaling Formats v1.0; nvfp4: NVIDIA, arXiv:2509.25149.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..core.errors import InputError, unknown_name
from ..core.formats import Format, get_format
from ..hardware.devices import Device
from ..hardware.software import Formats


@dataclass(frozen=True, slots=True)
class Precision:
    """A recipe.

    Attributes
    ----------
    name
        As in plans and run tables.
    matmul
        Format of the products of quantisable matrices: ``bf16``, ``fp16``, ``fp8``, ``fp4``, or that of all products
        where nothing is converted (``tf32`` on 32-bit tensors).
    compute
        Format of everything else, activations among it: attention, embedding, head, router.
    operand
        Storage of a converted operand.
    conversion_bytes
        Device traffic of converting one element of a 16-bit operand, bytes: reading it, writing the copy and, where the
        hardware multiplies one layout only, its transpose; scaling by the tensor's own maximum reads it once more.
    """

    name: str
    matmul: str
    compute: str
    operand: str
    conversion_bytes: float = 0.0

    @property
    def product(self) -> str:
        """Format of the products that the recipe leaves alone."""
        return self.compute if self.converts else self.matmul

    @property
    def converts(self) -> bool:
        """Whether operands are converted at all."""
        return self.conversion_bytes > 0


PRECISIONS = {
    p.name: p
    for p in (
        Precision("fp32", "fp32", "fp32", "fp32"),
        Precision("tf32", "tf32", "fp32", "fp32"),
        Precision("bf16", "bf16", "bf16", "bf16"),
        Precision("fp16", "fp16", "fp16", "fp16"),
        Precision("fp8-delayed", "fp8", "bf16", "fp8", 4.0),
        Precision("fp8-current", "fp8", "bf16", "fp8", 6.0),
        Precision("fp8-rowwise", "fp8", "bf16", "fp8", 8.0),
        Precision("fp8-block", "fp8", "bf16", "fp8-block", 4.0),
        Precision("mxfp8", "fp8", "bf16", "mxfp8", 4.0),
        Precision("nvfp4", "fp4", "bf16", "nvfp4", 4.5),
    )
}


def get_precision(name: str) -> Precision:
    """The recipe of that name.

    Raises
    ------
    InputError
        For an unknown one, with the nearest names.
    """
    try:
        return PRECISIONS[str(name).strip().lower()]
    except KeyError:
        raise unknown_name("precision", name, PRECISIONS) from None


_BLOCK_SCALED = ("mxfp8", "nvfp4")

_INSTEAD = {"nvfp4": ("mxfp8", "fp8-block"), "mxfp8": ("fp8-block",)}
"""Recipe -> those most like it that ask less of a device, best first."""


def runs_on(recipe: Precision, device: Device) -> bool:
    """Whether a device multiplies every format of a recipe natively. Storage formats are another matter: weights may be
    kept in formats that are converted before they are multiplied."""
    scaled = recipe.operand not in _BLOCK_SCALED or recipe.operand in device.block_scaling
    return scaled and device.supports(recipe.matmul) and device.supports(recipe.compute)


def device_recipes(device: Device) -> tuple[str, ...]:
    """The recipes that a device runs."""
    return tuple(name for name, recipe in PRECISIONS.items() if runs_on(recipe, device))


def default_precision(device: Device) -> str:
    """The recipe that is taken unless somebody names one: the first of bf16, fp16 and fp32 that the device has."""
    return next((name for name in ("bf16", "fp16") if runs_on(PRECISIONS[name], device)), "fp32")


def check_recipe(name: str, device: Device) -> None:
    """Refuse a recipe that a device does not run.

    Raises
    ------
    InputError
        With what the device runs, and the recipe most like the one that was asked for.
    """
    if runs_on(get_precision(name), device):
        return
    allowed = device_recipes(device)
    near = next((other for other in _INSTEAD.get(name, ()) if other in allowed), default_precision(device))
    raise InputError(
        "precision", name, ", ".join(allowed), near, why=f"is no format that {device.name} multiplies matrices in"
    )


def storage_classes(precision: Precision, formats: Formats) -> dict[str, Format]:
    """Storage class of a term -> format, for a recipe on a software stack."""

    def resolve(name: str) -> Format:
        return get_format(precision.compute if name == "compute" else name)

    parameter = resolve(formats.parameter)
    return {
        "activation": get_format(precision.compute),
        "residual": resolve(formats.residual),
        "normed": resolve(formats.residual),
        "operand": get_format(precision.operand),
        "weight": parameter,
        "weight_high": parameter,
        "gradient": resolve(formats.gradient),
        "reduce": resolve(formats.reduce),
        "cache": get_format(precision.compute),
        "index_cache": get_format("fp8"),
        "recurrent_state": get_format("fp32"),
        "fp32": get_format("fp32"),
        "int64": get_format("int64"),
        "int32": get_format("int32"),
        "bool": get_format("bool"),
    }
