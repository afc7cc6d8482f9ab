"""Published reports of servers, one row a value: start-up logs, benchmark results, single-stream speeds.

Concurrency is read from words (``concurrency 32``, ``100 prompts at 10 req/s``, ``1000 prompts at once``, ``batch 1``),
and so are devices (``80 GB GPU``) and lengths (``128k``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ...core.errors import InputError
from ...core.units import GIB
from ...hardware.engines import get_engine
from ...serving.prepare import Prepared
from ...serving.replay import Distribution, Latencies
from ...serving.steady_state import Requests, Steady
from ...serving.workload import Workload, generated
from .runs import number, prepared_row, that_starts

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
    "total_non_kv": lambda p: (p.memory.weight_bytes + p.memory.activation_bytes + p.memory.context_bytes) / GIB,
    "cuda_graph_memory_estimate": lambda p: p.memory.graph_bytes / GIB,
    "max_total_num_tokens": lambda p: float(p.memory.cache_tokens),
    "kv_k_size": lambda p: p.memory.cache_bytes / 2 / GIB,
    "kv_v_size": lambda p: p.memory.cache_bytes / 2 / GIB,
    "estimated_max_model_len": lambda p: float(p.memory.longest),
}
"""Metric of a start-up log -> what is predicted, in its usual unit."""
SINGLE: dict[str, Callable[[Steady, Requests], float]] = {
    "decode_speed": lambda s, r: 1 / s.tpot_s,
    "prefill_speed": lambda s, r: r.input_tokens / s.ttft_s,
}
"""Metric of a single stream -> what its closed form says, SI."""
PERCENTILE = {"median": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}
_TIMES: dict[str, Callable[[Latencies], np.ndarray]] = {
    "ttft": lambda x: x.ttft,
    "tpot": lambda x: x.tpot,
    "e2e": lambda x: x.e2e,
}
_SUMS: dict[str, Callable[[Latencies], float]] = {
    "output_token_throughput": lambda x: float(x.outputs.sum()) / x.duration,
    "input_token_throughput": lambda x: float(x.inputs.sum()) / x.duration,
    "total_token_throughput": lambda x: float(x.inputs.sum() + x.outputs.sum()) / x.duration,
    "request_throughput": lambda x: len(x.ttft) / x.duration,
    "benchmark_duration": lambda x: x.duration,
    "successful_requests": lambda x: float(len(x.ttft)),
    "failed_requests": lambda x: float(x.refused),
    "total_input_tokens": lambda x: float(x.inputs.sum()),
    "total_generated_tokens": lambda x: float(x.outputs.sum()),
    "elapsed": lambda x: x.duration,
}
"""Metric of a benchmark of many requests -> what their simulation says, SI."""
_OF_ALL = ("benchmark_duration", "elapsed", "successful_requests", "failed_requests", "total_input_tokens",
           "total_generated_tokens")  # fmt: skip
"""What only means something where a report says how many requests there were."""
REPLAYED = (
    *_SUMS,
    *(f"{name}_{kind}" for name in ("ttft", "tpot", "itl", "e2e") for kind in ("mean", *PERCENTILE)),
)


def replayed_value(metric: str, latencies: Latencies, gaps: tuple[np.ndarray, np.ndarray]) -> float:
    """A metric of simulated requests, SI.

    Parameters
    ----------
    gaps
        Seconds between tokens, and how often each occurs.
    """
    if metric in _SUMS:
        return _SUMS[metric](latencies)
    name, kind = metric.rsplit("_", 1)
    if name == "itl":
        own = Distribution.of(*gaps)
        return {"mean": own.mean, "median": own.p50, "p90": own.p90, "p95": own.p95, "p99": own.p99}[kind]
    values = _TIMES[name](latencies)
    return float(values.mean()) if kind == "mean" else float(np.percentile(values, PERCENTILE[kind]))


OUTCOME = "startup_outcome"


@dataclass(frozen=True)
class Traffic:
    """Requests of a benchmark as a report states them.

    Attributes
    ----------
    requests
        How many.
    input, output
        Lengths as :func:`~llmsim.serving.workload.generated` takes them.
    rate, arrivals, concurrency, prefix
        See there.
    counted
        Whether the report says how many requests there were.
    """

    requests: int
    input: str
    output: str
    rate: float | None = None
    arrivals: str = "poisson"
    concurrency: int | None = None
    prefix: tuple[int, int] | None = None
    counted: bool = True

    def workload(self) -> Workload:
        """The requests."""
        return generated(self.requests, self.input, self.output, rate=self.rate, arrivals=self.arrivals,
                         concurrency=self.concurrency, prefix=self.prefix)  # fmt: skip


@dataclass(frozen=True)
class ReportRow:
    """One value of a report as the simulator sees it.

    Attributes
    ----------
    prepared
        The plan on its cluster.
    single, traffic
        Lengths of a single stream, or the requests of a benchmark; neither for a start-up log.
    assumed
        What the row does not say: field -> text.
    """

    prepared: Prepared
    single: Requests | None
    traffic: Traffic | None
    assumed: Mapping[str, str]


def report_row(row: Mapping[str, str]) -> ReportRow:
    """A row of a report.

    Raises
    ------
    LlmsimError
        With the reason why it cannot be simulated.
    """
    metric = (row.get("metric") or "").strip()
    if metric not in MEMORY and metric not in SINGLE and metric not in REPLAYED and metric != OUTCOME:
        raise InputError("metric", metric, f"{', '.join((*MEMORY, *SINGLE, *REPLAYED))}, {OUTCOME}",
                         why="is not predicted")  # fmt: skip
    assumed: dict[str, str] = {}
    plain = _plain_row(row, assumed)
    prepared = _prepared(plain, assumed)
    if metric in SINGLE or metric in REPLAYED:
        prepared = that_starts(prepared, plain, assumed)
    if metric in SINGLE:
        return ReportRow(prepared, _single(row, assumed), None, assumed)
    if metric not in REPLAYED:
        return ReportRow(prepared, None, None, assumed)
    traffic = _traffic(row, prepared.replicas, assumed)
    if metric in _OF_ALL and not traffic.counted:
        raise InputError("concurrency_or_rate", row.get("concurrency_or_rate"), "N prompts",
                         why="does not say how many requests there were")  # fmt: skip
    return ReportRow(prepared, None, traffic, assumed)


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


def _single(row: Mapping[str, str], assumed: dict[str, str]) -> Requests:
    """Lengths of a single stream."""
    given, wanted = _first_number(row.get("input_tokens", "")), _first_number(row.get("output_tokens", ""))
    if given is None:
        given = USUAL_PROMPT
        assumed["input_tokens"] = f"{given:.0f}"
    if wanted is None:
        wanted = USUAL_ANSWER
        assumed["output_tokens"] = f"{wanted:.0f}"
    images = number(row, "image_tokens") or 0.0
    return Requests(given + images, max(wanted, 1.0), image_tokens=images)


def _traffic(row: Mapping[str, str], replicas: int, assumed: dict[str, str]) -> Traffic:
    """The requests of a benchmark, from words."""
    text = (row.get("concurrency_or_rate") or "").lower().replace(",000", "000")
    count, rate, limit = _prompts(text), _found(r"([0-9.]+) ?req/s", text), _found(_LIMIT, text)
    alone = text.strip() in ("1 prompt", "1 prompts")
    if rate is None and limit is None and not count:
        raise InputError("concurrency_or_rate", text, "concurrency N, N req/s, or N prompts at once",
                         why="is not understood")  # fmt: skip
    if not count:
        seconds = _found(r"([0-9.]+) s\b", text) or USUAL_SECONDS
        usual = rate * seconds if rate else (limit or 1) * USUAL_ROUNDS
        count = int(min(max(usual, 2 * replicas, 20), MOST_PROMPTS))
        if rate is None or f"{seconds:g} s" not in text:
            assumed["requests"] = f"{count:,}"
    given, prefix = _prompt_lengths(row, assumed)
    return Traffic(
        requests=1 if alone else count,
        input=given,
        output=_answer_lengths(row, assumed),
        rate=rate,
        arrivals="constant" if "constant" in text else "poisson",
        concurrency=None if limit is None else int(limit),
        prefix=prefix,
        counted=bool(_prompts(text)),
    )


_LIMIT = r"(?:concurrency|batch) ([0-9]+)|([0-9]+) in flight"
USUAL_ROUNDS = 10
"""Requests that a client with a limit sends in all, for each that it has out at a time."""
USUAL_SECONDS = 60.0
"""How long requests arrive at a rate where nobody says it."""
MOST_PROMPTS = 20_000
"""Requests of a benchmark that are simulated at most."""


def _found(pattern: str, text: str) -> float | None:
    match = re.search(pattern, text)
    return float(next(group for group in match.groups() if group)) if match else None


def _prompts(text: str) -> int:
    return int(_found(r"([0-9]+) (?:[a-z0-9-]+ )?(?:prompts?|documents|questions)\b", text) or 0)


def _prompt_lengths(row: Mapping[str, str], assumed: dict[str, str]) -> tuple[str, tuple[int, int] | None]:
    """Lengths of prompts, and tokens that they have in common and groups of such prompts."""
    text = (row.get("input_tokens") or "").replace(",", "")
    if match := re.match(r"\s*([0-9]+) shared(?: \(([0-9]+) groups\))? \+ ([0-9]+)", text):
        return str(int(match[1]) + int(match[3])), (int(match[1]), int(match[2] or 1))
    if match := re.match(r"\s*([0-9]+) groups x ([0-9]+)-token prefix.*\+ ([0-9]+)", text):
        return str(int(match[2]) + int(match[3])), (int(match[2]), int(match[1]))
    if match := re.match(r"\s*([0-9]+):([0-9]+)", text):
        return f"uniform:{match[1]}:{match[2]}", None
    given = _first_number(text)
    if given is None:
        assumed["input_tokens"] = f"lengths of ShareGPT, {LIKELY_INPUT:.0f} in the mean"
        return f"lognormal:{LIKELY_INPUT}:1", None
    return f"{given + (number(row, 'image_tokens') or 0):.0f}", None


def _answer_lengths(row: Mapping[str, str], assumed: dict[str, str]) -> str:
    wanted = _first_number(row.get("output_tokens", ""))
    if wanted is None:
        assumed["output_tokens"] = f"lengths of ShareGPT, {LIKELY_OUTPUT:.0f} in the mean"
        return f"lognormal:{LIKELY_OUTPUT}:1"
    return f"{max(wanted, 1):.0f}"
