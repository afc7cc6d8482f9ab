"""Commands that simulate one given plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import InputError
from .options import ClusterText, Job, Json, Model, print_json, with_options
from .resolve_plan import Batch, PlanFile, Sequence, Setting, given_plan

app = typer.Typer(no_args_is_help=True, help="Simulate one given plan.")


@app.command("train")
@with_options
def simulate_train(
    job: Job,
    cluster: ClusterText,
    plan: PlanFile = None,
    setting: Setting = None,
    sequence: Sequence = None,
    global_batch: Batch = None,
) -> None:
    """One training step of a given plan: time, memory, FLOPs."""
    from ..report.training import result_report, show
    from ..training.simulate import simulate_training

    given = given_plan(job, plan, setting, sequence, global_batch)
    if given is None:
        raise InputError("plan", None, "--plan FILE, or --set FIELD=VALUE once for each field", why="is missing")
    result = simulate_training(given, job.architecture(), job.machine(cluster), fit=job.fit())
    if job.as_json:
        print_json(result.to_dict())
    else:
        show(result_report(result))


_ENGINE = "Engine and degrees"


@app.command("serve")
def simulate_serve(
    model: Model,
    cluster: ClusterText,
    input_tokens: Annotated[str, typer.Option("--input", help="Tokens of a prompt: 2000 or 2k.")],
    output_tokens: Annotated[str, typer.Option("--output", help="Tokens of an answer.")],
    concurrency: Annotated[float | None, typer.Option(help="Requests in flight over the whole cluster.")] = None,
    batch: Annotated[float | None, typer.Option(help="Requests of a replica that begin and end together.")] = None,
    rate: Annotated[float | None, typer.Option(help="Requests per second over the whole cluster.")] = None,
    cached: Annotated[str, typer.Option(help="Tokens of a prompt that a prefix cache has.")] = "0",
    image_tokens: Annotated[str, typer.Option(help="Tokens of images, on top of those of a prompt.")] = "0",
    plan: Annotated[Path | None, typer.Option(help="YAML file with the fields of a serving plan.")] = None,
    engine: Annotated[str | None, typer.Option(help="vllm, sglang, tensorrt-llm, llama-cpp.",
                                               rich_help_panel=_ENGINE)] = None,
    release: Annotated[str | None, typer.Option(help="Release of the engine.", rich_help_panel=_ENGINE)] = None,
    tp: Annotated[int | None, typer.Option(help="Tensor parallelism; by default the devices of a node that a replica "
                                                "can use.", rich_help_panel=_ENGINE)] = None,
    dp_attention: Annotated[int | None, typer.Option(help="Ranks with sequences of their own that share the experts.",
                                                     rich_help_panel=_ENGINE)] = None,
    ep: Annotated[int | None, typer.Option(help="Expert parallelism.", rich_help_panel=_ENGINE)] = None,
    pp: Annotated[int | None, typer.Option(help="Pipeline stages.", rich_help_panel=_ENGINE)] = None,
    weights: Annotated[str | None, typer.Option(help="bf16, fp8, nvfp4, mxfp4, int8, w4g128, awq, q4_k ...",
                                                rich_help_panel=_ENGINE)] = None,
    kv: Annotated[str | None, typer.Option(help="Format of the cache: bf16, fp8, int8.",
                                           rich_help_panel=_ENGINE)] = None,
    max_num_seqs: Annotated[int | None, typer.Option(help="Sequences that run at a time.",
                                                     rich_help_panel=_ENGINE)] = None,
    max_num_batched_tokens: Annotated[int | None, typer.Option(help="New tokens of a step.",
                                                               rich_help_panel=_ENGINE)] = None,
    max_model_len: Annotated[int | None, typer.Option(help="Tokens of a sequence at most.",
                                                      rich_help_panel=_ENGINE)] = None,
    utilisation: Annotated[float | None, typer.Option(help="Share of a device's memory for the engine.",
                                                      rich_help_panel=_ENGINE)] = None,
    cache_tokens: Annotated[int | None, typer.Option(help="Tokens of cache that the engine reports, where known.",
                                                     rich_help_panel=_ENGINE)] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """A server in its steady state: start-up memory, latencies, throughput."""
    from ..hardware.cluster import Cluster
    from ..plans.serving import ServingPlan
    from ..report.serving import serving_report
    from ..report.training import show
    from ..serving.simulate import simulate_serving

    machines = Cluster.parse(cluster)
    said = {
        "engine": engine, "release": release, "tensor_parallel": tp, "attention_data_parallel": dp_attention,
        "expert_parallel": ep, "pipeline_parallel": pp, "weights": weights, "kv_cache": kv,
        "max_num_seqs": max_num_seqs, "max_num_batched_tokens": max_num_batched_tokens, "max_model_len": max_model_len,
        "memory_utilisation": utilisation, "cache_tokens": cache_tokens,
    }  # fmt: skip
    fields = ServingPlan.parse(plan).model_dump(exclude_unset=True) if plan else {}
    fields |= {name: value for name, value in said.items() if value is not None}
    if "tensor_parallel" not in fields:
        others = fields.get("attention_data_parallel", 1) * fields.get("pipeline_parallel", 1)
        fields["tensor_parallel"] = max(1, machines.devices_per_node // others)
    result = simulate_serving(
        fields, model, machines, input=input_tokens, output=output_tokens, concurrency=concurrency, batch=batch,
        rate=rate, cached=cached, image_tokens=image_tokens,
    )  # fmt: skip
    if as_json:
        print_json(result.to_dict())
    else:
        show(serving_report(result))
