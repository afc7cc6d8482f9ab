"""Software profiles: what is a fact of a framework and its release is data, not code.

A profile says which kernels a stack runs, what it fuses and which copies it keeps; in what formats the framework holds
weights and gradients and what it offers; and, as constants, what both overlap, reach and cost the host. A release
overrides what it changed.
"""

from __future__ import annotations

import fnmatch
from functools import lru_cache
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..core.errors import InputError, unknown_name
from ..core.inventory import Inventory, KernelRow, parse_row
from ..core.operator_kinds import OPERATOR_KINDS
from ..core.operators import HIGH
from ..core.pipelines import ScheduleName, schedule_facts
from ..core.sharding import ContextKind
from ..core.versions import without_schema
from .constants import Kind
from .profile_constants import Profile
from .profiles import REINSTALL, build, profile_names, profiles_root, read_profile, read_yaml

_STRICT = ConfigDict(extra="forbid", frozen=True, defer_build=True)

LIKE_NEWEST = " like the newest "
"""Between a release without rows of its own and the framework that it is taken for, where answers say so."""


class Formats(BaseModel):
    """Formats of what a training state is made of.

    Attributes
    ----------
    residual
        Of the stream between layers and of what norms write (autocast leaves both in 32 bits).
    parameter
        Of the weights that forward and backward read, ``compute`` for the recipe's 16-bit format.
    gradient
        Of the accumulated gradient.
    reduce
        In which gradients travel.
    master, moments
        Of the optimizer's copy of the weights (None: it updates the parameters themselves) and of its moments.
    """

    model_config = _STRICT

    residual: str = "compute"
    parameter: str = "compute"
    gradient: str = "fp32"
    reduce: str = "fp32"
    master: str | None = "fp32"
    moments: str = "fp32"


class Defaults(BaseModel):
    """What the framework does when nobody says otherwise; what a plan could say is listed under ``assumed``.

    ``data_parallel_reduce``: whether fully sharded gradients are reduced once a step or after each micro-batch;
    ``expert_tensor_parallel``: whether experts stay whole or are cut as dense layers are.
    """

    model_config = _STRICT

    sharding: Literal["ddp", "zero1", "zero2", "zero3", "hsdp"] = "zero1"
    recompute: str = "none"
    sequence_parallel: bool = True
    context_kind: ContextKind = "ring"
    expert_tensor_parallel: Literal["whole", "tensor_parallel"] = "whole"
    imbalance: float = Field(default=1.0, ge=1)
    data_parallel_reduce: Literal["step", "microbatch"] = "step"


class Choices(BaseModel):
    """What the framework can do, best first: what a search chooses from; of schedules it takes 1F1B and interleaving
    unless it is told to look at others. ``overlap``: what it can hide besides when it is asked to."""

    model_config = _STRICT

    sharding: tuple[Literal["ddp", "zero1", "zero2", "zero3", "hsdp"], ...] = ("zero1",)
    context_kind: tuple[ContextKind, ...] = ("ring",)
    schedule: tuple[ScheduleName, ...] = ("1f1b", "interleaved")
    overlap: tuple[Literal["tensor", "expert"], ...] = ()


class Stack(BaseModel):
    """Kernels, fusions and messages of a stack: what training and serving on it share.

    Attributes
    ----------
    kernels
        Operator kind -> implementation, a row of ``kernels.yaml``.
    converted_products
        The implementation of products whose operands a precision recipe converts.
    fused
        Groups of operators that one kernel computes.
    split
        Operators of fused groups whose outputs are copied out into storages of their own.
    accumulates_in_place
        Whether a product adds its weight gradient to the accumulated one itself.
    gather
        Axis -> what becomes of a gathered copy (``keep``, ``again``, ``stream``).
    shared_input
        Whether operators that read one tensor share its gather and reduction.
    dispatch
        Whether a token goes to each of its experts separately, or once to each scale-up domain (DeepEP, HybridEP).
    """

    model_config = _STRICT

    kernels: dict[str, str]
    converted_products: str = "low"
    fused: tuple[tuple[str, ...], ...] = ()
    split: tuple[str, ...] = ()
    accumulates_in_place: bool = True
    gather: dict[Literal["tp", "cp", "etp"], Literal["keep", "again", "stream"]] = Field(default_factory=dict)
    shared_input: bool = True
    dispatch: Literal["per_expert", "once_per_domain"] = "per_expert"

    def inventory(self, **override: str) -> Inventory:
        """The kernel rows that this stack uses; keywords replace implementations (``attention="math"``)."""
        return _inventory(tuple(sorted({**self.kernels, **override}.items())), self.fused, frozenset(self.split))


class TrainingFramework(BaseModel):
    """What a framework holds while it trains, and what it offers.

    Attributes
    ----------
    gradients
        ``kept``: buffers for all gradients exist throughout (Megatron); ``freed``: each is allocated when backward
        makes it and freed by the update, and whatever else is not needed any more is freed at once (eager torch).
    update
        Whether parameters are updated by one ``fused`` kernel, by operators on lists of all tensors (``foreach``), or
        tensor by tensor (``loop``): where not fused, temporaries of all parameters, or of the largest.
    early_stop
        Whether recomputing stops once everything kept has been made again.
    reshard_root
        FSDP: whether the root unit is freed after forward.
    padded_shards
        FSDP: whether each parameter is padded along its first dimension (per parameter) or the flat buffer is.
    formats, defaults, choices
        See the classes.
    """

    model_config = _STRICT

    gradients: Literal["kept", "freed"] = "kept"
    update: Literal["fused", "foreach", "loop"] = "fused"
    early_stop: bool = True
    reshard_root: bool = False
    padded_shards: bool = True
    formats: Formats = Formats()
    defaults: Defaults = Defaults()
    choices: Choices = Choices()


