"""Commands that search the best plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.pipelines import SCHEDULES
from ..core.units import parse_count, parse_length
from .options import (
    CalibrateWith,
    ClusterText,
    Epochs,
    Framework,
    Headroom,
    IgnoreKeys,
    Json,
    Model,
    Network,
    Precision,
    Release,
    SequenceText,
    Tokens,
    batch_size,
    check_writable,
    names,
    numbers,
    own_constants,
    print_json,
    reports_errors,
    write_yaml,
)

app = typer.Typer(no_args_is_help=True, help="Search the best plan.")

SEARCHED = "What the search may choose"
"""Panel of the options that restrict the search."""
Filter = Annotated[str | None, typer.Option(help="Allowed values, joined by commas.", rich_help_panel=SEARCHED)]


@app.command("train")
@reports_errors
def plan_train(
    model: Model,
    cluster: ClusterText,
    sequence: SequenceText,
    global_batch: Annotated[str, typer.Option("--global-batch", "-b", help="Sequences of a step.")],
    tokens: Annotated[str | None, Tokens] = None,
    epochs: Epochs = 1.0,
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
    expert_tensor_parallel: Filter = None,
    overlap: Annotated[
        str | None,
        typer.Option(
            help="Allowed of profile, none, tensor, expert; by default what the framework has.",
            rich_help_panel=SEARCHED,
        ),
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
    rank_order: Annotated[
        str | None, typer.Option(help="Allowed of tp-cp-dp-pp (the usual), tp-cp-pp-dp.", rich_help_panel=SEARCHED)
    ] = None,
    calibrate_with: CalibrateWith = None,
    headroom: Headroom = None,
    oom_risk: Annotated[
        float | None, typer.Option(help="Chance of running out of memory that a plan may have; by default 0.05.")
    ] = None,
    percentile: Annotated[
        float | None, typer.Option(help="Choose by the step time at this percentile (90); by default at the median.")
    ] = None,
    simpler_within: Annotated[
        float | None,
        typer.Option(help="Share of a step that a simpler plan may cost; by default 0.02, 0 takes the fastest."),
    ] = None,
    cores: Annotated[
        int | None, typer.Option(help="Processes for a large space; by default all that there are.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the best plan to this YAML file.")] = None,
    placement: Annotated[Path | None, typer.Option(help="Write where each rank of it runs to this CSV file.")] = None,
) -> None:
    """The best way to train a model on a cluster."""
    from ..architecture import Architecture
    from ..hardware.cluster import Cluster
    from ..hardware.profiles import build
    from ..plans.placement import write_placement
    from ..search.plan import plan_training
    from ..search.space import SearchSpace

    for field, path in (("out", out), ("placement", placement)):
        if path is not None:
            check_writable(path, field)
    recipes = names(precision)
    choices = {
        "tensor_parallel": numbers(tensor_parallel, "tensor_parallel"),
        "pipeline_parallel": numbers(pipeline_parallel, "pipeline_parallel"),
        "virtual_pipeline": numbers(virtual_pipeline, "virtual_pipeline"),
        "context_parallel": numbers(context_parallel, "context_parallel"),
        "expert_parallel": numbers(expert_parallel, "expert_parallel"),
        "expert_tensor_parallel": numbers(expert_tensor_parallel, "expert_tensor_parallel"),
        "overlap": names(overlap),
        "micro_batch_size": numbers(micro_batch_size, "micro_batch_size"),
        "recompute": None if recompute is None else tuple(part.strip() for part in recompute.split(";")),
        "sharding": names(sharding),
        "context_kind": names(context_kind),
        "rank_order": names(rank_order),
        "precision": recipes if recipes and len(recipes) > 1 else None,
        "schedule": names(schedule),
        "offload_activations": names(offload_activations),
        "offload_optimizer": names(offload_optimizer),
        "layers_per_stage": names(layers_per_stage),
        "recompute_layers": names(recompute_layers),
    }
    answer = plan_training(
        Architecture.from_config(model, ignore=ignore_key or ()),
        cluster,
        sequence=parse_length(sequence, "sequence"),
        global_batch=batch_size(global_batch, "global_batch"),
        tokens=None if tokens is None else parse_count(tokens, "tokens"),
        epochs=epochs,
        precision=recipes[0] if recipes else None,
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
        headroom=headroom,
        oom_risk=oom_risk,
        percentile=percentile,
        simpler_within=simpler_within,
        fit=own_constants(calibrate_with),
        top=top,
        cores=cores,
        progress=not as_json,
    )
    best = answer.best[0].result.plan
    if out is not None:
        write_yaml(out, {"plan": best.model_dump(exclude_none=True)})
    if placement is not None:
        machine = Cluster.parse(cluster)
        write_placement(placement, best, machine.devices_per_node, machine.domain)
    if as_json:
        print_json(answer.to_dict())
        return
    from ..report.training import planning_report, show

    show(planning_report(answer))
