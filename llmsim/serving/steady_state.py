"""Latency and throughput of a server in closed form, for numbers, arrays and symbols alike.

A decoding sequence sees one step a token; while others' prompts run, it waits for what they add to the step. In a
closed loop each of ``B`` sequences that run brings one prompt for every ``n`` tokens that it writes, so that a token
takes ``step(B) + w (B - 1) / n x extra`` with ``extra`` what a prompt adds to a step: weights are read once.

References
----------
Little 1961, doi:10.1287/opre.9.3.383 (requests in flight); Pollaczek-Khinchine for the wait behind prompts of equal
length, Kleinrock 1975, Queueing Systems I, section 5.6; Hawkes 1971, doi:10.1093/biomet/58.1.83, for arrivals that feed
on themselves, whose counts over long windows vary ``1 / (1 - beta)**2`` times as much as their mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ..core.numeric import Number, ceil_div, maximum, minimum
from .served_model import ServedModel, StepBatch
from .step_time import Machine, time_step

BUSIEST = 0.95
"""Share of steps with prompts up to which a queue is taken to be steady."""
MOST_OFFSPRING = 0.9
"""The ratio up to which arrivals that feed on themselves are followed: beyond, a server is all but saturated."""
ROUNDS = 30
"""Of a fixed point: each halves the distance at least where the batch hardly changes the step."""


@dataclass(frozen=True)
class Requests:
    """What clients send.

    Attributes
    ----------
    input_tokens, output_tokens
        Of a request, means.
    cached_tokens
        Of the input, those that a prefix cache has already.
    image_tokens
        Of the input, those that images were turned into: computed and kept like words. The tower that turns them is not
        part of the model.
    """

    input_tokens: Number
    output_tokens: Number
    cached_tokens: Number = 0
    image_tokens: Number = 0

    @property
    def text_tokens(self) -> Number:
        """Of the input, those that are words."""
        return self.input_tokens - self.image_tokens

    @property
    def new_tokens(self) -> Number:
        """Of the input, those that are computed."""
        return maximum(self.input_tokens - self.cached_tokens, 1)

    @property
    def mean_context(self) -> Number:
        """Tokens that a sequence has cached halfway through its answer."""
        return self.input_tokens + self.output_tokens / 2

    def prompt_steps(self, budget: Number) -> Number:
        """Steps that a prompt takes, so many new tokens in each at most."""
        return ceil_div(self.new_tokens, budget)


@dataclass(frozen=True)
class Steady:
    """A server in a steady state; seconds, requests and tokens of one replica.

    Attributes
    ----------
    running, waiting
        Sequences that decode at a time, and requests that wait for room.
    step_s, prompt_s
        A step of those that decode alone, and what the prompt of one request adds to steps.
    ttft_s, tpot_s, e2e_s
        Time to the first token, per token after it, of a request.
    requests_per_s, output_tokens_per_s
        Throughput.
    """

    running: Number
    waiting: Number
    step_s: Number
    prompt_s: Number
    ttft_s: Number
    tpot_s: Number
    e2e_s: Number
    requests_per_s: Number
    output_tokens_per_s: Number


# --- the batches whose steps are priced -----------------------------------------------------------------------------


def decoding_batch(running: Number, requests: Requests) -> StepBatch:
    """Sequences decode and nothing else happens."""
    return StepBatch(running, requests.mean_context, logits=running)


def mixed_batch(running: Number, requests: Requests, budget: Number) -> StepBatch:
    """Beside them a chunk of one prompt, as long as its chunks are on average."""
    chunks = requests.prompt_steps(budget)
    queries = requests.new_tokens / chunks
    cached = requests.cached_tokens + (requests.new_tokens - queries) / 2
    return StepBatch(running, requests.mean_context, 1, queries, cached, running + 1 / chunks)


def prompt_batch(count: Number, requests: Requests, budget: Number) -> tuple[StepBatch, Number]:
    """Of requests that arrive at once, none decoding: a step as full as it may be, and how many there are."""
    tokens = count * requests.new_tokens
    steps = maximum(tokens / budget, 1)
    each = tokens / steps
    share = maximum(each / requests.new_tokens, 1)
    queries = each / share
    cached = requests.cached_tokens + maximum(requests.new_tokens - queries, 0) / 2
    return StepBatch(0, 0, share, queries, cached, count / steps), steps


# --- what follows from their times ----------------------------------------------------------------------------------


def closed_state(
    step: Number,
    prompt: Number,
    running: Number,
    flight: Number,
    requests: Requests,
    rates: Mapping[str, Number],
) -> Steady:
    """``flight`` requests at a time of which ``running`` have room, a new one for each that ends.

    Parameters
    ----------
    step, prompt
        Seconds of a step of those that run, and what one prompt adds to it.
    """
    others = maximum(running - 1, 0)
    waits = rates["interference"] * others / requests.output_tokens * prompt
    tpot = step + waits
    busy = minimum(others / requests.output_tokens * prompt / tpot, BUSIEST)
    queue = minimum(prompt * busy / (2 * (1 - busy)), others * prompt)
    wave = rates["first_wave"] * others / 2 * prompt
    first = rates["host/request_s"] + step + prompt + step / 2 * minimum(others, 1) + queue + wave
    served = first + maximum(requests.output_tokens - 1, 0) * tpot
    per_s, waiting = running / served, flight - running
    behind = waiting / per_s
    return Steady(
        running, waiting, step, prompt, first + behind, tpot, served + behind, per_s, per_s * requests.output_tokens
    )


def static_state(step: Number, first: Number, batch: Number, requests: Requests) -> Steady:
    """A batch of requests of equal length that begin and end together, whose prompts take ``first`` seconds."""
    whole = first + maximum(requests.output_tokens - 1, 0) * step
    per_s = batch / whole
    return Steady(batch, 0, step, first / batch, first, step, whole, per_s, per_s * requests.output_tokens)


def wave_state(
    step: Number,
    first: Number,
    steps: Number,
    running: Number,
    flight: Number,
    requests: Requests,
    rates: Mapping[str, Number],
) -> Steady:
    """``flight`` requests of equal length of which ``running`` have room: they begin and end together, wave after wave.

    Parameters
    ----------
    step, first, steps
        Seconds of a step of those that run; of the prompts of a wave, which run before anything else, and in how many
        steps.
    """
    mean = first * (1 + 1 / steps) / 2
    tokens = maximum(requests.output_tokens - 1, 1)
    tpot = step + (first - mean) / tokens
    whole = rates["host/request_s"] + first + tokens * step
    per_s, waiting = running / whole, flight - running
    behind = waiting / per_s
    ttft = rates["host/request_s"] + mean
    return Steady(
        running, waiting, step, first / running, ttft + behind, tpot, whole + behind, per_s,
        per_s * requests.output_tokens,
    )  # fmt: skip


def saturated_state(step: Number, prompt: Number, most: Number, requests: Requests) -> Steady:
    """All requests at once, as many running as fit: only the throughput means something."""
    whole = requests.output_tokens * step + most * prompt
    per_s = most / whole
    each = whole / requests.output_tokens
    return Steady(most, 0, step, prompt, whole, each, whole, per_s, per_s * requests.output_tokens)


@dataclass(frozen=True)
class Server:
    """One replica of a served model.

    Attributes
    ----------
    model, machine, rates
        What runs, on what, at which rates.
    budget
        New tokens of a step at most.
    most
        Sequences that run at a time at most: by the scheduler and by the cache.
    """

    model: ServedModel
    machine: Machine
    rates: Mapping[str, Number]
    budget: Number
    most: Number

    def without_clients(self) -> Server:
        """The same fed by a script in its own process: nobody is sent a token at a time."""
        return replace(self, rates=without_clients(self.rates))

    def step(self, batch: StepBatch) -> Number:
        """Seconds of a step."""
        return time_step(self.model, batch, self.machine, self.rates).seconds

    def decoding(self, running: Number, requests: Requests) -> Number:
        """Seconds of a step in which sequences decode and nothing else happens."""
        return self.step(decoding_batch(running, requests))

    def prompt(self, running: Number, requests: Requests) -> Number:
        """Seconds that the prompt of one request adds to the steps of those that decode."""
        both = self.step(mixed_batch(running, requests, self.budget))
        return requests.prompt_steps(self.budget) * (both - self.decoding(running, requests))

    def prompts_alone(self, count: Number, requests: Requests) -> Number:
        """Seconds of the prompts of requests that arrive at once, none decoding."""
        batch, steps = prompt_batch(count, requests, self.budget)
        return steps * self.step(batch)

    def closed_loop(self, concurrency: Number, requests: Requests) -> Steady:
        """A fixed number of requests in flight, a new one for each that ends."""
        running = minimum(concurrency, self.most)
        step, prompt = self.decoding(running, requests), self.prompt(running, requests)
        return closed_state(step, prompt, running, concurrency, requests, self.rates)

    def waves(self, concurrency: Number, requests: Requests) -> Steady:
        """A fixed number of requests of equal length in flight whose prompts run before anything else."""
        running = minimum(concurrency, self.most)
        batch, steps = prompt_batch(running, requests, self.budget)
        step, first = self.decoding(running, requests), steps * self.step(batch)
        return wave_state(step, first, steps, running, concurrency, requests, self.rates)

    def static_batch(self, batch: Number, requests: Requests) -> Steady:
        """A batch of requests of equal length that begin and end together."""
        return static_state(self.decoding(batch, requests), self.prompts_alone(batch, requests), batch, requests)

    def saturated(self, requests: Requests) -> Steady:
        """All requests at once, as many running as fit."""
        step, prompt = self.decoding(self.most, requests), self.prompt(self.most, requests)
        return saturated_state(step, prompt, self.most, requests)

    def open_loop(self, rate: Number, requests: Requests) -> Steady:
        """Requests that arrive at a rate, at random, whatever is in flight.

        In the mean ``step / (1 - b)`` passes between tokens, with ``b`` the share of the time that prompts add. A step
        that takes long lets more requests in, whose prompts make the next one long: arrivals feed on themselves with a
        ratio ``beta`` of offspring, the number of sequences varies ``1 / (1 - beta)**2`` times as much as that of a
        Poisson process (Hawkes), and tokens see the larger batches. Above the highest rate that can be served, the
        state at that rate; ``requests_per_s`` says so.
        """
        n, chunks = requests.output_tokens, requests.prompt_steps(self.budget)
        between = _fixed_point(lambda own: self._in_flight(own, rate, requests), self.most, 0 * rate + 1)
        step, prompt = self.decoding(between, requests), self.prompt(between, requests)
        slope = self.decoding(between + 1, requests) - step
        busy = minimum(rate * prompt, BUSIEST)
        offspring = minimum(rate * (prompt + n * slope), MOST_OFFSPRING)
        spread = 1 / (1 - offspring) ** 2
        lone = minimum(busy, MOST_OFFSPRING)
        clustered = maximum(spread - 1 / (1 - lone**2), 0)
        tpot = step / (1 - busy) + slope * spread + prompt * clustered / (2 * n)
        long_share = minimum(rate * (chunks * step + prompt), BUSIEST)
        residual = (long_share * (step + prompt / chunks) + (1 - long_share) * step) / 2
        queue = residual + 2 * residual * rate * prompt / (1 - busy)
        first = self.rates["host/request_s"] + chunks * step + prompt + queue
        served = first + maximum(n - 1, 0) * tpot
        per_s = minimum(rate, self.saturated(requests).requests_per_s)
        running = minimum(per_s * n * tpot, self.most)
        return Steady(running, 0, step, prompt, first, tpot, served, per_s, per_s * n)

    def _in_flight(self, running: Number, rate: Number, requests: Requests) -> Number:
        """Sequences that decode at a time, at the step that so many of them lead to."""
        busy = minimum(rate * self.prompt(running, requests), BUSIEST)
        return rate * requests.output_tokens * self.decoding(running, requests) / (1 - busy)


def without_clients(rates: Mapping[str, Number]) -> dict[str, Number]:
    """Constants of an engine without what requests and tokens of clients cost."""
    return {**rates, "host/sequence_layer_s": 0.0, "host/request_s": 0.0}


def _fixed_point(change: Callable[[Number], Number], most: Number, start: Number) -> Number:
    """Where a rising function of the batch meets the batch, or the largest batch: by damped steps."""
    value = minimum(start, most)
    for _ in range(ROUNDS):
        value = minimum((value + minimum(maximum(change(value), LEAST), most)) / 2, most)
    return value


LEAST = 1e-9
"""Sequences in flight of a server that hardly ever has one."""
