"""Inference engines: defaults of their schedulers and what a step costs beside its counts, by release."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..core.errors import unknown_name
from .constants import Kind
from .fitted import Fit, read_fit
from .profile_constants import Profile
from .profiles import build, profile_names, profiles_root, read_profile

_STRICT = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class SchedulerDefaults(BaseModel):
    """What an engine does where its command line says nothing.

    Attributes
    ----------
    block_tokens
        Tokens of a block of the cache.
    max_num_seqs, max_num_batched_tokens
        Sequences that run at a time, and new tokens of a step.
    utilisation, of
        Share of memory for all that the engine holds: of the device's ``total``, or of what weights leave ``free``.
    mixed
        Whether prompts run in the same steps as sequences that decode; if not, these wait while prompts run.
    streams
        Sequences that run at a time at most, where the engine is made for few; None without a limit of its own.
    reserves_output
        Whether a sequence is only let in once the cache has room for its whole answer.
    shared_pages, state_pages, capacity_of_longest
        Whether all kinds of layers take pages from one pool, how many of them a state takes, and whether the tokens of
        a cache are those of as many of the longest sequences as fit.
    """

    model_config = _STRICT

    block_tokens: int = Field(default=16, ge=1)
    max_num_seqs: int = Field(default=256, ge=1)
    max_num_batched_tokens: int = Field(default=8192, ge=1)
    utilisation: float = Field(default=0.9, gt=0, le=1)
    of: Literal["total", "free"] = "total"
    mixed: bool = True
    streams: int | None = Field(default=None, ge=1)
    reserves_output: bool = False
    shared_pages: bool = False
    state_pages: int = Field(default=1, ge=1)
    capacity_of_longest: bool = False


class Engine(Profile):
    """An inference engine.

    Attributes
    ----------
    name, aliases
        What it is called.
    defaults
        Of its scheduler and of its memory.
    cache_formats
        Stored format of weights -> format of the cache that checkpoints of it bring along; 16 bits for all others.
    graphs_inside
        Whether memory of captured graphs is part of the share that it may use.
    """

    profile_kind: ClassVar[Kind] = "engines"

    name: str
    aliases: tuple[str, ...] = ()
    defaults: SchedulerDefaults = SchedulerDefaults()
    cache_formats: dict[str, str] = Field(default_factory=dict)
    graphs_inside: bool = False
    notes: str = ""

    def rates(self, fit: Fit | None = None) -> dict[str, float]:
        """Key of a constant -> value: what the profile states, with what a fit says instead."""
        laid = (shipped_serving_fit() if fit is None else fit).overlay
        return {key: laid.get(f"engines/{self.name}/{key}", own.value) for key, own in self.constants.items()}


def engine_names() -> list[str]:
    """All bundled engines."""
    return [name for name in profile_names("engines") if not name.startswith("any")]


def release_number(release: str) -> tuple[int, ...]:
    """The leading numbers of a release (``v0.19.0rc1`` is 0, 19, 0); empty for a text without."""
    match = re.match(r"\s*v?([0-9]+(?:\.[0-9]+)*)", release)
    return tuple(int(part) for part in match[1].split(".")) if match else ()


@lru_cache(maxsize=128)
def get_engine(name: str, release: str = "") -> Engine:
    """The engine of that name or alias, as a release has it: the newest of those stated that is not newer; without
    numbers in it, the newest of all.

    Raises
    ------
    InputError
        For an unknown one, with the nearest names.
    """
    wanted = re.sub(r"[\s_]+", "-", name.strip().lower())
    data = next((own for known in engine_names() for own in [_whole(known)] if wanted in _names(known, own)), None)
    if data is None:
        raise unknown_name("engine", name, engine_names())
    releases = data.pop("releases", {})
    number = release_number(release)
    for stated in sorted(releases, key=lambda text: release_number(str(text))):
        if not number or release_number(str(stated)) <= number:
            data = _merged(data, releases[stated])
    return build(Engine, data, f"engine {name}")


def _names(known: str, data: dict[str, Any]) -> set[str]:
    return {known, *data.get("aliases", ())}


def _whole(name: str) -> dict[str, Any]:
    """A profile with what it extends."""
    data = read_profile("engines", name, "engine")
    base = data.pop("extends", None)
    whole = _merged(_whole(base), data) if base else data
    return {**whole, "name": name}


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Section by section; a constant is taken whole."""
    found = dict(base)
    for key, value in own.items():
        old = found.get(key)
        nested = isinstance(old, dict) and isinstance(value, dict) and "value" not in value
        found[key] = _merged(old, value) if nested else value  # type: ignore[arg-type]
    return found


def serving_fit_path() -> Path:
    """Where the fit to servers lies that ships with the package."""
    return profiles_root() / "fitted_serving.yaml"


@lru_cache(maxsize=1)
def shipped_serving_fit() -> Fit:
    """The fit to servers that ships with the package; empty where there is none."""
    path = serving_fit_path()
    return read_fit(path) if path.is_file() else Fit()
