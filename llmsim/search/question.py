"""The question of a search: its arguments in the forms that people write, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..core.arguments import listed, of_kind, real, text, whole
from ..core.errors import InputError
from ..hardware.profiles import build
from .risk import check_percentile
from .simplest import SIMPLER_WITHIN
from .space import SearchSpace


def check_texts(**texts: Any) -> None:
    """Refuse what is neither a text nor None."""
    for name, value in texts.items():
        if value is not None:
            text(value, name, "a name")


def check_numbers(**numbers: Any) -> None:
    """Refuse what is neither a number nor None."""
    for name, value in numbers.items():
        if value is not None:
            real(value, name)


def check_counts(**counts: Any) -> None:
    """Refuse what is neither a whole number from 1 on nor None."""
    for name, value in counts.items():
        if value is not None:
            whole(value, name)


def check_choice(percentile: float | None, simpler_within: float | None) -> None:
    """Refuse what cannot choose among plans, and two choices at once."""
    if percentile is not None:
        check_percentile(percentile)
        if simpler_within is not None:
            raise InputError("simpler_within", simpler_within, "this or a percentile, one of the two")
    if simpler_within is not None and not 0 <= simpler_within <= 1:  # so that NaN is refused
        raise InputError("simpler_within", simpler_within, "a share of a step from 0 to 1", SIMPLER_WITHIN)


def chosen_space(space: Any, precision: str | Sequence[str] | None) -> tuple[SearchSpace, str | None]:
    """What may be chosen, and the recipe that a plan starts with: of several, all may be chosen."""
    found = build(SearchSpace, dict(space), "space") if isinstance(space, Mapping) else space
    found = SearchSpace() if found is None else of_kind(found, SearchSpace, "space", "a SearchSpace, or its fields")
    if precision is None:
        return found, None
    recipes = listed(precision, "precision", "a recipe, or several")
    if isinstance(precision, str):
        recipes = [part.strip() for part in precision.split(";" if ";" in precision else ",")]
    if not recipes:
        raise InputError("precision", precision, "a recipe, or several", "bf16")
    if len(recipes) == 1:
        return found, text(recipes[0], "precision", "a recipe such as bf16")
    if found.precision is not None:
        raise InputError("precision", precision, "several of them here or in the space, not in both")
    found = build(SearchSpace, {**found.model_dump(), "precision": recipes}, "")
    return found, (found.precision or ())[0]
