"""Commands that list and show models and hardware."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from .options import Json, print_json


def models(
    name: Annotated[str | None, typer.Argument(help="Bundled name, hub id or path; all names by default.")] = None,
    as_json: Json = False,
) -> None:
    """The bundled models, or one model in detail."""
    from ..report.catalogue import model_list, model_report

    _catalogue(name, as_json, model_list, model_report)


def hardware(
    name: Annotated[
        str | None, typer.Argument(help="Device, fabric or software profile; all names by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """The bundled device, network and software profiles, or one of them in detail."""
    from ..report.catalogue import hardware_list, hardware_report

    _catalogue(name, as_json, hardware_list, hardware_report)


def _catalogue(name: str | None, as_json: bool, listing: Callable[[], Any], detail: Callable[[str], Any]) -> None:
    from ..report.training import show

    answer = listing() if name is None else detail(name)
    if as_json:
        print_json(answer.data)
    else:
        show(answer.text)
