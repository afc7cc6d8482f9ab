"""Commands that list and show models and hardware."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from ..core.errors import InputError
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
        str | None,
        typer.Argument(help="Device, fabric or software profile, or the path of your own; all names by default."),
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="Print this device or fabric as a YAML file, to make your own from.")
    ] = None,
    as_json: Json = False,
) -> None:
    """The bundled device, network and software profiles, or one of them in detail."""
    from ..report.catalogue import hardware_list, hardware_report, hardware_template

    if template is not None:
        if name is not None:
            raise InputError("template", template, "a NAME to show or a --template, one of the two", name)
        answer = hardware_template(template)
        if as_json:
            print_json(answer.data)
        else:
            print(answer.data["template"], end="")  # as it is: a terminal's width breaks no line of a file
        return
    _catalogue(name, as_json, hardware_list, hardware_report)


def _catalogue(name: str | None, as_json: bool, listing: Callable[[], Any], detail: Callable[[str], Any]) -> None:
    from ..report.training import show

    answer = listing() if name is None else detail(name)
    if as_json:
        print_json(answer.data)
    else:
        show(answer.text)
