"""The commands about an inference server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import InputError
from .options import ClusterText, Json, Model, print_json, with_options

if TYPE_CHECKING:
    from ..hardware.cluster import Cluster
    from ..serving.replay import Objective
    from ..serving.workload import Workload


def _option(help: str, *names: str, panel: str | None = None) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel)


def _engine(help: str) -> Any:
    return _option(help, panel="Engine and degrees")


def _each(help: str, *names: str) -> Any:
    return _option(help, *names, panel="Request by request")


@dataclass(frozen=True)
class Served:
    """What clients send, and how an engine serves it."""

    model: Model
    cluster: ClusterText
    input_tokens: Annotated[
        str | None,
        _option(
            "Tokens of a prompt: 2000, 2k; request by request also "
            "uniform:LOW:HIGH, lognormal:MEAN:CV, zipf:EXPONENT:LARGEST.",
            "--input",
        ),
    ] = None
    output_tokens: Annotated[str | None, _option("Tokens of an answer, alike.", "--output")] = None
    concurrency: Annotated[float | None, _option("Requests in flight over the whole cluster.")] = None
    batch: Annotated[float | None, _option("Requests of a replica that begin and end together.")] = None
    rate: Annotated[float | None, _option("Requests per second over the whole cluster.")] = None
    cached: Annotated[str, _option("Tokens of a prompt that a prefix cache has.")] = "0"
    image_tokens: Annotated[str, _option("Tokens of images, on top of those of a prompt.")] = "0"
    plan: Annotated[Path | None, _option("YAML file with the fields of a serving plan.")] = None
    engine: Annotated[str | None, _engine("vllm, sglang, tensorrt-llm, llama-cpp.")] = None
    release: Annotated[str | None, _engine("Release of the engine.")] = None
    tp: Annotated[
        int | None, _engine("Tensor parallelism; by default the devices of a node that a replica can use.")
    ] = None
    dp_attention: Annotated[int | None, _engine("Ranks with sequences of their own that share the experts.")] = None
    ep: Annotated[int | None, _engine("Expert parallelism.")] = None
    pp: Annotated[int | None, _engine("Pipeline stages.")] = None
    weights: Annotated[str | None, _engine("bf16, fp8, nvfp4, mxfp4, int8, w4g128, awq, q4_k ...")] = None
    kv: Annotated[str | None, _engine("Format of the cache: bf16, fp8, int8.")] = None
    max_num_seqs: Annotated[int | None, _engine("Sequences that run at a time.")] = None
    max_num_batched_tokens: Annotated[int | None, _engine("New tokens of a step.")] = None
    max_model_len: Annotated[int | None, _engine("Tokens of a sequence at most.")] = None
    utilisation: Annotated[float | None, _engine("Share of a device's memory for the engine.")] = None
    cache_tokens: Annotated[int | None, _engine("Tokens of cache that the engine reports, where known.")] = None
    as_json: Json = False

    def machines(self) -> Cluster:
        """The cluster."""
        from ..hardware.cluster import Cluster

        return Cluster.parse(self.cluster)

    def fields(self, machines: Cluster) -> dict[str, Any]:
        """Fields of the plan: those of a file, what options say, and ranks of a node where neither says it."""
        from ..plans.serving import ServingPlan

        said = {
            "engine": self.engine, "release": self.release, "tensor_parallel": self.tp,
            "attention_data_parallel": self.dp_attention, "expert_parallel": self.ep, "pipeline_parallel": self.pp,
            "weights": self.weights, "kv_cache": self.kv, "max_num_seqs": self.max_num_seqs,
            "max_num_batched_tokens": self.max_num_batched_tokens, "max_model_len": self.max_model_len,
            "memory_utilisation": self.utilisation, "cache_tokens": self.cache_tokens,
        }  # fmt: skip
        fields = ServingPlan.parse(self.plan).model_dump(exclude_unset=True) if self.plan else {}
        fields |= {name: value for name, value in said.items() if value is not None}
        if "tensor_parallel" not in fields:
            others = fields.get("attention_data_parallel", 1) * fields.get("pipeline_parallel", 1)
            fields["tensor_parallel"] = max(1, machines.devices_per_node // others)
        return fields

    def load(self) -> dict[str, Any]:
        """Lengths and load as the steady state takes them."""
        return {
            "input": _needed(self.input_tokens, "input"), "output": _needed(self.output_tokens, "output"),
            "concurrency": self.concurrency, "batch": self.batch, "rate": self.rate, "cached": self.cached,
            "image_tokens": self.image_tokens,
        }  # fmt: skip


@dataclass(frozen=True)
class Requested:
    """Requests that are simulated one by one."""

    requests: Annotated[int | None, _each("How many requests: simulated one by one, with percentiles.")] = None
    arrivals: Annotated[str, _each("How they follow each other: poisson, constant, gamma:CV.")] = "poisson"
    prefix: Annotated[str | None, _each("TOKENS:GROUPS, tokens that the prompts of a group begin with.")] = None
    trace: Annotated[Path | None, _each("CSV or JSON lines with sent_s, input_tokens, output_tokens.")] = None
    seed: Annotated[int, _each("Of what is drawn.")] = 0
    slo_ttft: Annotated[float | None, _each("Objective: seconds to the first token.")] = None
    slo_tpot: Annotated[float | None, _each("Objective: seconds per token after it.")] = None
    slo_e2e: Annotated[float | None, _each("Objective: seconds of a whole request.")] = None
    max_rate: Annotated[bool, _each("The highest rate that keeps the objective.", "--max-rate")] = False
    attainment: Annotated[float, _each("Share of the requests that must keep it.")] = 0.99

    @property
    def is_wanted(self) -> bool:
        """Whether requests are simulated one by one at all."""
        return self.requests is not None or self.trace is not None or self.max_rate

    def objective(self) -> Objective:
        """What requests must keep."""
        from ..serving.replay import Objective

        return Objective(self.slo_ttft, self.slo_tpot, self.slo_e2e)

    def workload(self, served: Served, rate: float | None) -> Workload:
        """The requests, at a rate."""
        from ..core.units import parse_length
        from ..serving.workload import generated, read_trace

        limit = None if served.concurrency is None else int(served.concurrency)
        if self.trace is not None:
            return read_trace(self.trace, concurrency=limit)
        known = 0 if served.cached == "0" else parse_length(served.cached, "cached")
        return generated(
            1000 if self.requests is None else self.requests, _length(served.input_tokens, "input"),
            _length(served.output_tokens, "output"), rate=rate, arrivals=self.arrivals, concurrency=limit,
            cached=known, prefix=_prefix(self.prefix), seed=self.seed,
        )  # fmt: skip


@with_options
def simulate_serve(served: Served, requested: Requested) -> None:
    """An inference server: start-up memory, latencies, throughput; in its steady state, or request by request."""
    machines = served.machines()
    fields = served.fields(machines)
    if not requested.is_wanted:
        own = {
            name: getattr(requested, name) for name in ("arrivals", "prefix", "seed", "slo_ttft", "slo_tpot", "slo_e2e")
        }
        _refuse(own, "--requests N, --trace FILE or --max-rate beside it", requested)
        _show_steady(fields, served, machines)
        return
    _refuse({"batch": served.batch}, "a rate or a concurrency where requests are simulated one by one")
    _refuse({"image_tokens": None if served.image_tokens == "0" else served.image_tokens},
            "tokens of images within --input where requests are simulated one by one")  # fmt: skip
    if requested.trace is not None:
        own = {"input": served.input_tokens, "output": served.output_tokens, "rate": served.rate,
               "requests": requested.requests, "prefix": requested.prefix}  # fmt: skip
        _refuse(own, "a trace by itself: it says when requests come and how long they are")
    if requested.max_rate:
        own = {"rate": served.rate, "trace": requested.trace, "concurrency": served.concurrency}
        _refuse(own, "--max-rate by itself: rates are what it tries")
    if requested.max_rate:
        _show_capacity(fields, served, requested, machines)
    else:
        _show_replay(fields, served, requested, machines)


def _refuse(given: dict[str, Any], allowed: str, defaults: object = None) -> None:
    """Options that would be ignored.

    Raises
    ------
    InputError
        For the first that was given another value than its default.
    """
    for name, value in given.items():
        usual = getattr(type(defaults), name, None)
        if value is not None and value != usual:
            raise InputError(
                name, value if isinstance(value, (int, float)) else str(value), allowed, why="has no effect"
            )


@with_options
def explain_serve(served: Served) -> None:
    """Where the time of a server's steps goes, and what would change its latencies, throughput and cost."""
    from ..explain.serving import explain_serving
    from ..report.serving import serving_explanation
    from ..report.training import show

    machines = served.machines()
    found = explain_serving(served.fields(machines), served.model, machines, **served.load())
    if served.as_json:
        print_json(found.to_dict())
    else:
        show(serving_explanation(found))


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


