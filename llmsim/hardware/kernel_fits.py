"""Fitted kernels of devices by library and format, as files hold them: constants of forms, residuals, errors.

One file a device and source, ``hardware_profiles/kernels/SOURCE/DEVICE.yaml``: ``published`` from tables in this
repository (``make fit``), ``silicon`` from those inside a public package (``make silicon``). Both are written by
:mod:`llmsim.calibration.kernels`.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..core.errors import InputError
from ..core.versions import without_schema
from .profiles import REINSTALL, build, profiles_root, read_yaml
from .residuals import Residual, read_residual

SCHEMA = "llmsim.kernel-fits/1"
_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FittedConstant(BaseModel):
    """A constant of a form.

    Attributes
    ----------
    value, unit
        SI.
    error
        Relative standard error, from the curvature of the fit.
    """

    model_config = _STRICT

    value: float
    unit: str = "1"
    error: float = Field(ge=0)


class WithheldErrors(BaseModel):
    """Relative errors on shapes that a fit had not seen.

    Attributes
    ----------
    median, mean, p90
        Of ``|predicted / measured - 1|``.
    """

    model_config = _STRICT

    median: float
    mean: float
    p90: float


class KernelFit(BaseModel):
    """One family of kernels of one library in one format.

    Attributes
    ----------
    family
        ``gemm``, ``experts``, ``prefill``, ``decode``, ``quantise``, ``collective``, ``exchange``.
    library, release
        Whose kernels, and the release that was measured.
    format, variant
        Storage format (``bf16``, ``fp8-block`` ...); what tells apart fits of one format, such as a number of devices.
    points, shapes
        Measurements and distinct shapes.
    spread
        Standard deviation of the logarithm that the form leaves.
    constants
        Of the form (:mod:`llmsim.calibration.kernels.families`).
    form, form_and_residual, few_points
        Errors on withheld shapes: of the form, with the residual where there is one, and of a form fitted to 40 random
        measurements.
    file, sha256
        The table that was fitted.
    residual
        Points between which the rest is interpolated, as text; empty for none.
    """

    model_config = _STRICT

    family: str
    library: str
    release: str
    format: str
    variant: str = ""
    points: int
    shapes: int
    spread: float
    constants: dict[str, FittedConstant]
    form: WithheldErrors
    form_and_residual: WithheldErrors | None = None
    few_points: WithheldErrors | None = None
    file: str
    sha256: str
    residual: str = ""

    @field_validator("residual")
    @classmethod
    def _readable(cls, value: str) -> str:
        try:
            return value if not value or read_residual(value) else ""
        except InputError as error:
            raise ValueError(str(error)) from error

    @property
    def values(self) -> dict[str, float]:
        """Constant -> value."""
        return {name: constant.value for name, constant in self.constants.items()}

    @property
    def interpolated(self) -> Residual | None:
        """The residual; None without."""
        return read_residual(self.residual) if self.residual else None


class KernelFits(BaseModel):
    """All fits of a device from one source.

    Attributes
    ----------
    device, source, date
        Its name, where the measurements are from, and when they were fitted.
    fits
        By family, library, format and variant.
    """

    model_config = _STRICT

    device: str
    source: str
    date: str
    fits: tuple[KernelFit, ...]


SOURCES = ("published", "silicon")
"""Folders of files, the first that has a fit counts."""


def kernels_root() -> Path:
    """The folder of the files."""
    return profiles_root() / "kernels"


@lru_cache(maxsize=64)
def kernel_fits(device: str, source: str) -> KernelFits | None:
    """The fits of a bundled device from a source; None where there are none.

    Raises
    ------
    InputError
        For a broken file.
    """
    path = kernels_root() / source / f"{device}.yaml"
    if not path.is_file():
        return None
    return read_kernel_fits(path)


def read_kernel_fits(path: Path) -> KernelFits:
    """The fits that a file holds.

    Raises
    ------
    InputError
        For a broken file, with the field that is wrong.
    """
    where = f"kernel fits {path}"
    return build(KernelFits, without_schema(read_yaml(path, "kernel fits"), SCHEMA, where, REINSTALL), where)


def kernel_fit(device: str, family: str, library: str, format: str, variant: str = "") -> KernelFit | None:
    """One fit of a device; None where nobody measured it.

    Raises
    ------
    InputError
        For a broken file.
    """
    wanted = family, library, format, variant
    each = (own for source in SOURCES if (own := kernel_fits(device, source)) is not None)
    return next((f for own in each for f in own.fits if (f.family, f.library, f.format, f.variant) == wanted), None)


def fitted_devices(source: str) -> list[str]:
    """Devices with fits from a source."""
    return sorted(p.stem for p in (kernels_root() / source).glob("*.yaml"))
