"""The fields of a plan as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..plans.fields import PlanSetting


def settings_report(settings: Sequence[PlanSetting]) -> Group:
    """A line for each field and one for what it means."""
    table = Table.grid(padding=(0, 2))
    for own in settings:
        default = "required" if own.required else "" if own.default in (None, "") else f"default {_text(own.default)}"
        table.add_row(Text(own.field, style="bold"), own.allowed, default)
        table.add_row("", Text(own.meaning, style="dim"), "")
    return Group(Text("--set FIELD=VALUE, or FIELD: VALUE in a plan file", style="bold"), table)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
