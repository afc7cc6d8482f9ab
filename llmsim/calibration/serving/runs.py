"""Rows of serving tables as plans, requests and loads."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, TypeAlias

from ...architecture import Architecture
from ...core.errors import InputError
from ...hardware.cluster import Cluster
from ...models import stored_format, stored_otherwise
from ...plans.serving import ServingPlan
from ...serving.prepare import Prepared, prepare
from ...serving.steady_state import Requests

Load: TypeAlias = Literal["closed", "waves", "static", "offline", "first token", "open", "start"]
"""A fixed number in flight, of various or of equal lengths; a batch that begins and ends together; all at once; a
single request's first token; arrivals at a rate; the start of the engine alone."""
SHORTEST = 0.8
"""Of the stated length, the shortest prompt and answer of a benchmark under a fixed concurrency: lengths are drawn
evenly between both, as InferenceMAX does, but for engines whose prompts do not share steps, whose latencies only fit
equal lengths."""


@dataclass(frozen=True)
class ServingRun:
    """One row (or case) of a table as the simulator sees it.

    Attributes
    ----------
    id, group
        Of the row.
    model, hardware, framework, release
        As the table has them, normalised.
    prepared
        The plan on its cluster.
    requests
        What clients send; None for a start.
    load, amount
        How, and the number in flight, of the batch, or requests per second.
    measured
        Metric -> value, SI (``ttft_s``, ``tpot_s``, ``output_tokens_per_s`` ...).
    shortest
        Of the longest prompt and answer, the shortest; ``requests`` are the means.
    arrivals, seconds
        Of runs at a rate: how requests follow each other, and for how long; None where nobody says it.
    series
        Rows that share it were measured in one go: what they are off together is theirs.
    """

    id: str
    group: str
    model: str
    hardware: str
    framework: str
    release: str
    prepared: Prepared
    requests: Requests | None
    load: Load
    amount: float
    measured: Mapping[str, float]
    series: str
    shortest: float = 1.0
    arrivals: str = "poisson"
    seconds: float | None = None


def number(row: Mapping[str, str], name: str) -> float | None:
    """A number of a row; None for an empty cell.

    Raises
    ------
    InputError
        For something that is none.
    """
    text = (row.get(name) or "").strip().replace(",", "")
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError(name, text, "a number, or nothing where it was not recorded") from None


def whole(row: Mapping[str, str], name: str) -> int | None:
    """A whole number of a row; ``128k`` counts in 1,024."""
    text = (row.get(name) or "").strip().lower()
    if match := re.fullmatch(r"([0-9]+)k", text):
        return int(match[1]) * 1024
    value = number(row, name)
    return None if value is None else int(value)


def weights_in(text: str, model: str) -> str:
    """The stored formats that a table's words stand for; 16 bits where it has none and the model's file neither."""
    name = text.strip().lower()
    if not name:
        return stored_format(model) or "bf16"
    if "mxfp4" in name:
        return "mxfp4"
    if "nvfp4" in name:
        return "experts:nvfp4,mlp:nvfp4" if "self-attention" in name else "nvfp4"
    if name.startswith("fp8"):
        return "fp8"
    if "w8a8" in name or name.startswith("int8"):
        return "int8"
    if "int4 experts" in name:
        return "int4-experts"
    if re.match(r"(iq|q)[0-9]_", name):
        return re.split(r"[\s,(]", name)[0]
    if any(word in name for word in ("awq", "gptq", "int4", "w4a16")):
        return "awq"
    first = re.split(r"[\s,(]", name)[0]
    return {"bfloat16": "bf16", "float16": "fp16"}.get(first, first)


