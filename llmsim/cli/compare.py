"""The command that compares models over sequence lengths."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Json, print_json


def compare(
    models: Annotated[str, typer.Option("--models", "-m", help="Names or config.json paths, joined by commas.")],
    sequence: Annotated[str, typer.Option("--sequence", "-s", help="Lengths: 4k:1M doubles, 4k,32k,1M are those.")],
    device: Annotated[str | None, typer.Option(help="Device profile or file; by default h100-sxm-80gb.")] = None,
    devices: Annotated[int | None, typer.Option(help="How many; by default as many as the weights need.")] = None,
    batch: Annotated[int, typer.Option(help="Sequences of a decoding step.")] = 1,
    as_json: Json = False,
    figure: Annotated[Path | None, typer.Option(help="Write curves to this .html file.")] = None,
) -> None:
    """What long contexts cost: training, decoding and caches of models over sequence lengths."""
    from ..core.files import check_writable
    from ..report.compare import comparison_report, write_figure
    from ..report.training import show
    from ..serving.compare import compare as compare_models

    if figure is not None:
        check_writable(figure, "figure")
    names = [name.strip() for name in models.split(",") if name.strip()]
    found = compare_models(names, sequence, device=device, devices=devices, batch=batch)
    if figure is not None:
        write_figure(found, figure)
    if as_json:
        print_json(found.to_dict())
    else:
        show(comparison_report(found))
