"""Runs that share a plan as columns, and what the closed forms say of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...core.numeric import Number
from ...core.records import map_numbers, stack_records
from ...serving.prepare import Prepared
from ...serving.served_model import StepCounts
from ...serving.steady_state import (
    Requests,
    Steady,
    closed_state,
    decoding_batch,
    mixed_batch,
    prompt_batch,
    saturated_state,
    static_state,
    wave_state,
    without_clients,
)
from ...serving.step_time import Machine, step_seconds
from .runs import Load, ServingRun


@dataclass(frozen=True)
class RunBatch:
    """Runs of one plan under one kind of load.

    Attributes
    ----------
    prepared, load
        What they share.
    rows
        Places of the runs in their table.
    requests, amount
        Columns of the runs.
    """

    prepared: Prepared
    load: Load
    rows: np.ndarray
    requests: Requests
    amount: np.ndarray

    @property
    def engine(self) -> str:
        """Whose constants apply."""
        return self.prepared.plan.profile.name

    def steady(self, rates: Mapping[str, Number]) -> Steady:
        """What the closed forms say; constants with an axis in front of the runs are priced side by side."""
        server = self.prepared.server(self.requests, rates)
        if self.load == "closed":
            return server.closed_loop(self.amount, self.requests)
        if self.load == "waves":
            return server.waves(self.amount, self.requests)
        if self.load in ("static", "first token"):
            return server.without_clients().static_batch(self.amount, self.requests)
        if self.load == "offline":
            return server.without_clients().saturated(self.requests)
        return server.open_loop(self.amount, self.requests)


@dataclass(frozen=True)
class StepTable:
    """What runs need priced, side by side: none of it depends on an engine's constants.

    Attributes
    ----------
    rows
        Places of the runs in their table, one entry a run in all columns below.
    load
        Of each run.
    decoding, prompts
        Counts of a step of those that decode, and of one with prompts: beside them, or alone in static batches.
    machine
        Numbers of the devices.
    steps
        Steps that prompts take: of one request, or of the batch.
    running, flight
        Sequences that decode, and requests in flight.
    requests
        Their lengths.
    engine
        Whose constants apply.
    """

    rows: np.ndarray
    load: np.ndarray
    decoding: StepCounts
    prompts: StepCounts
    machine: Machine
    steps: np.ndarray
    running: np.ndarray
    flight: np.ndarray
    requests: Requests
    engine: np.ndarray

    def steady(self, rates: Mapping[str, Number]) -> dict[str, np.ndarray]:
        """Metric -> seconds or tokens per second, one entry a run; constants may have axes in front."""
        alone = np.isin(self.load, ("static", "first token", "waves"))
        waves = self.load == "waves"
        served = np.isin(self.load, ("closed", "waves"))
        quiet = {key: np.where(served, rates[key], value) for key, value in without_clients(rates).items()}
        step = step_seconds(self.decoding, self.machine, quiet).seconds
        mixed = step_seconds(self.prompts, self.machine, quiet).seconds
        prompt = self.steps * (mixed - np.where(alone, 0, step))
        states = (
            closed_state(step, prompt, self.running, self.flight, self.requests, quiet),
            static_state(step, prompt, self.running, self.requests),
            saturated_state(step, prompt, self.running, self.requests),
            wave_state(step, prompt, self.steps, self.running, self.flight, self.requests, quiet),
        )
        closed, static, saturated, wave = states
        chosen = [waves, served, alone]
        return {m: np.select(chosen, [getattr(s, m) for s in (wave, closed, static)], getattr(saturated, m))
                for m in ("tpot_s", "ttft_s", "output_tokens_per_s")}  # fmt: skip


def step_table(batches: Sequence[RunBatch]) -> StepTable:
    """The table of runs whose batch does not depend on how fast they are: all but those that arrive at a rate."""
    return stack_records([_table(batch) for batch in batches if batch.load != "open"])


def _table(batch: RunBatch) -> StepTable:
    prepared, requests, budget = batch.prepared, batch.requests, batch.prepared.settings.max_num_batched_tokens
    most = np.broadcast_to(prepared.server(requests).most, batch.amount.shape)
    if batch.load in ("static", "first token", "waves"):
        running = np.minimum(batch.amount, most) if batch.load == "waves" else batch.amount
        prompts, steps = prompt_batch(running, requests, budget)
    else:
        running = np.minimum(batch.amount, most) if batch.load == "closed" else most
        prompts, steps = mixed_batch(running, requests, budget), requests.prompt_steps(budget)
    size = len(batch.rows)
    table = StepTable(
        rows=batch.rows,
        load=np.full(size, batch.load),
        decoding=prepared.model.step(decoding_batch(running, requests)),
        prompts=prepared.model.step(prompts),
        machine=prepared.machine,
        steps=steps,
        running=running,
        flight=batch.amount,
        requests=requests,
        engine=np.full(size, batch.engine),
    )
    return map_numbers(table, lambda value: np.broadcast_to(value, (size,)))


def run_batches(runs: Sequence[ServingRun]) -> list[RunBatch]:
    """Runs with requests by plan and load."""
    places: dict[tuple[int, Load], list[int]] = {}
    for place, run in enumerate(runs):
        if run.requests is not None:
            places.setdefault((id(run.prepared), run.load), []).append(place)
    found = []
    for (_, load), rows in places.items():
        own = [runs[place] for place in rows]
        each = [run.requests for run in own if run.requests is not None]
        requests = Requests(
            np.array([r.input_tokens for r in each], dtype=float),
            np.array([r.output_tokens for r in each], dtype=float),
            np.array([r.cached_tokens for r in each], dtype=float),
        )
        amount = np.array([run.amount for run in own], dtype=float)
        found.append(RunBatch(own[0].prepared, load, np.array(rows), requests, amount))
    return found
