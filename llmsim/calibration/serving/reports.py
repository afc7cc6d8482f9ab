"""Published reports of servers, one row a value: start-up logs, benchmark results, single-stream speeds.

Concurrency is read from words (``concurrency 32``, ``100 prompts at 10 req/s``, ``1000 prompts at once``, ``batch 1``),
and so are devices (``80 GB GPU``) and lengths (``128k``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...core.errors import InputError
from ...core.units import GIB
from ...hardware.engines import get_engine
from ...serving.prepare import Prepared
from ...serving.steady_state import Requests, Steady
from .runs import Load, number, prepared_row

USUAL_PROMPT, USUAL_ANSWER = 512.0, 128.0
"""Tokens of a prompt and of an answer where a report of a speed does not say them."""
LIKELY_INPUT, LIKELY_OUTPUT = 220.0, 200.0
"""Mean tokens of prompts and answers of ShareGPT, the usual data set of reports that do not say their lengths."""

MEMORY: dict[str, Callable[[Prepared], float]] = {
    "total_gpu_memory": lambda p: p.memory.device_bytes / GIB,
    "requested_memory": lambda p: p.memory.usable_bytes / GIB,
    "non_torch_increase": lambda p: p.memory.context_bytes / GIB,
    "cuda_graph_memory": lambda p: p.memory.graph_bytes / GIB,
    "model_weights": lambda p: p.memory.weight_bytes / GIB,
    "peak_activation": lambda p: p.memory.activation_bytes / GIB,
    "available_kv_cache_memory": lambda p: p.memory.cache_bytes / GIB,
    "num_gpu_blocks": lambda p: float(p.memory.blocks),
    "kv_cache_tokens": lambda p: float(p.memory.cache_tokens),
    "max_concurrency": lambda p: p.memory.max_concurrency,
}
"""Metric of a start-up log -> what is predicted, in its usual unit."""
LATENCY: dict[str, Callable[[Steady, Requests], float]] = {
    "ttft_mean": lambda s, r: s.ttft_s,
    "ttft_median": lambda s, r: s.ttft_s,
    "tpot_mean": lambda s, r: s.tpot_s,
    "tpot_median": lambda s, r: s.tpot_s,
    "itl_mean": lambda s, r: s.tpot_s,
    "itl_median": lambda s, r: s.step_s,
    "e2e_mean": lambda s, r: s.e2e_s,
    "e2e_median": lambda s, r: s.e2e_s,
    "output_token_throughput": lambda s, r: s.output_tokens_per_s,
    "request_throughput": lambda s, r: s.requests_per_s,
    "total_token_throughput": lambda s, r: s.requests_per_s * (r.text_tokens + r.output_tokens),
    "decode_speed": lambda s, r: 1 / s.tpot_s,
    "prefill_speed": lambda s, r: r.input_tokens / s.ttft_s,
}
"""Metric of a benchmark -> what is predicted, SI."""
OUTCOME = "startup_outcome"


@dataclass(frozen=True)
class ReportRow:
    """One value of a report as the simulator sees it.

    Attributes
    ----------
    prepared
        The plan on its cluster.
    requests, load, amount
        What clients send and how; None, ``start`` and 0 for a start-up log.
    assumed
        What the row does not say: field -> text.
    prompts
        How many requests there were in all, 0 where nobody says.
    """

    prepared: Prepared
    requests: Requests | None
    load: Load
    amount: float
    assumed: Mapping[str, str]
    prompts: float = 0.0


def report_row(row: Mapping[str, str]) -> ReportRow:
    """A row of a report.

    Raises
    ------
    LlmsimError
        With the reason why it cannot be simulated.
    """
    metric = (row.get("metric") or "").strip()
    if metric not in MEMORY and metric not in LATENCY and metric != OUTCOME:
        raise InputError("metric", metric, f"{', '.join((*MEMORY, *LATENCY))}, {OUTCOME}", why="is not predicted")
    assumed: dict[str, str] = {}
    prepared = _prepared(_plain_row(row, assumed), assumed)
    if metric not in LATENCY:
        return ReportRow(prepared, None, "start", 0.0, assumed)
    requests = _requests(row, metric, assumed)
    load, amount = _load(row, metric, assumed)
    return ReportRow(prepared, requests, load, amount, assumed, _prompts(row))


def _prepared(row: Mapping[str, str], assumed: dict[str, str]) -> Prepared:
    """The plan of a row; where it does not say how devices share the model, single streams split its layers, and
    servers have the fewest tensor-parallel ranks that hold it."""
    devices = int(number(row, "n_devices") or 1)
    stated = (row.get("tensor_parallel") or "").strip() or (row.get("pipeline_parallel") or "").strip()
    if stated or devices == 1:
        return prepared_row(row)
    if get_engine(row["engine"]).defaults.streams:
        assumed["pipeline_parallel"] = str(devices)
        return prepared_row({**row, "tensor_parallel": "1", "pipeline_parallel": str(devices)})
    ranks = 1
    while True:
        found = prepared_row({**row, "tensor_parallel": str(ranks)})
        if found.memory.cache_bytes > 0 or 2 * ranks > devices:
            assumed["tensor_parallel"] = str(ranks)
            return found
        ranks *= 2


def _plain_row(row: Mapping[str, str], assumed: dict[str, str]) -> dict[str, str]:
    """The row with words as names: devices by their memory, data parallelism as replicas."""
    found = dict(row)
    hardware = (row.get("hardware") or "").strip()
    if match := re.match(r"([0-9]+) ?GB GPU", hardware):
        names = {"80": "a100-sxm-80gb", "24": "rtx-3090-24gb", "48": "a40-48gb", "40": "a100-sxm-40gb"}
        if match[1] in names:
            found["hardware"] = names[match[1]]
            assumed["hardware"] = f"{names[match[1]]} for {hardware}"
    engine = (row.get("engine") or "").strip().lower()
    found["engine"] = engine.split(" ")[0] or "vllm"
    if not engine:
        assumed["engine"] = "vllm"
    data = number(row, "data_parallel") or 1
    if data > 1 and not (row.get("expert_parallel") or "").strip():
        found["n_devices"] = str(int((number(row, "n_devices") or data) / data))
    if (number(row, "expert_parallel") or 1) > 1 and data > 1:
        found["attention_data_parallel"] = str(int(data))
    return found


def _first_number(text: str) -> float | None:
    match = re.match(r"\s*([0-9][0-9,]*(?:\.[0-9]+)?)", text or "")
    return float(match[1].replace(",", "")) if match else None


def _requests(row: Mapping[str, str], metric: str, assumed: dict[str, str]) -> Requests:
    given, wanted = _first_number(row.get("input_tokens", "")), _first_number(row.get("output_tokens", ""))
    single = metric in ("decode_speed", "prefill_speed")
    if given is None:
        given = USUAL_PROMPT if single else LIKELY_INPUT
        assumed["input_tokens"] = f"{given:.0f}"
    if wanted is None:
        wanted = USUAL_ANSWER if single else LIKELY_OUTPUT
        assumed["output_tokens"] = f"{wanted:.0f}"
    images = number(row, "image_tokens") or 0.0
    return Requests(given + images, max(wanted, 1.0), image_tokens=images)


def _prompts(row: Mapping[str, str]) -> float:
    match = re.match(r"([0-9]+) .*prompts?", (row.get("concurrency_or_rate") or "").lower())
    return float(match[1]) if match else 0.0


def _load(row: Mapping[str, str], metric: str, assumed: dict[str, str]) -> tuple[Load, float]:
    """How requests arrive, from words."""
    text = (row.get("concurrency_or_rate") or "").lower()
    if metric == "prefill_speed":
        return "first token", 1.0
    if match := re.search(r"concurrency ([0-9]+)", text):
        return "closed", float(match[1])
    if match := re.search(r"([0-9]+) in flight", text):
        return "closed", float(match[1])
    if match := re.search(r"([0-9.]+) req/s", text):
        return "open", float(match[1])
    if match := re.search(r"([0-9]+).*prompts at once", text):
        return "offline", float(match[1])
    if match := re.search(r"batch ([0-9]+)", text):
        return "closed", float(match[1])
    if match := re.match(r"([0-9]+) prompts?\b", text):
        return ("closed", 1.0) if match[1] == "1" else ("offline", float(match[1]))
    if metric == "decode_speed":
        assumed["concurrency"] = "1"
        return "closed", 1.0
    raise InputError(
        "concurrency_or_rate", text, "concurrency N, N req/s, or N prompts at once", why="is not understood"
    )
