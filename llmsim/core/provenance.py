"""Where a number comes from and how far it may be off."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Provenance = Literal["datasheet", "measured", "fitted", "assumed"]


class Quantity(BaseModel):
    """A number of a hardware or software profile: value, unit, origin, error and date.

    Attributes
    ----------
    value
        In the stated unit.
    unit
        SI, spelled out (``B/s``, ``FLOP/s``, ``s``, ``1`` for a ratio).
    provenance
        ``datasheet`` (the maker's figure), ``measured`` (published or own measurement), ``fitted`` (estimated from
        measured runs by ``llmsim.calibration``) or ``assumed`` (nobody has measured it here).
    error
        Relative standard error of the value, None where unknown.
    source, date
        Who says so, and when.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, allow_inf_nan=False)

    value: float
    unit: str = "1"
    provenance: Provenance
    error: float | None = Field(default=None, ge=0)
    source: str = ""
    date: str = ""

    @model_validator(mode="after")
    def _source_given(self) -> Quantity:
        if self.provenance != "assumed" and not self.source:
            raise ValueError(f"a {self.provenance} value needs a source")
        return self

    def replace(self, **changes: Any) -> Quantity:
        """A copy with other fields."""
        return self.model_copy(update=changes)
