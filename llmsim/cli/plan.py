"""Commands that search the best plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import InputError
from ..core.pipelines import SCHEDULES
from .options import ClusterText, Epochs, Job, Out, SequenceText, Tokens, print_json, with_options, write_yaml
from .plan_model import plan_model

app = typer.Typer(no_args_is_help=True, help="Search the best plan.")

SEARCHED = "What the search may choose"
"""Panel of the options that restrict the search."""
Filter = Annotated[str | None, typer.Option(help="Allowed values, joined by commas.", rich_help_panel=SEARCHED)]


@app.command("train")
@with_options
def plan_train(
    job: Job,
    cluster: ClusterText,
    sequence: SequenceText,
    global_batch: Annotated[str, typer.Option("--global-batch", "-b", help="Sequences of a step.")],
    tokens: Annotated[str | None, Tokens] = None,
    epochs: Epochs = 1.0,
    price: Annotated[float | None, typer.Option(help="USD per device-hour; by default the profile's.")] = None,
    top: Annotated[int, typer.Option(help="Plans that differ in kind to show.")] = 5,
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
    rank_order: Annotated[
        str | None, typer.Option(help="Allowed of tp-cp-dp-pp (the usual), tp-cp-pp-dp.", rich_help_panel=SEARCHED)
    ] = None,
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
    out: Out = None,
    placement: Annotated[Path | None, typer.Option(help="Write where each rank of it runs to this CSV file.")] = None,
) -> None:
    """The best way to train a model on a cluster."""
    from ..core.files import check_writable
    from ..hardware.cluster import Cluster
    from ..hardware.profiles import build
    from ..plans.placement import write_placement
    from ..report.training import planning_report, show
    from ..search.plan import plan_training
    from ..search.space import SearchSpace

    for field, path in (("out", out), ("placement", placement)):
        if path is not None:
            check_writable(path, field)
    if out is not None and placement is not None and out.resolve() == placement.resolve():
        raise InputError("placement", str(placement), "another file than --out")
    choices = {
        "tensor_parallel": tensor_parallel,
        "pipeline_parallel": pipeline_parallel,
        "virtual_pipeline": virtual_pipeline,
        "context_parallel": context_parallel,
        "expert_parallel": expert_parallel,
        "expert_tensor_parallel": expert_tensor_parallel,
        "overlap": overlap,
        "micro_batch_size": micro_batch_size,
        "recompute": recompute,
        "sharding": sharding,
        "context_kind": context_kind,
        "rank_order": rank_order,
        "schedule": schedule,
        "offload_activations": offload_activations,
        "offload_optimizer": offload_optimizer,
        "layers_per_stage": layers_per_stage,
        "recompute_layers": recompute_layers,
    }
    answer = plan_training(
        job.architecture(),
        cluster,
        sequence=sequence,
        global_batch=global_batch,
        tokens=tokens,
        epochs=epochs,
        network=job.network,
        price=price,
        space=build(SearchSpace, {k: v for k, v in choices.items() if v is not None}, ""),
        headroom=job.headroom,
        oom_risk=oom_risk,
        percentile=percentile,
        simpler_within=simpler_within,
        fit=job.fit(),
        top=top,
        cores=cores,
        progress=not job.as_json,
        **job.said(),
    )
    best = answer.best[0].result.plan
    if out is not None:
        write_yaml(out, {"plan": best.model_dump(exclude_none=True)})
    if placement is not None:
        machine = Cluster.parse(cluster)
        write_placement(placement, best, machine.devices_per_node, machine.domain)
    if job.as_json:
        print_json(answer.to_dict())
    else:
        show(planning_report(answer))


app.command("model")(plan_model)