def plan_of(row: Mapping[str, str], model: str) -> tuple[ServingPlan, int]:
    """The plan of a row, and the devices of its server.

    Raises
    ------
    InputError
        For a field that no plan has.
    """
    devices = whole(row, "n_devices") or 1
    tensor = whole(row, "tensor_parallel")
    pipeline = whole(row, "pipeline_parallel") or 1
    data = whole(row, "attention_data_parallel")
    expert = whole(row, "expert_parallel") or 1
    if tensor is None:
        tensor = max(1, devices // (pipeline * (data or 1)))
    if expert > tensor * (data or 1):
        data = max(1, devices // (tensor * pipeline))
    fields: dict[str, object] = {
        "engine": (row.get("framework") or row.get("engine") or "vllm").strip(),
        "release": (row.get("framework_release") or row.get("engine_release") or "").strip(),
        "tensor_parallel": tensor,
        "pipeline_parallel": pipeline,
        "attention_data_parallel": data or 1,
        "expert_parallel": expert,
        "weights": weights_in(row.get("weight_precision") or "", model),
        "kv_cache": re.split(r"[\s,(]", (row.get("kv_precision") or "").strip())[0] or "auto",
        "max_num_seqs": whole(row, "max_num_seqs"),
        "max_num_batched_tokens": whole(row, "max_num_batched_tokens"),
        "max_model_len": whole(row, "max_model_len"),
        "memory_utilisation": number(row, "gpu_memory_utilization"),
    }
    return ServingPlan.parse({k: v for k, v in fields.items() if v is not None}), devices


def prepared_row(row: Mapping[str, str], *, longest: int = 0, cache_tokens: int | None = None) -> Prepared:
    """The plan of a row on its cluster.

    Raises
    ------
    LlmsimError
        For a model, hardware or plan that cannot be simulated, with the reason.
    """
    model = (row.get("model") or "").strip()
    if not model:
        raise InputError("model", "", "a model's name", why="is not stated")
    hardware = (row.get("hardware") or "").strip()
    if not hardware:
        raise InputError("hardware", "", "a device's name", why="is not stated")
    plan, devices = plan_of(row, model)
    if cache_tokens is not None:
        plan = plan.replace(cache_tokens=cache_tokens)
    if plan.max_model_len is None and longest:
        plan = plan.replace(max_model_len=longest)
    return _prepared(plan, model, hardware, max(devices, plan.ranks))


@lru_cache(maxsize=4096)
def _prepared(plan: ServingPlan, model: str, hardware: str, devices: int) -> Prepared:
    return prepare(plan, known_architecture(model), _cluster(hardware, devices))


@lru_cache(maxsize=256)
def known_architecture(model: str) -> Architecture:
    """A model by name, read once; weights that somebody stored in another format have the architecture of the
    original."""
    return Architecture.from_config(stored_otherwise(model) or model)


@lru_cache(maxsize=256)
def _cluster(hardware: str, devices: int) -> Cluster:
    """One server of so many devices, or several nodes of it."""
    first = Cluster.parse(f"1x1x{hardware}")
    per_node = first.profile.largest_node or first.profile.devices_per_node
    per_node = max(per_node, first.profile.scale_up.domain) if first.profile.scale_up.domain > per_node else per_node
    nodes = -(-devices // per_node)
    return Cluster.measured({"device": hardware, "nodes": nodes, "devices_per_node": min(devices, per_node)})


def point_run(row: Mapping[str, str]) -> ServingRun:
    """A row of latencies under a fixed concurrency, of throughput, or of an online benchmark.

    Raises
    ------
    LlmsimError
        With the reason why it cannot be simulated.
    """
    given, wanted = number(row, "input_tokens"), number(row, "output_tokens")
    if given is None:
        raise InputError("input_tokens", "", "a number of tokens", why="is not stated")
    load, amount = _load(row)
    measured = _measured(row, (("ttft_ms", "ttft_s", 1e-3), ("tpot_ms", "tpot_s", 1e-3),
                               ("output_tokens_per_s", "output_tokens_per_s", 1.0)))  # fmt: skip
    images = number(row, "image_tokens") or 0.0
    requests = Requests(given + images, wanted if wanted is not None else 1.0, image_tokens=images)
    prepared = that_starts(prepared_row(row), row)
    if load != "closed":
        return _run(row, prepared, requests, load, amount, measured)
    if not prepared.plan.profile.defaults.mixed:
        return _run(row, prepared, requests, "waves", amount, measured)
    mean = (1 + SHORTEST) / 2
    drawn = Requests(mean * requests.input_tokens, max(mean * requests.output_tokens, 1.0))
    return replace(_run(row, prepared, drawn, load, amount, measured), shortest=SHORTEST)


def that_starts(prepared: Prepared, row: Mapping[str, str], assumed: dict[str, str] | None = None) -> Prepared:
    """A server that was measured did start: where it would not with the engine's usual share of the memory, its share
    was larger."""
    if prepared.memory.starts or prepared.plan.memory_utilisation is not None:
        return prepared
    plan = prepared.plan
    degrees = {"tensor_parallel": str(plan.tensor_parallel), "pipeline_parallel": str(plan.pipeline_parallel)}
    larger = prepared_row({**row, **degrees, "gpu_memory_utilization": str(LARGEST_SHARE)})
    if not larger.memory.starts:
        return prepared
    if assumed is not None:
        assumed["gpu_memory_utilization"] = f"{LARGEST_SHARE:g}, since it ran"
    return larger


LARGEST_SHARE = 0.97
"""Of the memory, what people let an engine have at most."""


def rate_run(row: Mapping[str, str]) -> ServingRun:
    """A row of latencies at a constant request rate of sessions that send the same prompt every turn, most of which a
    prefix cache has from the second turn on.

    Raises
    ------
    LlmsimError
        With the reason why it cannot be simulated.
    """
    system, question, wanted, rate = (
        number(row, name) for name in ("system_prompt_tokens", "question_tokens", "output_tokens", "rate_req_s")
    )
    if question is None or wanted is None or rate is None:
        raise InputError("question_tokens, output_tokens, rate_req_s", "", "numbers", why="are not all stated")
    prompt = question + (system or 0)
    prepared = prepared_row(row, cache_tokens=_known_tokens(row))
    block = prepared.settings.block_tokens
    sessions = (number(row, "n_system_prompts") or 1) * (number(row, "users_per_system_prompt") or 1)
    turns = max(1.0, rate * (number(row, "duration_s") or 600) / sessions)
    first = 1 / turns if (whole(row, "stage") or 0) == 0 else 0.0
    again, start = block * ((prompt - 1) // block), block * ((system or 0) // block)
    requests = Requests(prompt, wanted, first * start + (1 - first) * again)
    measured = _measured(row, (("ttft_mean_ms", "ttft_s", 1e-3), ("e2e_mean_ms", "e2e_s", 1e-3)))
    own = _run(row, prepared, requests, "open", rate, measured)
    return replace(own, arrivals="constant", seconds=number(row, "duration_s"))


def _known_tokens(row: Mapping[str, str]) -> int | None:
    blocks, size = whole(row, "kv_blocks"), whole(row, "kv_block_tokens")
    return blocks * size if blocks and size else None


def _measured(row: Mapping[str, str], columns: Sequence[tuple[str, str, float]]) -> dict[str, float]:
    each = ((name, number(row, column), scale) for column, name, scale in columns)
    return {name: value * scale for name, value, scale in each if value is not None}


def _run(
    row: Mapping[str, str],
    prepared: Prepared,
    requests: Requests | None,
    load: Load,
    amount: float,
    measured: Mapping[str, float],
) -> ServingRun:
    series = ("group", "framework", "framework_release", "weight_precision", "source", "tensor_parallel", "mode")
    return ServingRun(
        id=row.get("id", ""),
        group=row.get("group", ""),
        model=prepared.model.architecture.name,
        hardware=prepared.device.name,
        framework=prepared.plan.profile.name,
        release=prepared.plan.release,
        prepared=prepared,
        requests=requests,
        load=load,
        amount=amount,
        measured=measured,
        series="|".join((row.get(name) or "") for name in series),
    )


def _load(row: Mapping[str, str]) -> tuple[Load, float]:
    mode = (row.get("mode") or "").strip().lower()
    if not mode:
        concurrency = number(row, "concurrency")
        if concurrency is None:
            raise InputError("concurrency", "", "a number of requests in flight", why="is not stated")
        return "closed", concurrency
    if mode.startswith("offline"):
        return "offline", 0.0
    batch = number(row, "batch_or_concurrency")
    if mode.startswith("static"):
        return "static", batch or 1.0
    if "first token" in mode:
        return "first token", batch or 1.0
    rate = number(row, "request_rate_req_s")
    if rate is None:
        raise InputError("request_rate_req_s", "", "requests per second", why="is not stated")
    return ("open", rate) if math.isfinite(rate) else ("offline", 0.0)
