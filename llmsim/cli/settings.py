"""The command that lists what ``--set`` takes."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Json, print_json


def settings(
    name: Annotated[str | None, typer.Argument(help="Field of a plan; all fields by default.")] = None,
    as_json: Json = False,
) -> None:
    """The fields of a plan: what --set and plan files take."""
    from dataclasses import asdict

    from ..core.errors import unknown_name
    from ..plans.fields import plan_settings
    from ..report.settings import settings_report
    from ..report.training import show

    found = plan_settings()
    if name is not None:
        if name not in {setting.field for setting in found}:
            raise unknown_name("field", name, [setting.field for setting in found])
        found = [setting for setting in found if setting.field == name]
    if as_json:
        print_json({"schema": "llmsim.settings/1", "settings": [asdict(setting) for setting in found]})
    else:
        show(settings_report(found))
