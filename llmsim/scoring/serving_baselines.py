"""What simple rules predict of time per output token from the same servers: the bars that a simulator has to pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..calibration.serving.fit import ServingData
from ..calibration.serving.runs import ServingRun
from ..core.numeric import log2
from ..serving.served_model import StepCounts
from ..serving.steady_state import decoding_batch, mixed_batch

BASELINES = ("roofline", "8 parameters", "nearest sibling")
ENGINES = ("tensorrt-llm", "sglang", "vllm")


class TokenTimes:
    """Runs under a fixed concurrency as baselines see them.

    Attributes
    ----------
    roofline
        Seconds of a decoding step if the memory and the products reach their peaks, one entry a run; NaN for others.
    features
        Of the linear model, seconds each, shape (runs, 8): layers on each engine, layers times doublings of ranks,
        expert layers, bytes over bandwidth, FLOPs over the peak, and FLOPs of prompts per output token over the peak.
    """

    def __init__(self, data: ServingData) -> None:
        self.measured = np.exp(data.measured[:, 0])
        self.engine = np.array([run.framework for run in data.runs])
        found = [_features(run) for run in data.runs]
        self.features = np.array(found)
        self.roofline = np.maximum(self.features[:, 5], self.features[:, 6])

    def predicted(self, name: str, held: np.ndarray) -> np.ndarray:
        """Seconds per token of the runs that are held out, by what the others teach."""
        known = ~held & np.isfinite(self.measured) & np.isfinite(self.roofline)
        if name == "roofline":
            return np.asarray(self.roofline[held])
        if name == "8 parameters":
            from scipy.optimize import nnls

            scale = self.measured[known][:, None]
            own, _ = nnls(self.features[known] / scale, np.ones(int(known.sum())))
            return np.asarray(self.features[held] @ own)
        return self._siblings(held, known)

    def _siblings(self, held: np.ndarray, known: np.ndarray) -> np.ndarray:
        """The nearest run of the same engine, if there is one, scaled by the ratio of rooflines."""
        places = np.flatnonzero(known)
        logs = np.log(np.maximum(self.features[:, 3:], 1e-9))
        found = []
        for row in np.flatnonzero(held):
            same = places[self.engine[places] == self.engine[row]]
            among = same if len(same) else places
            near = among[np.argmin(((logs[among] - logs[row]) ** 2).sum(axis=1))]
            found.append(self.measured[near] * self.roofline[row] / self.roofline[near])
        return np.array(found)


def _features(run: ServingRun) -> list[float]:
    if run.requests is None or run.load not in ("closed", "waves"):
        return [np.nan] * 8
    prepared, requests = run.prepared, run.requests
    most = float(np.asarray(prepared.server(requests).most))
    running = min(run.amount, most)
    machine, model = prepared.machine, prepared.model
    step = model.step(decoding_batch(running, requests))
    both = model.step(mixed_batch(running, requests, prepared.settings.max_num_batched_tokens))
    prompts = float(requests.prompt_steps(prepared.settings.max_num_batched_tokens))
    layers = 1e-6 * float(step.layers)
    bytes_s = (sum(float(own) for own in step.weight_bytes.values()) + float(step.decode_bytes)) / float(
        machine.bandwidth
    )
    flops_s = _seconds(step, machine.product_peak)
    prompt_s = prompts * (_seconds(both, machine.product_peak) - flops_s) * (running - 1) / requests.output_tokens
    return [
        *(layers * (run.framework == engine) for engine in ENGINES),
        layers * float(log2(step.ranks)), 1e-6 * float(step.moe_layers), bytes_s, flops_s, float(prompt_s),
    ]  # fmt: skip


def _seconds(counts: StepCounts, peaks: object) -> float:
    assert isinstance(peaks, dict)
    return float(sum(float(own) / float(peaks[kind]) for kind, own in counts.flops.items()))


def with_measured_rows(
    runs: Sequence[ServingRun], predicted: np.ndarray, measured: np.ndarray, count: int = 3
) -> dict[str, np.ndarray]:
    """Errors once some rows of a series are measured: group -> logarithms of predicted over measured of its other rows.

    The rows are spread evenly over the series in the order of its concurrency; what they are off in the mean, shrunk as
    a random intercept, is taken off the others.

    Parameters
    ----------
    predicted, measured
        Logarithms of seconds per token, one entry a run; NaN where there is none.
    """
    from ..calibration.serving.fit import INTERCEPT, NOISE

    series: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        if np.isfinite(predicted[place]) and np.isfinite(measured[place]):
            series.setdefault(run.series, []).append(place)
    found: dict[str, list[float]] = {}
    share = 1 / (1 + NOISE["tpot_s"] ** 2 / (count * INTERCEPT["tpot_s"] ** 2))
    for places in series.values():
        if len(places) < 2 * count:
            continue
        own = sorted(places, key=lambda place: (runs[place].amount, place))
        taken = {own[round(n * (len(own) - 1) / (count - 1))] for n in range(count)}
        shift = share * float(np.mean([predicted[n] - measured[n] for n in taken]))
        for place in own:
            if place not in taken:
                error = float(predicted[place] - measured[place] - shift)
                found.setdefault(runs[place].group, []).append(error)
    return {group: np.array(errors) for group, errors in found.items()}
