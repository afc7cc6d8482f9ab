"""Where profiles lie, and how their YAML is read: once, by name, with errors that name file and field."""

from __future__ import annotations

import os
import re
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ValidationError

from ..core.errors import InputError, nearest_names, unknown_name, unread
from ..core.versions import without_schema

Model = TypeVar("Model", bound=BaseModel)

_PACKAGE = Path(__file__).resolve().parent.parent


def _no_flag(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number, not true or false")
    return value


Whole = Annotated[int, BeforeValidator(_no_flag)]
Real = Annotated[float, BeforeValidator(_no_flag)]
"""Numbers; pydantic alone would read true as 1."""


@lru_cache(maxsize=1)
def profiles_root() -> Path:
    """The folder ``hardware_profiles``: inside the installed package, or beside it in a checkout."""
    for candidate in (_PACKAGE / "hardware_profiles", _PACKAGE.parent / "hardware_profiles"):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError("hardware_profiles is missing from this installation of llmsim")


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """A YAML (or JSON) mapping.

    Raises
    ------
    InputError
        For a file that cannot be read or is not a mapping, with the line where it breaks.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = f"cannot be read ({unread(error)})"
        raise InputError(what, str(path), "a readable YAML or JSON file", why=why) from None
    try:
        data = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError(what, str(path), "well-formed YAML or JSON", why=f"is broken{where}") from None
    except InputError as error:
        raise InputError(what, str(path), "each key once", why=f"has the key {error.value!r} twice") from None
    except (ValueError, RecursionError) as error:  # dates that do not exist, numbers without end
        raise InputError(what, str(path), "well-formed YAML or JSON", why=f"is broken ({error})") from None
    if is_endless(data):
        raise InputError(what, str(path), "a mapping of fields", why="holds itself, or more than a million entries")
    if not isinstance(data, dict):
        raise InputError(what, str(path), "a mapping of fields", why=f"holds a {type(data).__name__}")
    return data


def is_endless(data: Any, most: int = 1_000_000) -> bool:
    """Whether YAML that refers to its own parts comes to more than so many entries, written out."""
    left, entries = [data], 0
    while left and entries <= most:
        own = left.pop()
        inside = [*own, *own.values()] if isinstance(own, dict) else own if isinstance(own, (list, tuple, set)) else ()
        left.extend(inside)
        entries += len(inside)
    return entries > most


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML in which no key stands twice: the later one would win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise InputError("key", key.value)
                seen.add(key.value)
        return dict(super().construct_mapping(node, deep))


class Checked(BaseModel):
    """A pydantic model whose constructor raises our kind of error."""

    if not TYPE_CHECKING:  # type checkers know the fields from the class

        def __init__(self, /, **data: Any) -> None:
            try:
                super().__init__(**data)
            except ValidationError as error:
                raise as_input_error(error, type(self), "") from None

        # Validation from within, as of a nested field, goes past it and keeps the path of the field.
        __init__.__pydantic_base_init__ = True

    def replace(self, **changes: Any) -> Self:
        """A validated copy with other fields; what was not set stays so.

        Raises
        ------
        InputError
            As the constructor.
        """
        return type(self)(**{**self.model_dump(exclude_unset=True), **changes})


def build(model: type[Model], data: dict[str, Any], where: str) -> Model:
    """A pydantic object from a mapping, with our kind of error.

    Raises
    ------
    InputError
        Naming the field, its value and what is allowed; an unknown key comes with the nearest known ones.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise as_input_error(error, model, where) from None


def as_input_error(error: ValidationError, model: type[BaseModel], where: str) -> InputError:
    """The most telling problem of a pydantic error, in our words: a misspelt key before the one that is missing for
    it."""
    first = min(error.errors(), key=lambda e: e["type"] not in _UNKNOWN_KEY)
    # Of a field that takes several kinds of values pydantic names the kind too.
    path = ".".join(
        str(p) for p in first["loc"] if not re.search(r"[\[(]", str(p)) and p not in ("int", "str", "tuple")
    )
    field = ": ".join(part for part in (where, path) if part)
    if first["type"] in _UNKNOWN_KEY:
        known = unknown_name("key", str(first["loc"][-1]), _fields_at(model, first["loc"][:-1]))
        return InputError(field, first["input"], known.allowed, known.nearest, why="is an unknown key")
    if first["type"] == "missing":
        return InputError(field, None, "this field is required", why="is missing")
    context = first.get("ctx", {})
    own = getattr(context.get("error"), "__cause__", None)
    if isinstance(own, InputError):
        field = field if path else ": ".join(part for part in (where, own.field) if part)
        return InputError(field, own.value, own.allowed, own.nearest, own.why)
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if not path:  # a rule between fields
        return InputError(field, first["input"], why=f"is not valid: {message}")
    return InputError(field, first["input"], message, _nearest(first["input"], context))


_UNKNOWN_KEY = ("extra_forbidden", "invalid_key")


def _nearest(value: Any, context: dict[str, Any]) -> Any:
    """The bound that was crossed, or the most similar of the names that are allowed."""
    if "expected" in context:
        return nearest_names(str(value), re.findall(r"'([^']*)'", context["expected"]), 1)[0]
    return context.get("ge", context.get("le"))


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    current: Any = model
    for part in path:
        if _is_model(current):
            field = current.model_fields.get(part)
            current = _inside(field.annotation) if field else None
        else:  # an item of a list or a mapping
            current = next((_inside(a) for a in reversed(get_args(current)) if a is not ...), None)
        if current is None:
            break
    fields = (current if _is_model(current) else model).model_fields
    return [f.alias or name for name, f in fields.items()]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _inside(annotation: Any) -> Any:
    """What is left of an annotation without ``None`` beside it."""
    own = [a for a in get_args(annotation) if a is not NoneType]
    return (
        own[0] if len(own) == 1 and len(get_args(annotation)) == 2 and get_origin(annotation) in _UNIONS else annotation
    )


_UNIONS = (Union, UnionType)


def names_file(name: object) -> bool:
    """Whether a text is the path of a file with a profile of one's own, and not a bundled name."""
    return _has_suffix(str(name))


@lru_cache(maxsize=1024)
def _has_suffix(name: str) -> bool:
    return Path(name).suffix.lower() in (".yaml", ".yml", ".json")


@lru_cache(maxsize=256)
def _named_path(folder: str, name: str) -> Path | None:
    path = profiles_root() / folder / f"{name}.yaml"
    return path if os.path.isfile(path) else None


def profile_names(folder: str) -> list[str]:
    """Names of all profiles of a folder (``devices``, ``networks``, ``software``, ``generations``)."""
    return sorted(p.stem for p in (profiles_root() / folder).glob("*.yaml") if p.stem != "kernels")


def read_profile(folder: str, name: str, field: str) -> dict[str, Any]:
    """The mapping of a named profile, without its schema line.

    Raises
    ------
    InputError
        For an unknown name, with the nearest ones.
    """
    plain = isinstance(name, str) and name == Path(name).name and name not in ("", ".", "..")
    path = _named_path(folder, name) if plain else None
    if path is None:
        raise unknown_name(field, name, profile_names(folder))
    return deepcopy(_profile(path, field))


@lru_cache(maxsize=256)
def _profile(path: Path, field: str) -> dict[str, Any]:
    kind = _KINDS[path.parent.name]
    return without_schema(read_yaml(path, field), f"llmsim.{kind}/1", f"{kind} profile {path}", REINSTALL)


_KINDS = {
    "devices": "device",
    "generations": "generation",
    "networks": "network",
    "software": "software",
    "engines": "engine",
}
"""Folder of profiles -> what one of them is."""

REINSTALL = "install llmsim again, its profiles are not its own"
