"""What an engine allows in a step, and what happened to requests and iterations."""

from __future__ import annotations

from array import array
from dataclasses import dataclass


@dataclass(frozen=True)
class Scheduler:
    """What an engine allows in a step.

    Attributes
    ----------
    seats, budget
        Sequences at a time, and new tokens of a step.
    blocks, block_tokens
        Of the cache.
    mixed
        Whether prompts share steps with decoding sequences; if not, these wait while prompts run.
    """

    seats: int
    budget: int
    blocks: int
    block_tokens: int
    mixed: bool = True


class RequestLog:
    """What happened, in picoseconds.

    Attributes
    ----------
    sent, first, end
        Of each request: when its client sent it, its first token, its last; -1 for what did not happen.
    gaps, batches, repeats
        Of runs of equal iterations: how long one takes for those that decode, how many decode, how many iterations.
    preemptions, iterations, prompt_tokens
        How many.
    busiest
        Blocks of the cache in use, at most.
    times, waiting, used
        At the end of each run of iterations: the time, requests that wait, and blocks in use.
    prefix_hits, prefix_lookups
        Prompts that found their shared prefix in the cache, and all that have one.
    """

    def __init__(self, count: int) -> None:
        self.sent, self.first, self.end = (array("q", [-1]) * count for _ in range(3))
        self.gaps, self.batches, self.repeats = array("q"), array("q"), array("q")
        self.times, self.waiting, self.used = array("q"), array("q"), array("q")
        self.preemptions = self.iterations = self.prompt_tokens = self.busiest = 0
        self.prefix_hits = self.prefix_lookups = 0
