"""The command that scores predictions against measured runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .options import Json, print_json


class Split(StrEnum):
    """What is left out when constants are refitted for a validation."""

    group = "group"
    model = "model"
    framework = "framework"
    hardware = "hardware"
    framework_model = "framework-model"
    lineage_layers = "lineage-layers"
    generation = "generation"
    architecture = "architecture"
    family = "family"
    method = "method"


def validate(
    file: Annotated[Path, typer.Argument(help="Measured runs, a CSV with the columns of the run table.")],
    as_json: Json = False,
    refit_without: Annotated[
        Split | None, typer.Option(help="Refit the constants without what shares this with the scored row.")
    ] = None,
) -> None:
    """Predictions against measured runs."""
    from ..report.training import show
    from ..report.validation import validation_report
    from ..scoring.validate import validate as score

    report = score(file, refit_without=refit_without.value if refit_without else None, progress=not as_json)
    if as_json:
        print_json(report.to_dict())
    else:
        show(validation_report(report))
