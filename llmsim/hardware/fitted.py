"""Fitted constants: what calibration against measured runs found, laid over the profiles and marked as fitted."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..core.arguments import of_kind
from ..core.provenance import Quantity
from ..core.versions import without_schema
from .profiles import build, profiles_root, read_yaml
from .shapes import ShapeTable, shape_table

SCHEMA = "llmsim.fitted/1"

_STRICT = ConfigDict(extra="forbid", frozen=True, defer_build=True, allow_inf_nan=False)


class Width(BaseModel):
    """Half the width of an 80 % interval, as a logarithm: measured times lie between prediction / e^w and x e^w.

    Attributes
    ----------
    log80
        The width w.
    groups
        Groups of runs, each predicted by a fit without its kind, that it was read from.
    """

    model_config = _STRICT

    log80: float = Field(gt=0)
    groups: int = Field(ge=1)


class Residual(BaseModel):
    """Relative errors of step times, a median over groups of their medians and the 90th percentile.

    Attributes
    ----------
    median, p90
        Of ``|predicted / measured - 1|``.
    groups
        How many.
    """

    model_config = _STRICT

    median: float
    p90: float
    groups: int


class Fit(BaseModel):
    """One calibration.

    Attributes
    ----------
    date, data, split
        When, on which runs, and which of them were kept out.
    residuals
        What was predicted (``in sample``, ``left out``) and for which models (``dense``, ``moe``) -> errors.
    intervals
        Regime (``dense``, ``moe/LINEAGE``, ``new hardware/dense`` ...) -> width of the interval of a prediction.
    hardware, frameworks
        Devices and frameworks among the runs.
    groups
        Group of runs that was fitted on -> median of the logarithm of predicted over measured step times.
    values
        Path of a constant -> quantity with its standard error.
    shapes
        Stack, generation and format -> table of layers by shape, as text (:mod:`llmsim.hardware.shapes`).
    doubtful
        Own run that was fitted on -> what is strange about its time.
    """

    model_config = _STRICT

    date: str = ""
    data: str = ""
    split: str = ""
    residuals: dict[str, Residual] = Field(default_factory=dict)
    intervals: dict[str, Width] = Field(default_factory=dict)
    hardware: tuple[str, ...] = ()
    frameworks: tuple[str, ...] = ()
    groups: dict[str, float] = Field(default_factory=dict)
    values: dict[str, Quantity] = Field(default_factory=dict)
    shapes: dict[str, str] = Field(default_factory=dict)
    doubtful: dict[str, str] = Field(default_factory=dict)

    @field_validator("shapes")
    @classmethod
    def _readable(cls, value: dict[str, str]) -> dict[str, str]:
        for text in value.values():
            shape_table(text)
        return value

    @property
    def shape_tables(self) -> dict[str, ShapeTable]:
        """Stack, generation and format -> table of layers by shape."""
        return {key: _known_table(text) for key, text in self.shapes.items()}

    def assumed(self) -> dict[str, str]:
        """What an answer that rests on it says of the runs: that their times are taken as right although they look
        wrong."""
        if not self.doubtful:
            return {}
        return {"calibration": "; ".join(f"{run}: {why}" for run, why in self.doubtful.items())}

    @property
    def overlay(self) -> dict[str, float]:
        """Path -> value."""
        return {path: quantity.value for path, quantity in self.values.items()}


@lru_cache(maxsize=256)
def _known_table(text: str) -> ShapeTable:
    """A table, read once: remembered by its text, since copies of a fit take remembered properties with them."""
    return shape_table(text)


def fitted_path() -> Path:
    """Where the fit lies that ships with the package."""
    return profiles_root() / "fitted.yaml"


def read_fit(path: Path) -> Fit:
    """A fit from its file.

    Raises
    ------
    InputError
        For a file that cannot be read or is not one.
    """
    instead = "calibrate again with `llmsim calibrate`, or leave it out for the constants that ship"
    data = without_schema(read_yaml(path, "fitted constants"), SCHEMA, f"fitted constants {path}", instead)
    return build(Fit, data, "fitted constants")


def checked_fit(fit: object) -> Fit | None:
    """Fitted constants that a caller gives; None for those that ship.

    Raises
    ------
    InputError
        For anything else.
    """
    allowed = "what calibrate_with returns, or None for the constants that ship"
    return None if fit is None else of_kind(fit, Fit, "fit", allowed)


@lru_cache(maxsize=1)
def shipped_fit() -> Fit:
    """The fit that ships with the package; empty where there is none."""
    path = fitted_path()
    return read_fit(path) if path.is_file() else Fit()
