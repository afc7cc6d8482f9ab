"""What the commands share: options, parsing of their texts, files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

from ..core.errors import InputError

if TYPE_CHECKING:
    from ..architecture import Architecture
    from ..hardware.cluster import Cluster
    from ..hardware.fitted import Fit

R = TypeVar("R")


def _names_of_models(incomplete: str) -> list[str]:
    from ..models import bundled_models

    return [name for name in bundled_models() if name.startswith(incomplete.lower())]


Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="Bundled name, hub id, or path of a config.json.",
        autocompletion=_names_of_models,
    ),
]
ClusterText = Annotated[
    str, typer.Option("--cluster", "-c", help="NODESxDEVICESxDEVICE, such as 64x8xh100-sxm-80gb, or a YAML file.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines, errors too.")]
SequenceText = Annotated[str, typer.Option("--sequence", "-s", help="Tokens of a sequence: 8192 or 8k.")]
Tokens = typer.Option("--tokens", "-t", help="Training tokens, 15T is 15e12.")
Epochs = Annotated[float, typer.Option(help="How often the job goes through those tokens.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Write the best plan to this YAML file.")]

JOB = "What runs, and on what"
"""Panel of the options that all commands about a plan take."""


def _option(help: str, *names: str) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=JOB)


@dataclass(frozen=True)
class Job:
    """What a command about one job takes beside the cluster, the sequence and the batch."""

    model: Model
    precision: Annotated[
        str | None, _option("bf16, fp16, fp8-current, fp8-block, mxfp8, nvfp4 ...; a search takes the best of several.")
    ] = None
    framework: Annotated[str | None, _option("Software profile, such as megatron-core or torchtitan.")] = None
    release: Annotated[str | None, _option("Release of the framework.")] = None
    optimizer: Annotated[
        str | None, _option("adamw (by default), sgd-momentum, lion, adam-8bit, adafactor, muon, shampoo, soap.")
    ] = None
    adapter: Annotated[
        str | None, _option("Fine-tune adapters of a frozen model: lora:16, lora:64:attention, lora:8:q,v.")
    ] = None
    document_length: Annotated[
        str | None, _option("Tokens of the documents packed into a sequence; by default it is one.")
    ] = None
    capacity_factor: Annotated[
        float | None, _option("Rows that an expert takes at most, over the mean; the rest is dropped.")
    ] = None
    pad_to_capacity: Annotated[bool | None, _option("Fill experts up to their capacity.")] = None
    imbalance: Annotated[float | None, _option("Tokens of the busiest expert rank over the mean.")] = None
    network: Annotated[
        str | None, _option("Fabric profile, or a YAML file of your own; by default the usual one of the device.")
    ] = None
    headroom: Annotated[
        float | None,
        _option("Share of the device's memory that stays free, instead of a chance of running out."),
    ] = None
    calibrate_with: Annotated[
        Path | None,
        _option("What `llmsim calibrate` wrote, a CSV of own measured runs, or a YAML file of one of them."),
    ] = None
    ignore_key: Annotated[
        list[str] | None, _option("Key of config.json to load without understanding it.", "--ignore-key")
    ] = None
    as_json: Json = False

    def architecture(self) -> Architecture:
        """The model."""
        from ..architecture import Architecture

        return Architecture.from_config(self.model, ignore=self.ignore_key or ())

    def fit(self) -> Fit | None:
        """The constants that own measurements lead to; None for those that ship."""
        if self.calibrate_with is None:
            return None
        from ..calibration.own_files import calibrate_with

        return calibrate_with(self.calibrate_with)

    def machine(self, cluster: str) -> Cluster:
        """The cluster with what options say of it."""
        from ..hardware.cluster import Cluster

        found = Cluster.parse(cluster, network=self.network)
        return found if self.headroom is None else found.replace(memory_headroom=self.headroom)

    def said(self) -> dict[str, Any]:
        """Fields of a plan that options name."""
        values = {name: getattr(self, name) for name in OF_THE_PLAN}
        return {name: value for name, value in values.items() if value is not None}


OF_THE_PLAN = (
    "precision", "framework", "release", "optimizer", "adapter", "document_length", "capacity_factor",
    "pad_to_capacity", "imbalance",
)  # fmt: skip
"""Options that have the name of a plan's field."""


def with_options(command: Callable[..., R]) -> Callable[..., R]:
    """A command whose parameters that are annotated with a dataclass become its fields: an option each."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if is_dataclass(kind) and isinstance(kind, type)}
    listed: list[Parameter] = []
    for parameter in signature(command).parameters.values():
        if parameter.name not in groups:
            listed.append(parameter.replace(annotation=hints[parameter.name], kind=Parameter.KEYWORD_ONLY))
            continue
        group = groups[parameter.name]
        own = get_type_hints(group, include_extras=True)
        for field in fields(group):
            default = Parameter.empty if field.default is MISSING else field.default
            listed.append(Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=own[field.name]))

    listed.sort(key=lambda parameter: parameter.default is not Parameter.empty)  # what must be said comes first

    @wraps(command)
    def run(**values: Any) -> R:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        return command(**values)

    run.__signature__ = Signature(listed)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in listed}
    return run


def print_json(data: dict[str, Any]) -> None:
    """Strict JSON: what is not finite is null."""
    print(json.dumps(_finite(data), indent=1, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, (list, tuple)) else value


def write_yaml(path: Path, data: dict[str, Any]) -> None:
    import yaml

    from ..core.files import write_whole

    write_whole(path, yaml.safe_dump(data, sort_keys=False))


def settings(pairs: list[str]) -> dict[str, Any]:
    """``FIELD=VALUE`` texts as a mapping."""
    import yaml

    from ..hardware.profiles import is_endless

    found: dict[str, Any] = {}
    for pair in pairs:
        name, mark, value = (part.strip() for part in pair.partition("="))
        if not mark or not name:
            allowed = "FIELD=VALUE, such as tensor_parallel=8; `llmsim settings` lists the fields"
            raise InputError("set", pair, allowed, "tensor_parallel=8")
        if name in found:
            raise InputError("set", pair, "each field once", why=f"sets {name} again, to {found[name]!r} before")
        try:
            found[name] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise InputError("set", pair, "FIELD=VALUE with a plain value") from None
        if is_endless(found[name]):
            raise InputError("set", pair, "FIELD=VALUE with a plain value", why="holds itself")
    return found