def _show_steady(fields: dict[str, Any], served: Served, machines: Cluster) -> None:
    from ..report.serving import serving_report
    from ..report.training import show
    from ..serving.simulate import simulate_serving

    result = simulate_serving(fields, served.model, machines, **served.load())
    if served.as_json:
        print_json(result.to_dict())
    else:
        show(serving_report(result))


def _show_replay(fields: dict[str, Any], served: Served, requested: Requested, machines: Cluster) -> None:
    from ..report.replay import replay_report
    from ..report.training import show
    from ..serving.replay import Objective, simulate_workload

    objective = requested.objective()
    wanted = None if objective == Objective() else objective
    workload = requested.workload(served, served.rate)
    result = simulate_workload(fields, served.model, machines, workload, objective=wanted)
    if served.as_json:
        print_json(result.to_dict())
    else:
        show(replay_report(result))


def _show_capacity(fields: dict[str, Any], served: Served, requested: Requested, machines: Cluster) -> None:
    from ..core.progress import Bar
    from ..report.replay import capacity_report
    from ..report.training import show
    from ..serving.capacity import highest_rate
    from ..serving.replay import simulate_workload

    objective = requested.objective()

    def at(workload: Workload) -> Any:
        return simulate_workload(fields, served.model, machines, workload, objective=objective)

    with Bar(not served.as_json) as bar:
        done = bar.stage("simulating rates")
        found = highest_rate(at, lambda rate: requested.workload(served, rate), objective, requested.attainment)
        done()
    if served.as_json:
        print_json(found.to_dict())
    else:
        show(capacity_report(found))
