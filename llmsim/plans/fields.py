"""What the fields of a plan may be, what they are where nobody says, and what they mean: read off the plan's class."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import cleandoc
from typing import Any

from ..core.errors import InputError
from .defaults import RESOLVED
from .training import TrainingPlan

LEAST = {"sequence_length": 1, "global_batch_size": 1}
"""A plan's own fields without a default."""


@dataclass(frozen=True)
class PlanSetting:
    """One field of a plan.

    Attributes
    ----------
    field, allowed, default, meaning
        Its name; its values, in words; None where it must be said or says nothing; a line of prose.
    required
        Whether it must be said.
    """

    field: str
    allowed: str
    default: Any
    meaning: str
    required: bool


def plan_settings() -> list[PlanSetting]:
    """Every field in the order of the class."""
    meanings = documented(TrainingPlan.__doc__ or "")
    schemas: Mapping[str, Any] = TrainingPlan.model_json_schema()["properties"]
    return [
        PlanSetting(
            name,
            _allowed(name, schemas[name]),
            None if name in RESOLVED else _default(field.default),
            meanings[name],
            field.is_required(),
        )
        for name, field in TrainingPlan.model_fields.items()
        if name != "schema_version"
    ]


def documented(text: str) -> dict[str, str]:
    """Names under ``Attributes`` with their prose: of several names with as many clauses, each its own."""
    body = cleandoc(text).partition("Attributes\n----------\n")[2]
    found: dict[str, str] = {}
    for block in re.split(r"\n(?=\S)", body):
        head, _, prose = block.partition("\n")
        names = [name.strip() for name in head.split(",")]
        plain = re.sub(r":\w+:`~?([\w.]+)`", r"\1", " ".join(prose.split()).replace("``", "")).rstrip(".")
        parts = [part.strip() for part in plain.split(";")]
        each = parts if len(parts) == len(names) else [plain] * len(names)
        found |= {name: part if "``" + part[:3] in prose else f"{part[0].upper()}{part[1:]}"
                  for name, part in zip(names, each, strict=True)}  # fmt: skip
    return found


def _default(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else None


def _allowed(name: str, schema: Mapping[str, Any]) -> str:
    """In words, from the schema; of a text from what the check of it says to a wrong one."""
    kinds = [k for k in schema.get("anyOf", [schema]) if k.get("type") != "null"]
    return " or ".join(dict.fromkeys(_kind(name, kind) for kind in kinds))


def _kind(name: str, schema: Mapping[str, Any]) -> str:
    if "enum" in schema or "const" in schema:
        return ", ".join(schema.get("enum", [schema.get("const")]))
    kind = schema["type"]
    if kind == "array":
        return "several of them, joined by commas"
    if kind == "boolean":
        return "true, false"
    if kind == "string":
        try:
            TrainingPlan(**{**LEAST, name: "?"})
        except InputError as error:
            return error.allowed or "text"
        return "text"
    # Bounds behind a check of our own keep pydantic's names.
    least, above, most = (schema.get(a, schema.get(b)) for a, b in BOUNDS)
    low = f"above {above:g}" if above is not None else f"from {least:,}"
    return f"{'whole number' if kind == 'integer' else 'number'} {low} to {most:,.10g}"


BOUNDS = (("minimum", "ge"), ("exclusiveMinimum", "gt"), ("maximum", "le"))
