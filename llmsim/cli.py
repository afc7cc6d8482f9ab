"""The command line: the verbs of the package, with the same names and the same numbers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NoReturn, ParamSpec, TypeVar

import typer

from ._version import __version__
from .core.errors import InputError, LlmsimError
from .core.pipelines import SCHEDULES
from .core.units import parse_count, parse_length

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Plan, simulate and validate the training of Transformers on a cluster.",
)
plan_app = typer.Typer(no_args_is_help=True, help="Search the best plan.")
simulate_app = typer.Typer(no_args_is_help=True, help="Simulate one given plan.")
app.add_typer(plan_app, name="plan")
app.add_typer(simulate_app, name="simulate")

P = ParamSpec("P")
R = TypeVar("R")

Model = Annotated[str, typer.Option("--model", "-m", help="Bundled name, hub id, or path of a config.json.")]
ClusterText = Annotated[
    str, typer.Option("--cluster", "-c", help="NODESxDEVICESxDEVICE, such as 64x8xh100-sxm-80gb, or a YAML file.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Network = Annotated[str | None, typer.Option(help="Fabric profile; by default the usual one of the device.")]
Precision = Annotated[str | None, typer.Option(help="bf16, fp16, fp8-current, fp8-block, mxfp8, nvfp4 ...")]
Framework = Annotated[str | None, typer.Option(help="Software profile, such as megatron-core or torchtitan.")]
Release = Annotated[str, typer.Option(help="Release of the framework.")]
IgnoreKeys = Annotated[
    list[str] | None, typer.Option("--ignore-key", help="Key of config.json to load without understanding it.")
]


def _fail(message: str) -> NoReturn:
    print(f"llmsim: {message}", file=sys.stderr)
    raise typer.Exit(2)


def _reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Errors that a user can cause are printed in one line and end with status 2."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except LlmsimError as error:
            _fail(str(error))

    return run


def _print_json(data: dict[str, Any]) -> None:
    json.dump(data, sys.stdout, indent=1, allow_nan=False)
    print()


def _check_writable(path: Path) -> None:
    """Before the work rather than after it."""
    if os.path.isdir(path) or not os.path.isdir(path.parent):
        why = "is a directory" if os.path.isdir(path) else "is in no directory that exists"
        raise InputError("out", str(path), "a file that can be written", why=why)


def _write_yaml(path: Path, data: dict[str, Any]) -> None:
    import yaml

    from .core.files import write_whole

    write_whole(path, yaml.safe_dump(data, sort_keys=False))


def _numbers(text: str | None, field: str) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(field, text, "whole numbers joined by commas, such as 1,2,4", "1,2,4") from None


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(";" if ";" in text else ","))


def _batch(text: str, field: str) -> int:
    value = parse_count(text, field, "256")
    if value != int(value):
        raise InputError(field, text, "a whole number of sequences", max(1, round(value)))
    return int(value)


SEARCHED = "What the search may choose"
"""Panel of the options that restrict the search."""
Filter = Annotated[str | None, typer.Option(help="Allowed values, joined by commas.", rich_help_panel=SEARCHED)]


@plan_app.command("train")
@_reports_errors
def plan_train(
    model: Model,
    cluster: ClusterText,
    sequence: Annotated[str, typer.Option("--sequence", "-s", help="Tokens of a sequence: 8192 or 8k.")],
    global_batch: Annotated[str, typer.Option("--global-batch", "-b", help="Sequences of a step.")],
    tokens: Annotated[str | None, typer.Option("--tokens", help="Training tokens, 15T is 15e12.")] = None,
    epochs: Annotated[float, typer.Option(help="How often the job goes through those tokens.")] = 1.0,
    top: Annotated[int, typer.Option(help="Plans that differ in kind to show.")] = 5,
    as_json: Json = False,
    network: Network = None,
    precision: Precision = None,
    framework: Framework = None,
    release: Release = "",
    optimizer: Annotated[
        str | None,
        typer.Option(help="adamw (by default), sgd-momentum, lion, adam-8bit, adafactor, muon, shampoo, soap."),
    ] = None,
    adapter: Annotated[
        str, typer.Option(help="Fine-tune adapters of a frozen model: lora:16, lora:64:attention, lora:8:q,v.")
    ] = "none",
    capacity_factor: Annotated[
        float | None, typer.Option(help="Rows that an expert takes at most, over the mean; the rest is dropped.")
    ] = None,
    pad_to_capacity: Annotated[bool, typer.Option(help="Fill experts up to their capacity.")] = False,
    document_length: Annotated[
        str | None, typer.Option(help="Tokens of the documents packed into a sequence; by default it is one.")
    ] = None,
    price: Annotated[float | None, typer.Option(help="USD per device-hour; by default the profile's.")] = None,
    imbalance: Annotated[float | None, typer.Option(help="Tokens of the busiest expert rank over the mean.")] = None,
    tensor_parallel: Filter = None,
    pipeline_parallel: Filter = None,
    virtual_pipeline: Filter = None,
    context_parallel: Filter = None,
    expert_parallel: Filter = None,
    micro_batch_size: Filter = None,
    recompute: Annotated[
        str | None, typer.Option(help="Allowed settings, joined by semicolons.", rich_help_panel=SEARCHED)
    ] = None,
    sharding: Annotated[
        str | None, typer.Option(help="Allowed of ddp, zero1, zero2, zero3, hsdp.", rich_help_panel=SEARCHED)
    ] = None,
    context_kind: Annotated[
        str | None, typer.Option(help="Allowed of ring, all_gather, ulysses.", rich_help_panel=SEARCHED)
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            help=f"Allowed of {', '.join(SCHEDULES)}; by default 1f1b and interleaved.", rich_help_panel=SEARCHED
        ),
    ] = None,
    offload_activations: Annotated[
        str | None, typer.Option(help="Allowed shares on the host, such as 0,0.5,1.", rich_help_panel=SEARCHED)
    ] = None,
    offload_optimizer: Annotated[
        str | None, typer.Option(help="Allowed shares on the host, such as 0,1.", rich_help_panel=SEARCHED)
    ] = None,
    layers_per_stage: Annotated[
        str | None, typer.Option(help="Allowed of even, balanced; by default even.", rich_help_panel=SEARCHED)
    ] = None,
    recompute_layers: Annotated[
        str | None, typer.Option(help="Allowed of uniform, fitted; by default uniform.", rich_help_panel=SEARCHED)
    ] = None,
    ignore_key: IgnoreKeys = None,
    out: Annotated[Path | None, typer.Option(help="Write the best plan to this YAML file.")] = None,
) -> None:
    """The best way to train a model on a cluster."""
    from .architecture import Architecture
    from .hardware.profiles import build
    from .search.plan import plan_training
    from .search.space import SearchSpace

    if out is not None:
        _check_writable(out)
    choices = {
        "tensor_parallel": _numbers(tensor_parallel, "tensor_parallel"),
        "pipeline_parallel": _numbers(pipeline_parallel, "pipeline_parallel"),
        "virtual_pipeline": _numbers(virtual_pipeline, "virtual_pipeline"),
        "context_parallel": _numbers(context_parallel, "context_parallel"),
        "expert_parallel": _numbers(expert_parallel, "expert_parallel"),
        "micro_batch_size": _numbers(micro_batch_size, "micro_batch_size"),
        "recompute": None if recompute is None else tuple(part.strip() for part in recompute.split(";")),
        "sharding": _names(sharding),
        "context_kind": _names(context_kind),
        "schedule": _names(schedule),
        "offload_activations": _names(offload_activations),
        "offload_optimizer": _names(offload_optimizer),
        "layers_per_stage": _names(layers_per_stage),
        "recompute_layers": _names(recompute_layers),
    }
    answer = plan_training(
        Architecture.from_config(model, ignore=ignore_key or ()),
        cluster,
        sequence=parse_length(sequence, "sequence"),
        global_batch=_batch(global_batch, "global_batch"),
        tokens=None if tokens is None else parse_count(tokens, "tokens"),
        epochs=epochs,
        precision=precision,
        framework=framework,
        release=release,
        network=network,
        optimizer=optimizer,
        adapter=adapter,
        capacity_factor=capacity_factor,
        pad_to_capacity=pad_to_capacity,
        document_length=None if document_length is None else parse_length(document_length, "document_length"),
        price=price,
        imbalance=imbalance,
        space=build(SearchSpace, {k: v for k, v in choices.items() if v is not None}, ""),
        top=top,
    )
    if out is not None:
        _write_yaml(out, {"plan": answer.best[0].result.plan.model_dump(exclude_none=True)})
    if as_json:
        _print_json(answer.to_dict())
        return
    from .report.training import planning_report, show

    show(planning_report(answer))


@simulate_app.command("train")
@_reports_errors
def simulate_train(
    model: Model,
    cluster: ClusterText,
    plan: Annotated[Path | None, typer.Option(help="YAML or JSON file of a plan.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="FIELD=VALUE of the plan, such as tensor_parallel=8.")
    ] = None,
    network: Network = None,
    as_json: Json = False,
    ignore_key: IgnoreKeys = None,
) -> None:
    """One training step of a given plan: time, memory, FLOPs."""
    from .architecture import Architecture
    from .hardware.cluster import Cluster
    from .hardware.profiles import build
    from .plans.training import TrainingPlan, read_plan
    from .training.simulate import simulate_training

    data = {**({} if plan is None else read_plan(plan)), **_settings(setting or [])}
    if not data:
        raise InputError("plan", None, "--plan FILE, or --set FIELD=VALUE once for each field", why="is missing")
    result = simulate_training(
        build(TrainingPlan, data, "plan"),
        Architecture.from_config(model, ignore=ignore_key or ()),
        Cluster.parse(cluster, network=network),
    )
    if as_json:
        _print_json(result.to_dict())
        return
    from .report.training import result_report, show

    show(result_report(result))


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


@app.command()
@_reports_errors
def models(
    name: Annotated[str | None, typer.Argument(help="Bundled name, hub id or path; all names by default.")] = None,
    as_json: Json = False,
) -> None:
    """The bundled models, or one model in detail."""
    from .report.catalogue import model_list, model_report

    _catalogue(name, as_json, model_list, model_report)


@app.command()
@_reports_errors
def hardware(
    name: Annotated[
        str | None, typer.Argument(help="Device, fabric or software profile; all names by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """The bundled device, network and software profiles, or one of them in detail."""
    from .report.catalogue import hardware_list, hardware_report

    _catalogue(name, as_json, hardware_list, hardware_report)


def _catalogue(name: str | None, as_json: bool, listing: Callable[[], Any], detail: Callable[[str], Any]) -> None:
    from .report.training import show

    answer = listing() if name is None else detail(name)
    if as_json:
        _print_json(answer.data)
    else:
        show(answer.text)


@app.command()
@_reports_errors
def compare(
    models: Annotated[str, typer.Option("--models", "-m", help="Names or config.json paths, joined by commas.")],
    sequence: Annotated[str, typer.Option("--sequence", "-s", help="Lengths: 4k:1M doubles, 4k,32k,1M are those.")],
    device: Annotated[str | None, typer.Option(help="Device profile; by default h100-sxm-80gb.")] = None,
    devices: Annotated[int | None, typer.Option(help="How many; by default as many as the weights need.")] = None,
    batch: Annotated[int, typer.Option(help="Sequences of a decoding step.")] = 1,
    as_json: Json = False,
    figure: Annotated[Path | None, typer.Option(help="Write curves to this .html file.")] = None,
) -> None:
    """What long contexts cost: training, decoding and caches of models over sequence lengths."""
    from .report.compare import comparison_report, write_figure
    from .report.training import show
    from .serving.compare import compare as compare_models

    names = [name.strip() for name in models.split(",") if name.strip()]
    found = compare_models(names, _lengths(sequence), device=device, devices=devices, batch=batch)
    if figure is not None:
        write_figure(found, figure)
    if as_json:
        _print_json(found.to_dict())
    else:
        show(comparison_report(found))


def _lengths(text: str) -> list[int]:
    """``4k:1M`` doubles from the first to the last; commas list lengths."""
    first, mark, last = text.partition(":")
    if not mark:
        return [parse_length(part, "sequence") for part in text.split(",")]
    low, high = parse_length(first, "sequence"), parse_length(last, "sequence")
    if low > high:
        raise InputError("sequence", text, "FIRST:LAST with the smaller first", f"{last}:{first}")
    found = [low]
    while found[-1] * 2 <= high:
        found.append(found[-1] * 2)
    return found


class Split(StrEnum):
    """What is left out when constants are refitted for a validation."""

    group = "group"
    model = "model"
    framework = "framework"
    hardware = "hardware"
    framework_model = "framework-model"


@app.command()
@_reports_errors
def validate(
    file: Annotated[Path, typer.Argument(help="Measured runs, a CSV with the columns of the run table.")],
    as_json: Json = False,
    refit_without: Annotated[
        Split | None, typer.Option(help="Refit the constants without the scored group, model, framework or hardware.")
    ] = None,
) -> None:
    """Predictions against measured runs."""
    from .report.training import show
    from .report.validation import validation_report
    from .scoring.validate import validate as score

    report = score(file, refit_without=refit_without.value if refit_without else None, progress=not as_json)
    if as_json:
        _print_json(report.to_dict())
    else:
        show(validation_report(report))


def _version(value: bool) -> None:
    if value:
        print(f"llmsim {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the ``llmsim`` command."""
    try:
        app()
    except BrokenPipeError:
        sys.stderr.close()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
