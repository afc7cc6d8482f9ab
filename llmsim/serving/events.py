"""Continuous batching of one replica as a simulation of its steps.

In each step sequences that decode get a token each, a prompt that is under way goes on, and prompts that wait begin in
order of arrival, while the budget of new tokens, the seats and the blocks of the cache allow. Where blocks run out, the
newest sequence gives up its own and is computed again later. An iteration costs the same whatever the batch: what
changes from one to the next are sums, and what happens to a sequence is known when it starts to decode. Iterations in
which nothing happens to any sequence are taken at once. Time is counted in whole picoseconds, so that both ways agree
exactly.

References
----------
Iteration-level scheduling: Yu 2022 (Orca), OSDI. Paged caches, preemption: Kwon 2023, arXiv:2309.06180. Chunked
prompts: Agrawal 2024, arXiv:2403.02310.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from heapq import heappop, heappush
from math import isqrt

from .prefix_cache import PrefixCache
from .request_log import RequestLog, Scheduler
from .step_clock import StepClock

_CROSSES, _ENDS = 0, 1


class Replica:
    """One replica under the requests of its clients.

    Parameters
    ----------
    clock, scheduler
        How long steps take, and what they may hold.
    wished
        When clients want to send their requests, picoseconds, in order.
    inputs, outputs, cached
        Tokens of each request; of the input, those that a prefix cache has from the beginning.
    prefixes
        Of each request, the group whose prefix it begins with, and the tokens of the prefix; none begin with one that
        others have by default.
    in_flight
        Requests that clients have out at a time at most; None for no limit.
    before
        Picoseconds that a request takes to reach the engine.
    skipping
        Whether iterations in which nothing happens are taken at once. Nothing else changes.
    """

    def __init__(
        self,
        clock: StepClock,
        scheduler: Scheduler,
        wished: Sequence[int],
        inputs: Sequence[int],
        outputs: Sequence[int],
        cached: Sequence[int] | None = None,
        prefixes: Sequence[tuple[int, int]] | None = None,
        *,
        in_flight: int | None = None,
        before: int = 0,
        skipping: bool = True,
    ) -> None:
        count = len(wished)
        self.clock, self.scheduler, self.skipping = clock, scheduler, skipping
        self.wished, self.inputs, self.outputs, self.before = wished, inputs, outputs, before
        self.cached = cached if cached is not None else [0] * count
        self.prefixes, self.prefix_cache = prefixes, PrefixCache()
        self.shared = [0] * (count if prefixes else 0)
        self.log = RequestLog(count)
        self.now = self.it = 0
        self.free = scheduler.blocks
        self.queue: deque[int] = deque()
        self.running: dict[int, int] = {}
        self.partial, self.have = -1, 0
        self.blocked = False
        self.decoding = self.context = 0
        self.need = [0] * scheduler.block_tokens
        self.offset, self.last = [0] * count, [0] * count
        self.known = [0] * count
        self.events: list[tuple[int, int, int, int, int]] = []
        self.below = [0] * len(clock.windows)
        self.seen = [0] * len(clock.windows)
        self._serial = self._gap = 0
        self.unsent = min(count, in_flight or count)
        self.pending: deque[tuple[int, int]] = deque()
        for request in range(self.unsent):
            self._send(request, wished[request])

    def run(self) -> RequestLog:
        """Until nothing is left to do."""
        while self.pending or self.queue or self.running:
            self._arrive()
            if not self.queue and not self.running:
                if self.pending:
                    self.now = max(self.now, self.pending[0][0])
                continue
            if not (self.skipping and self.decoding and self._skip()):
                self._step()
            events = self.events
            while events and events[0][0] <= self.it:
                self._happen(heappop(events))
        return self.log

    # --- requests come and go ---------------------------------------------------------------------------------------

    def _send(self, request: int, time: int) -> None:
        self.log.sent[request] = time
        self.pending.append((time + self.before, request))

    def _arrive(self) -> None:
        pending, now = self.pending, self.now
        while pending and pending[0][0] <= now:
            request = pending.popleft()[1]
            if self._blocks(self.inputs[request] + self.outputs[request] - 1) > self.scheduler.blocks:
                self._leave()  # longer than the whole cache: refused
            else:
                self.queue.append(request)

    def _leave(self) -> None:
        """A client has its answer and sends what is next."""
        if self.unsent < len(self.wished):
            self._send(self.unsent, max(self.wished[self.unsent], self.now))
            self.unsent += 1

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.scheduler.block_tokens)

    # --- one iteration ----------------------------------------------------------------------------------------------

    def _step(self) -> None:
        """Schedule one iteration and let it pass."""
        slot, before = self.it % self.scheduler.block_tokens, self.log.preemptions
        tokens = duration = 0
        ended: list[int] = []
        if self.scheduler.mixed:
            self._take_needed(slot)
            admits = not self.blocked and before == self.log.preemptions
            if self.partial >= 0 or (self.queue and admits):
                tokens, duration = self._prompts(self.scheduler.budget - self.decoding, ended, admits)
            self._pass(self.decoding, tokens, duration)
        else:
            if self.partial >= 0 or (self.queue and not self.blocked):
                tokens, duration = self._prompts(self.scheduler.budget, ended, not self.blocked)
            if tokens:
                self._pass(0, tokens, duration)
            else:
                self._take_needed(slot)
                self._pass(self.decoding, 0, 0)
        for request in ended:
            self._join(request)

    def _take_needed(self, slot: int) -> None:
        """The blocks that decoding sequences begin in this iteration."""
        need = self.need
        while need[slot] > self.free:
            freed = self.prefix_cache.evict(need[slot] - self.free) if self.prefixes else 0
            self.free += freed
            if not freed:
                self._preempt()
        self.free -= need[slot]

    def _pass(self, decoding: int, tokens: int, duration: int) -> None:
        """Time of a step in which so many sequences decode beside prompts."""
        if not decoding and not tokens:
            return
        duration += self.clock.rows(decoding, tokens)
        if decoding:
            duration += self._attention()
            self.context += decoding
            for n, below in enumerate(self.below):
                self.seen[n] += below
            self.it += 1
        self.now += duration
        if self.decoding:
            self._gap += duration
        self._record(decoding, 1, tokens)
        if decoding:
            self._gap = 0

    def _record(self, decoding: int, repeats: int, tokens: int) -> None:
        log = self.log
        used = self.scheduler.blocks - self.free
        if decoding:
            log.gaps.append(self._gap)
            log.batches.append(decoding)
            log.repeats.append(repeats)
        log.times.append(self.now)
        log.waiting.append(len(self.queue))
        log.used.append(used)
        log.iterations += repeats
        log.prompt_tokens += tokens
        log.busiest = max(log.busiest, used)

    def _attention(self) -> int:
        """Picoseconds of attention of all that decode."""
        duration = self.clock.token_ps * self.context
        for (_, rate), seen in zip(self.clock.windows, self.seen, strict=True):
            duration += rate * seen
        return duration

    def _prompts(self, left: int, ended: list[int], admits: bool) -> tuple[int, int]:
        """Chunks of prompts within what is left of the budget: their tokens and picoseconds of their attention."""
        tokens = duration = 0
        while left > 0:
            request = self.partial
            if request < 0:
                if not (admits and self.queue) or len(self.running) >= self.scheduler.seats:
                    break
                request, self.have = self.queue[0], 0
            held, goal = self.have, self.inputs[request] + self.known[request]
            found = self._found(request, goal) if self.prefixes and not held else 0
            start = held or found or self._reused(request, goal)
            chunk = min(left, goal - start)
            wanted = self._blocks(start + chunk) - self._blocks(max(held, found))
            if found:
                self._hold(request, found)
            if wanted > self.free and self.prefixes:
                self.free += self.prefix_cache.evict(wanted - self.free)
            if wanted > self.free:
                if found:
                    self._let_go(request)
                if self.partial >= 0 and len(self.running) > 1:
                    self._preempt()
                else:
                    self.blocked = True
                break
            if self.partial < 0:
                self.queue.popleft()
                self.running[request] = -1
                if self.prefixes and self.prefixes[request][0] >= 0:
                    self.log.prefix_lookups += 1
                    self.log.prefix_hits += found > 0
            self.free -= wanted
            duration += self.clock.chunk(chunk, start)
            tokens += chunk
            left -= chunk
            self.have = start + chunk
            self.partial = request
            if self.have == goal:
                self.partial = -1
                ended.append(request)
        return tokens, duration

    def _reused(self, request: int, goal: int) -> int:
        """Tokens that need no computing: whole blocks that a prefix cache has, one token less than all at most."""
        size = self.scheduler.block_tokens
        return min(self.cached[request], goal - 1) // size * size

    def _found(self, request: int, goal: int) -> int:
        """Tokens of the prefix of a request that the cache has."""
        assert self.prefixes is not None
        group, tokens = self.prefixes[request]
        if group < 0 or group not in self.prefix_cache:
            return 0
        size = self.scheduler.block_tokens
        return min(tokens, goal - 1) // size * size

    def _hold(self, request: int, tokens: int) -> None:
        assert self.prefixes is not None
        self.prefix_cache.hold(self.prefixes[request][0])
        self.shared[request] = tokens // self.scheduler.block_tokens

    def _let_go(self, request: int) -> int:
        """Blocks of a request that are its prefix's and stay, no longer held by it."""
        if not self.prefixes or not self.shared[request]:
            return 0
        blocks, self.shared[request] = self.shared[request], 0
        self.prefix_cache.release(self.prefixes[request][0])
        return blocks

    def _share(self, request: int) -> None:
        """A prompt that is done leaves its prefix to others."""
        assert self.prefixes is not None
        group, tokens = self.prefixes[request]
        blocks = min(tokens, self.inputs[request]) // self.scheduler.block_tokens
        if group >= 0 and blocks and group not in self.prefix_cache:
            self.prefix_cache.add(group, blocks)
            self.shared[request] = blocks

    # --- sequences begin to decode, end, and give way ---------------------------------------------------------------

    def _join(self, request: int) -> None:
        """A prompt is done: its first token is out, the others follow one an iteration."""
        log, it = self.log, self.it
        held = self.inputs[request] + self.known[request]
        if not self.known[request]:
            log.first[request] = self.now
        if self.prefixes and not self.shared[request]:
            self._share(request)
        left = self.outputs[request] - self.known[request] - 1
        if not left:
            self._end(request, held)
            return
        self._serial = serial = self._serial + 1
        self.running[request] = serial
        self.offset[request] = held - it
        self.last[request] = it + left
        self.decoding += 1
        self.context += held
        self.need[(it - held) % self.scheduler.block_tokens] += 1
        heappush(self.events, (it + left, _ENDS, serial, request, 0))
        for n, (window, _) in enumerate(self.clock.windows):
            self.seen[n] += min(held, window)
            if held < window:
                self.below[n] += 1
                heappush(self.events, (it + window - held, _CROSSES, serial, request, n))

    def _happen(self, event: tuple[int, int, int, int, int]) -> None:
        _, kind, serial, request, window = event
        if self.running.get(request) != serial:
            return
        if kind == _CROSSES:
            self.below[window] -= 1
        else:
            self._end(request, self._withdraw(request))

    def _withdraw(self, request: int) -> int:
        """Take a sequence out of what decodes; the tokens that it has cached."""
        held = self.it + self.offset[request]
        self.decoding -= 1
        self.context -= held
        self.need[-self.offset[request] % self.scheduler.block_tokens] -= 1
        for n, (window, _) in enumerate(self.clock.windows):
            self.seen[n] -= min(held, window)
            if held < window:
                self.below[n] -= 1
        return held

    def _end(self, request: int, held: int) -> None:
        self.log.end[request] = self.now
        self.free += self._blocks(held) - self._let_go(request)
        del self.running[request]
        self.blocked = False
        self._leave()

    def _preempt(self) -> None:
        """The newest sequence gives up its blocks and goes back to the head of the queue."""
        request = next(reversed(self.running))
        if request == self.partial:
            held, self.partial = self.have, -1
        else:
            self.known[request] = self.outputs[request] - (self.last[request] - self.it)
            held = self._withdraw(request)
        del self.running[request]
        self.free += self._blocks(held) - self._let_go(request)
        self.blocked = False
        self.queue.appendleft(request)
        self.log.preemptions += 1

    # --- iterations in which nothing happens ------------------------------------------------------------------------

    def _skip(self) -> bool:
        """Take the iterations up to the next event, arrival or lack of blocks at once; False where there are none."""
        full = len(self.running) >= self.scheduler.seats
        if self.partial >= 0 or (self.queue and not self.blocked and not full):
            return False
        size, decoding = self.scheduler.block_tokens, self.decoding
        count = min(self.events[0][0] - self.it, size * (self.free // decoding))
        if count < 2:
            return False
        each = self.clock.rows(decoding) + self._attention()
        growth = self.clock.token_ps * decoding
        for (_, rate), below in zip(self.clock.windows, self.below, strict=True):
            growth += rate * below
        if self.pending and not self.queue and not full:
            count = min(count, _starts_before(self.pending[0][0] - self.now, each, growth))
            if count < 2:
                return False
        rounds, rest = divmod(count, size)
        used = rounds * decoding
        for step in range(self.it, self.it + rest):
            used += self.need[step % size]
        whole = count * each + growth * (count * (count - 1) // 2)
        self.free -= used
        self.now += whole
        self.it += count
        self.context += decoding * count
        for n, below in enumerate(self.below):
            self.seen[n] += below * count
        # Tokens of those that waited for prompts come first.
        if self._gap:
            self._gap += each
            self._record(decoding, 1, 0)
            whole, count = whole - each, count - 1
        self._gap = whole // count
        self._record(decoding, count, 0)
        self._gap = 0
        return True


def _starts_before(span: int, each: int, growth: int) -> int:
    """How many iterations start before ``span`` from now, if the first takes ``each`` and others ``growth`` more."""
    if not growth:
        return -(-span // each)
    linear = 2 * each - growth
    count = (isqrt(linear * linear + 8 * growth * span) - linear) // (2 * growth)
    count = max(count, 0)

    def start(n: int) -> int:
        return n * each + growth * (n * (n - 1) // 2)

    while start(count) < span:
        count += 1
    while count and start(count - 1) >= span:
        count -= 1
    return count
