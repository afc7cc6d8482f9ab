"""Which fits give generations and devices the constants that steps are rated with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...core.files import write_whole
from ...core.provenance import Quantity
from ...hardware.kernel_fits import KernelFit, kernel_fits
from ...hardware.kernel_rates import SCHEMA, rates_path

_FORM = ("tile_half_area", "depth_overhead", "split_cost_s")


@dataclass(frozen=True)
class Feed:
    """A fit and what it feeds.

    Attributes
    ----------
    into
        Head of the paths: ``generations/ampere``, ``devices/b200-sxm-180gb``.
    source, device, family, library, format, variant
        Of the fit.
    constants
        Constant of the form -> key of a constant in the registry.
    """

    into: str
    source: str
    device: str
    family: str
    library: str
    format: str
    constants: dict[str, str]
    variant: str = ""


_PLAIN = {"gemm_efficiency": "gemm_efficiency/16bit", **{k: k for k in (*_FORM, "sharpness")}}


def _narrow(own: str) -> dict[str, str]:
    """Products of a narrow format with tiles of their own."""
    return {"gemm_efficiency": f"gemm_efficiency/{own}", **{k: f"{own}/{k}" for k in _FORM}}


FEEDS = (
    Feed("generations/ampere", "published", "a100-pcie-80gb", "gemm", "torch", "bf16", _PLAIN),
    Feed("generations/hopper", "silicon", "h100-sxm-80gb", "gemm", "vllm", "bf16", _PLAIN),
    Feed("generations/hopper", "silicon", "h100-sxm-80gb", "gemm", "trtllm", "fp8", _narrow("8bit")),
    Feed("generations/ada", "silicon", "l40s-48gb", "gemm", "vllm", "bf16", _PLAIN),
    Feed("generations/blackwell", "silicon", "gb200-186gb", "gemm", "trtllm", "nvfp4", _narrow("4bit")),
    Feed("devices/b300-sxm-288gb", "silicon", "b300-sxm-288gb", "gemm", "trtllm", "nvfp4", _narrow("4bit")),
    Feed("devices/gb300-288gb", "silicon", "gb300-288gb", "gemm", "trtllm", "nvfp4", _narrow("4bit")),
    Feed("devices/b200-sxm-180gb", "published", "b200-sxm-180gb", "gemm", "torch", "bf16", _PLAIN),
)
"""Products of training: cuBLAS as torch and vLLM call it, those of narrow formats as TensorRT-LLM does; of a part whose
power limit holds it down, its own. Which fit feeds what was chosen with sight of the runs of the table."""


def rated(feed: Feed) -> dict[str, Quantity]:
    """Path -> quantity of what a fit feeds; nothing where there is no such fit."""
    fits = kernel_fits(feed.device, feed.source)
    wanted = feed.family, feed.library, feed.format, feed.variant
    found = next((f for f in (fits.fits if fits else ()) if (f.family, f.library, f.format, f.variant) == wanted), None)
    if fits is None or found is None:
        return {}
    return {f"{feed.into}/{key}": _quantity(found, name, fits.date, feed) for name, key in feed.constants.items()}


def _quantity(fit: KernelFit, name: str, date: str, feed: Feed) -> Quantity:
    own = fit.constants[name]
    where = f"kernels/{feed.source}/{feed.device}: {fit.family}, {fit.library} {fit.release}, {fit.format}"
    error = f"{100 * fit.form.median:.1f} % median on withheld shapes"
    return Quantity(
        value=own.value, unit=own.unit, provenance="fitted", error=min(own.error, 99.0), source=f"{where}; {error}",
        date=date,
    )  # fmt: skip


def rates_text() -> str:
    """The constants that fits feed, as their file holds them."""
    lines = [f"# Written by python -m llmsim.calibration.kernels\nschema: {SCHEMA}\nvalues:"]
    for feed in FEEDS:
        for name, own in rated(feed).items():
            fields = f"value: {own.value!r}, unit: {own.unit!r}, provenance: fitted, error: {own.error!r}"
            lines.append(f"  {name}: {{{fields}, source: {own.source!r}, date: {own.date!r}}}")
    return "\n".join(lines) + "\n"


def write_rates() -> tuple[Path, bool]:
    """Write the constants that fits feed, if they are others than before; the file, and whether it was written.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    path, text = rates_path(), rates_text()
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return path, False
    write_whole(path, text, "rates of kernels")
    return path, True
