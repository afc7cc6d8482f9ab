"""Profiles state constants in nested sections; here they become one mapping, each checked against the registry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from ..core.errors import InputError, unknown_name
from ..core.provenance import Quantity
from .constants import Constant, Kind, constants_of
from .profiles import build


class Profile(BaseModel):
    """A profile with constants.

    Attributes
    ----------
    constants
        Key of a constant as the registry has it (``host/launch_s``; of one that differs by generation with that behind
        it, ``rates/attention/default``) -> what the profile states.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    profile_kind: ClassVar[Kind]

    constants: dict[str, Quantity]

    @model_validator(mode="before")
    @classmethod
    def _gathered(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "constants" in data:
            return data
        try:
            constants, others = gathered(cls.profile_kind, data)
        except InputError as error:
            raise ValueError(str(error)) from error
        return {**others, "constants": constants}

    def constant(self, constant: Constant, generation: str = "default") -> Quantity | None:
        """What it states of a constant, for a generation of devices where that makes a difference; None for nothing."""
        if not constant.by_generation:
            return self.constants.get(constant.key)
        default = self.constants.get(f"{constant.key}/default")
        return self.constants.get(f"{constant.key}/{generation}", default)


def gathered(kind: Kind, data: Mapping[str, Any]) -> tuple[dict[str, Quantity], dict[str, Any]]:
    """The constants of a profile's mapping, and what else is in it.

    Raises
    ------
    InputError
        For an unknown constant, one of another unit or out of its range, and one that is missing.
    """
    known = {c.key: c for c in constants_of(kind)}
    sections = {key.split("/")[0] for key in known}
    stated = dict(_leaves({k: v for k, v in data.items() if k in sections}, known))
    others = {key: value for key, value in data.items() if key not in sections}
    found: dict[str, Quantity] = {}
    for key, constant in known.items():
        own = {k: v for k, v in stated.items() if k == key or (constant.by_generation and k.startswith(f"{key}/"))}
        found |= {k: _checked(k, constant, v) for k, v in own.items()}
        needed = f"{key}/default" if constant.by_generation else key
        if needed not in own and constant.default is not None:
            found[needed] = Quantity(
                value=constant.default, unit=constant.unit, provenance="assumed", source=constant.source
            )
        elif needed not in own and not constant.optional:
            raise _missing(needed, data, known)
    return found, others


def _leaves(data: Mapping[str, Any], known: Mapping[str, Constant], inside: str = "") -> Iterator[tuple[str, Any]]:
    """(key, value) of what a profile states."""
    for name, value in data.items():
        key = f"{inside}{name}"
        constant = known.get(key) or known.get(key.rpartition("/")[0])
        if constant is not None and (key == constant.key) != constant.by_generation:
            yield key, value
        elif isinstance(value, Mapping) and any(k.startswith(f"{key}/") or k == key for k in known):
            yield from _leaves(value, known, f"{key}/")
        else:
            raise unknown_name("constant", key.replace("/", "."), [k.replace("/", ".") for k in known])


def _checked(key: str, constant: Constant, value: Any) -> Quantity:
    field = key.replace("/", ".")
    quantity = value if isinstance(value, Quantity) else build(Quantity, value, field)
    if quantity.unit != constant.unit:
        raise InputError(f"{field}: unit", quantity.unit, constant.unit, constant.unit)
    if not constant.low <= quantity.value <= constant.high:
        near = min(max(quantity.value, constant.low), constant.high)
        allowed = f"{constant.low:g} to {constant.high:g} ({constant.meaning})"
        raise InputError(field, quantity.value, allowed, near)
    return quantity


def _missing(key: str, data: Mapping[str, Any], known: Mapping[str, Constant]) -> InputError:
    """The error for a constant that is not there; a misspelt one beside it is the better reason."""
    missing = InputError(key.replace("/", "."), None, "this constant is required", why="is missing")
    for name, value in data.items():
        if isinstance(value, Mapping) and "value" in value and name not in known:
            return unknown_name("key", name, [k.replace("/", ".") for k in known])
    return missing


def nested(constants: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of a profile's file from the keys of its constants."""
    found: dict[str, Any] = {}
    for key, value in constants.items():
        *sections, name = key.split("/")
        inside = found
        for section in sections:
            inside = inside.setdefault(section, {})
        inside[name] = value
    return found


def stated(profile: BaseModel, key: str) -> Quantity | None:
    """What a device or a fabric states of a constant, by its key (``scale_up/efficiency``)."""
    found: Any = profile
    for name in key.split("/"):
        found = getattr(found, name)
    return found  # type: ignore[no-any-return]