class Software(Profile):
    """A framework at a release: the stack of kernels that it runs and how it trains. Its constants are those of
    ``software/*`` in the registry.

    Attributes
    ----------
    name, release
        Profile and the release that was asked for.
    lineage
        The profile whose code it shares, by default its own: stacks of one lineage share some constants.
    aliases
        Other names of the framework.
    stack, training
        See the classes.
    releases
        Pattern of a release -> overrides, the first match holds.
    """

    profile_kind: ClassVar[Kind] = "software"

    name: str
    release: str = ""
    lineage: str = ""
    aliases: tuple[str, ...] = ()
    stack: Stack
    training: TrainingFramework = TrainingFramework()
    releases: dict[str, dict[str, Any]] = Field(default_factory=dict)
    notes: str = ""

    def assumed(self, *schedules: ScheduleName) -> dict[str, str]:
        """What a release takes over from the framework's newest, where the profile does not know it; and schedules that
        split backward passes and that the framework does not offer."""
        found: dict[str, str] = {}
        if self.release and not any(_matches(self.release, pattern) for pattern in self.releases):
            found["release"] = f"{self.release}{LIKE_NEWEST}{self.name} (its profile has no rows for this release)"
        foreign = [s for s in schedules if schedule_facts(s).split and s not in self.training.choices.schedule]
        if foreign:
            offered = ", ".join(self.training.choices.schedule)
            found["schedule"] = f"{', '.join(foreign)} as if {self.name} had it (its profile lists {offered})"
        return found


@lru_cache(maxsize=1)
def kernel_rows() -> dict[str, dict[str, KernelRow]]:
    """Operator kind -> implementation -> row."""
    path = profiles_root() / "software" / "kernels.yaml"
    data = without_schema(read_yaml(path, "kernel rows"), "llmsim.kernels/1", f"kernel rows {path}", REINSTALL)
    return {kind: {name: parse_row(row) for name, row in rows.items()} for kind, rows in data.items()}


@lru_cache(maxsize=64)
def _inventory(
    kernels: tuple[tuple[str, str], ...], fused: tuple[tuple[str, ...], ...], split: frozenset[str]
) -> Inventory:
    rows = kernel_rows()
    chosen = {kind.name: kind.row for kind in OPERATOR_KINDS.values() if kind.row is not None}
    chosen |= {kind: next(iter(options.values())) for kind, options in rows.items()}
    for kind, name in kernels:
        options = rows.get(kind.removesuffix(HIGH))
        if options is None:
            raise unknown_name("operator kind", kind, rows)
        if name not in options:
            raise unknown_name(f"implementation of {kind}", name, options)
        chosen[kind] = options[name]
    return Inventory(chosen, fused, split)


def _merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        nested = isinstance(value, dict) and isinstance(base.get(key), dict) and "value" not in value
        merged[key] = _merge(base[key], value) if nested else value
    return merged


@lru_cache(maxsize=1)
def _aliases() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in profile_names("software"):
        for alias in read_profile("software", name, "framework").get("aliases", ()):
            found[str(alias).lower()] = name
    return found


def framework_name(name: str) -> str:
    """The profile name of a framework or alias.

    Raises
    ------
    InputError
        For an unknown one, with the nearest names.
    """
    wanted = str(name).strip().lower()
    if wanted in profile_names("software"):
        return wanted
    if wanted in _aliases():
        return _aliases()[wanted]
    raise unknown_name("framework", name, [*profile_names("software"), *_aliases()])


def _matches(release: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(release.lower(), pattern.lower())


@lru_cache(maxsize=256)
def get_software(name: str, release: str = "") -> Software:
    """The profile of a framework at a release (empty: its newest).

    Raises
    ------
    InputError
        For an unknown framework or a broken profile.
    """
    profile = framework_name(name)
    data = _resolve(profile, ())
    for pattern, change in data.get("releases", {}).items():
        if release and _matches(release, str(pattern)):
            data = _merge(data, change)
            break
    own = {"name": profile, "release": release, "lineage": data.get("lineage", profile)}
    return build(Software, {**data, **own}, f"software profile {profile}")


def _resolve(profile: str, seen: tuple[str, ...]) -> dict[str, Any]:
    if profile in seen:
        raise InputError("extends", profile, "a chain without a loop", why="extends itself")
    data = read_profile("software", profile, "framework")
    parent = data.pop("extends", None)
    if parent is None:
        return data
    inherited = _resolve(parent, (*seen, profile))
    inherited.pop("aliases", None)
    inherited.pop("releases", None)
    return _merge(inherited, data)


def software_names() -> list[str]:
    """All bundled frameworks."""
    return profile_names("software")
