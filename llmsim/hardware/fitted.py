"""Fitted constants: what calibration against measured runs found, laid over the profiles and marked as fitted."""

from __future__ import annotations

from functools import lru_cache

from pydantic import BaseModel, ConfigDict, Field

from ..core.provenance import Quantity
from .profiles import build, profiles_root, read_yaml


class Fit(BaseModel):
    """One calibration.

    Attributes
    ----------
    date, data, split
        When, on which runs, and how the fit split was drawn.
    residual
        Median absolute relative error over the groups that were fitted on.
    values
        Path of a constant -> quantity with its standard error.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    date: str = ""
    data: str = ""
    split: str = ""
    residual: dict[str, float] = Field(default_factory=dict)
    values: dict[str, Quantity] = Field(default_factory=dict)


@lru_cache(maxsize=1)
def shipped_fit() -> Fit:
    """The fit that ships with the package; empty where there is none."""
    path = profiles_root() / "fitted.yaml"
    if not path.is_file():
        return Fit()
    data = read_yaml(path, "fitted constants")
    data.pop("schema", None)
    return build(Fit, data, "fitted constants")


@lru_cache(maxsize=1)
def fitted_values() -> dict[str, float]:
    """Path -> value of the shipped fit."""
    return {path: quantity.value for path, quantity in shipped_fit().values.items()}
