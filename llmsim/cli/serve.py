"""The command that simulates an inference server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import InputError
from .options import ClusterText, Json, Model, print_json

if TYPE_CHECKING:
    from ..hardware.cluster import Cluster
    from ..serving.replay import Objective
    from ..serving.workload import Workload

_ENGINE = "Engine and degrees"
_EACH = "Request by request"


def simulate_serve(
    model: Model,
    cluster: ClusterText,
    input_tokens: Annotated[str | None, typer.Option(
        "--input", help="Tokens of a prompt: 2000, 2k; request by request also uniform:LOW:HIGH, lognormal:MEAN:CV, "
                        "zipf:EXPONENT:LARGEST.")] = None,
    output_tokens: Annotated[str | None, typer.Option("--output", help="Tokens of an answer, alike.")] = None,
    concurrency: Annotated[float | None, typer.Option(help="Requests in flight over the whole cluster.")] = None,
    batch: Annotated[float | None, typer.Option(help="Requests of a replica that begin and end together.")] = None,
    rate: Annotated[float | None, typer.Option(help="Requests per second over the whole cluster.")] = None,
    cached: Annotated[str, typer.Option(help="Tokens of a prompt that a prefix cache has.")] = "0",
    requests: Annotated[int | None, typer.Option(help="How many requests: simulated one by one, with percentiles.",
                                                 rich_help_panel=_EACH)] = None,
    arrivals: Annotated[str, typer.Option(help="How they follow each other: poisson, constant, gamma:CV.",
                                          rich_help_panel=_EACH)] = "poisson",
    prefix: Annotated[str | None, typer.Option(help="TOKENS:GROUPS, tokens that the prompts of a group begin with.",
                                               rich_help_panel=_EACH)] = None,
    trace: Annotated[Path | None, typer.Option(help="CSV or JSON lines with sent_s, input_tokens, output_tokens.",
                                               rich_help_panel=_EACH)] = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn.", rich_help_panel=_EACH)] = 0,
    slo_ttft: Annotated[float | None, typer.Option(help="Objective: seconds to the first token.",
                                                   rich_help_panel=_EACH)] = None,
    slo_tpot: Annotated[float | None, typer.Option(help="Objective: seconds per token after it.",
                                                   rich_help_panel=_EACH)] = None,
    slo_e2e: Annotated[float | None, typer.Option(help="Objective: seconds of a whole request.",
                                                  rich_help_panel=_EACH)] = None,
    max_rate: Annotated[bool, typer.Option("--max-rate", help="The highest rate that keeps the objective.",
                                           rich_help_panel=_EACH)] = False,
    attainment: Annotated[float, typer.Option(help="Share of the requests that must keep it.",
                                              rich_help_panel=_EACH)] = 0.99,
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
    """An inference server: start-up memory, latencies, throughput; in its steady state, or request by request."""
    from ..hardware.cluster import Cluster

    machines = Cluster.parse(cluster)
    said = {
        "engine": engine, "release": release, "tensor_parallel": tp, "attention_data_parallel": dp_attention,
        "expert_parallel": ep, "pipeline_parallel": pp, "weights": weights, "kv_cache": kv,
        "max_num_seqs": max_num_seqs, "max_num_batched_tokens": max_num_batched_tokens, "max_model_len": max_model_len,
        "memory_utilisation": utilisation, "cache_tokens": cache_tokens,
    }  # fmt: skip
    fields = _plan_fields(plan, said, machines)
    if requests is None and trace is None and not max_rate:
        _show_steady(
            fields, model, machines, as_json, input=_needed(input_tokens, "input"),
            output=_needed(output_tokens, "output"), concurrency=concurrency, batch=batch, rate=rate, cached=cached,
        )  # fmt: skip
        return
    if batch is not None:
        raise InputError("batch", batch, "a rate or a concurrency where requests are simulated one by one")
    from ..serving.replay import Objective

    objective = Objective(slo_ttft, slo_tpot, slo_e2e)
    limit = None if concurrency is None else int(concurrency)
    if trace is not None:
        from ..serving.workload import read_trace

        _show_replay(fields, model, machines, read_trace(trace, concurrency=limit), objective, as_json)
        return

    def workload(at: float | None) -> Workload:
        from ..core.units import parse_length
        from ..serving.workload import generated

        known = 0 if cached in (0, "0") else parse_length(cached, "cached")
        return generated(
            requests or 1000, _length(input_tokens, "input"), _length(output_tokens, "output"), rate=at,
            arrivals=arrivals, concurrency=limit, cached=known, prefix=_prefix(prefix), seed=seed,
        )  # fmt: skip

    if max_rate:
        _show_capacity(fields, model, machines, workload, objective, attainment, as_json)
    else:
        _show_replay(fields, model, machines, workload(rate), objective, as_json)


def _plan_fields(plan: Path | None, said: dict[str, Any], machines: Cluster) -> dict[str, Any]:
    """Fields of the plan: those of a file, what the command line says, and ranks of a node where neither says it."""
    from ..plans.serving import ServingPlan

    fields = ServingPlan.parse(plan).model_dump(exclude_unset=True) if plan else {}
    fields |= {name: value for name, value in said.items() if value is not None}
    if "tensor_parallel" not in fields:
        others = fields.get("attention_data_parallel", 1) * fields.get("pipeline_parallel", 1)
        fields["tensor_parallel"] = max(1, machines.devices_per_node // others)
    return fields


def _needed(value: str | None, field: str) -> str:
    if value is None:
        raise InputError(field, None, "tokens, e.g. 2000", "2000", why="is missing")
    return value


def _length(value: str | None, field: str) -> str:
    """A length or a distribution; ``2k`` is 2,048."""
    from ..core.units import parse_length

    text = _needed(value, field)
    return text if ":" in text else str(parse_length(text, field))


def _prefix(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    tokens, _, groups = text.partition(":")
    try:
        return int(tokens), int(groups or 1)
    except ValueError:
        raise InputError("prefix", text, "TOKENS:GROUPS, e.g. 1000:4", "1000:1") from None


def _show_steady(fields: dict[str, Any], model: str, machines: Cluster, as_json: bool, **load: Any) -> None:
    from ..report.serving import serving_report
    from ..report.training import show
    from ..serving.simulate import simulate_serving

    result = simulate_serving(fields, model, machines, **load)
    if as_json:
        print_json(result.to_dict())
    else:
        show(serving_report(result))


def _show_replay(
    fields: dict[str, Any], model: str, machines: Cluster, workload: Workload, objective: Objective, as_json: bool
) -> None:
    from ..report.replay import replay_report
    from ..report.training import show
    from ..serving.replay import Objective, simulate_workload

    wanted = None if objective == Objective() else objective
    result = simulate_workload(fields, model, machines, workload, objective=wanted)
    if as_json:
        print_json(result.to_dict())
    else:
        show(replay_report(result))


def _show_capacity(
    fields: dict[str, Any],
    model: str,
    machines: Cluster,
    workload: Callable[[float], Workload],
    objective: Objective,
    share: float,
    as_json: bool,
) -> None:
    from ..core.progress import Bar
    from ..report.replay import capacity_report
    from ..report.training import show
    from ..serving.capacity import highest_rate
    from ..serving.replay import simulate_workload

    with Bar(not as_json) as bar:
        done = bar.stage("simulating rates")
        found = highest_rate(
            lambda own: simulate_workload(fields, model, machines, own, objective=objective),
            workload, objective, share,
        )  # fmt: skip
        done()
    if as_json:
        print_json(found.to_dict())
    else:
        show(capacity_report(found))
