"""What the commands share: options, parsing of their texts, errors in one line, files."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, ParamSpec, TypeVar

import typer

from ..core.errors import InputError, LlmsimError
from ..core.units import parse_count

if TYPE_CHECKING:
    from ..hardware.fitted import Fit

P = ParamSpec("P")
R = TypeVar("R")

Model = Annotated[str, typer.Option("--model", "-m", help="Bundled name, hub id, or path of a config.json.")]
ClusterText = Annotated[
    str, typer.Option("--cluster", "-c", help="NODESxDEVICESxDEVICE, such as 64x8xh100-sxm-80gb, or a YAML file.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Network = Annotated[
    str | None, typer.Option(help="Fabric profile, or a YAML file of your own; by default the usual one of the device.")
]
Precision = Annotated[
    str | None, typer.Option(help="bf16, fp16, fp8-current, fp8-block, mxfp8, nvfp4 ...; of several the best.")
]
SequenceText = Annotated[str, typer.Option("--sequence", "-s", help="Tokens of a sequence: 8192 or 8k.")]
Tokens = typer.Option("--tokens", help="Training tokens, 15T is 15e12.")
Epochs = Annotated[float, typer.Option(help="How often the job goes through those tokens.")]
Headroom = Annotated[
    float | None,
    typer.Option(help="Share of the device's memory that stays free, instead of a chance of running out."),
]
Framework = Annotated[str | None, typer.Option(help="Software profile, such as megatron-core or torchtitan.")]
Release = Annotated[str, typer.Option(help="Release of the framework.")]
CalibrateWith = Annotated[
    Path | None,
    typer.Option(help="What `llmsim calibrate` wrote, a CSV of own measured runs, or a YAML file of one of them."),
]
IgnoreKeys = Annotated[
    list[str] | None, typer.Option("--ignore-key", help="Key of config.json to load without understanding it.")
]


def fail(message: str) -> NoReturn:
    print(f"llmsim: {message}", file=sys.stderr)
    raise typer.Exit(2)


def reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Errors that a user can cause are printed in one line and end with status 2."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except LlmsimError as error:
            fail(str(error))

    return run


def print_json(data: dict[str, Any]) -> None:
    json.dump(data, sys.stdout, indent=1, allow_nan=False)
    print()


def own_constants(path: Path | None) -> Fit | None:
    """The constants that own measurements lead to; None for those that ship."""
    if path is None:
        return None
    from ..calibration.own_files import calibrate_with

    return calibrate_with(path)


def check_writable(path: Path, field: str = "out") -> None:
    """Before the work rather than after it."""
    if os.path.isdir(path) or not os.path.isdir(path.parent):
        why = "is a directory" if os.path.isdir(path) else "is in no directory that exists"
        raise InputError(field, str(path), "a file that can be written", why=why)


def write_yaml(path: Path, data: dict[str, Any]) -> None:
    import yaml

    from ..core.files import write_whole

    write_whole(path, yaml.safe_dump(data, sort_keys=False))


def numbers(text: str | None, field: str) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(field, text, "whole numbers joined by commas, such as 1,2,4", "1,2,4") from None


def names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(";" if ";" in text else ","))


def batch_size(text: str, field: str) -> int:
    value = parse_count(text, field, "256")
    if value != int(value):
        raise InputError(field, text, "a whole number of sequences", max(1, round(value)))
    return int(value)


def plan_fields(file: Path | None, pairs: list[str]) -> dict[str, Any]:
    """The fields of a plan from a file and from ``FIELD=VALUE`` texts, which come after it."""
    from ..plans.training import read_plan

    return {**({} if file is None else read_plan(file)), **_settings(pairs)}


def _settings(pairs: list[str]) -> dict[str, Any]:
    import yaml

    found: dict[str, Any] = {}
    for pair in pairs:
        name, mark, value = pair.partition("=")
        if not mark or not name.strip():
            raise InputError("set", pair, "FIELD=VALUE, such as tensor_parallel=8", "tensor_parallel=8")
        try:
            found[name.strip()] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise InputError("set", pair, "FIELD=VALUE with a plain value") from None
    return found
