"""The simulation of an engine's steps, against one that visits every sequence in every iteration."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from llmsim import Architecture, Cluster
from llmsim.cli import app
from llmsim.core.errors import InputError
from llmsim.plans.serving import ServingPlan
from llmsim.serving.capacity import highest_rate
from llmsim.serving.events import Replica
from llmsim.serving.prepare import Prepared, prepare
from llmsim.serving.replay import Distribution, Objective, simulate_workload
from llmsim.serving.request_log import Scheduler
from llmsim.serving.served_model import StepBatch
from llmsim.serving.simulate import simulate_serving
from llmsim.serving.steady_state import Requests
from llmsim.serving.step_clock import PICOSECONDS, StepClock
from llmsim.serving.step_time import time_step
from llmsim.serving.workload import Workload, generated, read_trace


def prepared(model: str, cluster: str, **fields: object) -> Prepared:
    return prepare(ServingPlan.parse(fields), Architecture.from_config(model), Cluster.parse(cluster))


DENSE = prepared("llama-3-8b", "1x1xh100-sxm-80gb")
WINDOWED = prepared("gpt-oss-20b", "1x1xh100-sxm-80gb")
CLOCKS = [StepClock(own.server(Requests(500, 300))) for own in (DENSE, WINDOWED)]
MODELS = [
    ("llama-3-8b", "1x1xh100-sxm-80gb", {}),
    ("gpt-oss-120b", "1x2xh100-sxm-80gb", {"tensor_parallel": 2}),
    ("gemma3-12b", "1x1xh100-sxm-80gb", {}),
    ("deepseek-v3", "1x8xb200-sxm-180gb", {"tensor_parallel": 8, "weights": "fp8"}),
    ("qwen3-next-80b-a3b", "1x4xh100-sxm-80gb", {"tensor_parallel": 2}),
]


class Naive:
    """The same rules, one sequence at a time: nothing is summed, nothing is known in advance."""

    def __init__(self, clock: StepClock, rules: Scheduler, workload: Workload, before: int) -> None:
        self.clock, self.rules, self.before = clock, rules, before
        self.inputs, self.outputs = workload.inputs.tolist(), workload.outputs.tolist()
        self.wished = [round(t * PICOSECONDS) for t in workload.sent_s.tolist()]
        self.limit = workload.in_flight or len(workload)
        self.cached = [0] * len(workload)
        self.made = [0] * len(workload)
        self.first, self.end = [-1] * len(workload), [-1] * len(workload)
        self.prompting: set[int] = set()

    def blocks(self, tokens: int) -> int:
        return -(-tokens // self.rules.block_tokens)

    def run(self) -> tuple[list[int], list[int]]:
        now, sent = 0, min(self.limit, len(self.wished))
        arriving = [(self.wished[n] + self.before, n) for n in range(sent)]
        queue: list[int] = []
        running: list[int] = []
        while arriving or queue or running:
            while arriving and arriving[0][0] <= now:
                queue.append(arriving.pop(0)[1])
            if not queue and not running:
                now = arriving[0][0]
                continue
            now, ended = self.step(now, queue, running)
            for n in ended:
                self.end[n] = now
                running.remove(n)
                if sent < len(self.wished):
                    arriving.append((max(self.wished[sent], now) + self.before, sent))
                    sent += 1
        return self.first, self.end

    def used(self, running: list[int]) -> int:
        return sum(self.blocks(self.cached[n]) for n in running)

    def give_up(self, queue: list[int], running: list[int]) -> None:
        newest = running.pop()
        self.cached[newest] = 0
        self.prompting.discard(newest)
        queue.insert(0, newest)

    def step(self, now: int, queue: list[int], running: list[int]) -> tuple[int, list[int]]:
        rules = self.rules
        preempted = False

        def decodes(n: int) -> bool:
            return n not in self.prompting

        chunks: list[tuple[int, int, int]] = []
        while True:
            decoding = [n for n in running if decodes(n)]
            growth = sum(self.blocks(self.cached[n] + 1) - self.blocks(self.cached[n]) for n in decoding)
            if self.used(running) + growth <= rules.blocks:
                break
            self.give_up(queue, running)
            preempted = True
        held = self.used(running) + growth
        left = rules.budget - len(decoding)
        started = [n for n in running if not decodes(n)]
        while left > 0 and not (preempted and not started):
            if started:
                n = started[0]
            elif queue and len(running) < rules.seats:
                n = queue[0]
            else:
                break
            chunk = min(left, self.inputs[n] + self.made[n] - self.cached[n])
            wanted = self.blocks(self.cached[n] + chunk) - self.blocks(self.cached[n])
            if held + wanted > rules.blocks:
                if started and len(running) > 1:
                    self.give_up(queue, running)
                break
            if not started:
                running.append(queue.pop(0))
                self.prompting.add(n)
            started = []
            held += wanted
            chunks.append((n, chunk, self.cached[n]))
            self.cached[n] += chunk
            left -= chunk
            if self.cached[n] < self.inputs[n] + self.made[n]:
                break
        if not decoding and not chunks:
            return now, []
        clock = self.clock
        now += clock.rows(len(decoding), sum(chunk for _, chunk, _ in chunks))
        now += sum(clock.chunk(chunk, start) for _, chunk, start in chunks)
        for n in decoding:
            now += clock.token_ps * self.cached[n]
            now += sum(rate * min(self.cached[n], window) for window, rate in clock.windows)
        for n in decoding:
            self.cached[n] += 1
            self.made[n] += 1
        for n, _, _ in chunks:
            if self.cached[n] == self.inputs[n] + self.made[n]:
                if not self.made[n]:
                    self.first[n] = now
                self.made[n] += 1
                self.prompting.discard(n)
        return now, [n for n in running if self.made[n] == self.outputs[n]]


@st.composite
def workloads(draw: st.DrawFn) -> tuple[Workload, Scheduler, StepClock]:
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 40))
    gap = float(random.choice([1e-3, 1e-2, 0.1]))
    sent = np.sort(np.round(random.exponential(gap * count / 4, count), 12))
    inputs, outputs = random.integers(1, 400, count), random.integers(1, 300, count)
    limit = int(random.integers(1, 20)) if random.random() < 0.3 else None
    blocks = int(random.choice([45, 60, 400]))
    rules = Scheduler(int(random.integers(2, 12)), int(random.choice([64, 256])), blocks, 16)
    none = np.full(count, -1), np.zeros(count, dtype=int)
    return Workload(sent, inputs, outputs, none[1], *none, limit), rules, CLOCKS[int(random.integers(2))]


def replica(case: tuple[Workload, Scheduler, StepClock], **options: object) -> Replica:
    own, rules, clock = case
    sent = [round(t * PICOSECONDS) for t in own.sent_s.tolist()]
    columns = (own.inputs.tolist(), own.outputs.tolist(), own.cached.tolist(), own.prefixes())
    return Replica(clock, rules, sent, *columns, in_flight=own.in_flight, before=1000, **options)  # type: ignore[arg-type]


@settings(max_examples=250, deadline=None)
@given(workloads())
def test_naive_stepping_and_skipping_agree_to_the_picosecond(case: tuple[Workload, Scheduler, StepClock]) -> None:
    first, end = Naive(case[2], case[1], case[0], 1000).run()
    for skipping in (False, True):
        own = replica(case, skipping=skipping)
        log = own.run()
        assert list(log.first) == first
        assert list(log.end) == end
        assert own.free == case[1].blocks
        assert (own.decoding, own.context, sum(own.need), own.seen) == (0, 0, 0, [0] * len(case[2].windows))
        tokens = sum(b * n for b, n in zip(log.batches, log.repeats, strict=True))
        after = int(case[0].outputs.sum()) - len(case[0])  # one of a request, and of each return, comes from its prompt
        assert after - log.preemptions <= tokens <= after


@settings(max_examples=60, deadline=None)
@given(workloads(), st.integers(0, 2**32 - 1))
def test_shared_prefixes_lose_nothing(case: tuple[Workload, Scheduler, StepClock], seed: int) -> None:
    random = np.random.default_rng(seed)
    own = case[0]
    groups = random.integers(-1, 4, len(own))
    shared = np.minimum(own.inputs, np.array([50, 100, 64, 200, 0])[groups])
    whole = Workload(own.sent_s, own.inputs, own.outputs, own.cached, groups, shared, own.in_flight)
    logs = []
    for skipping in (False, True):
        engine = replica((whole, *case[1:]), skipping=skipping)
        logs.append(engine.run())
        assert engine.free + engine.prefix_cache.idle_blocks == case[1].blocks
        assert min(logs[-1].end) >= 0
    assert logs[0].end == logs[1].end
    assert logs[0].prefix_hits <= logs[0].prefix_lookups


def test_prefixes_that_nobody_shares_change_nothing() -> None:
    own = generated(80, "uniform:100:900", "uniform:10:200", rate=20, seed=4)
    alone = Workload(own.sent_s, own.inputs, own.outputs, own.cached, np.arange(80), own.inputs, None)
    rules = Scheduler(64, 2048, 20_000, 16)
    assert replica((own, rules, CLOCKS[0])).run().end == replica((alone, rules, CLOCKS[0])).run().end


def test_waiting_while_prompts_run() -> None:
    own = generated(60, "1000", "100", rate=30, seed=1)
    mixed = replica((own, Scheduler(64, 2048, 20_000, 16), CLOCKS[0])).run()
    apart = replica((own, Scheduler(64, 2048, 20_000, 16, mixed=False), CLOCKS[0])).run()
    again = replica((own, Scheduler(64, 2048, 20_000, 16, mixed=False), CLOCKS[0]), skipping=False).run()
    assert apart.end == again.end
    assert sum(apart.first) <= sum(mixed.first)  # prompts go first
    assert max(apart.gaps) > 0


@pytest.mark.parametrize(("model", "cluster", "fields"), MODELS)
def test_tabulated_steps_are_those_of_the_formulas(model: str, cluster: str, fields: dict[str, object]) -> None:
    server = prepared(model, cluster, **fields).server(Requests(1000, 1000))
    clock = StepClock(server)
    for decoding, context, tokens, cached in (
        (1, 0, 0, 0),
        (64, 3000, 0, 0),
        (200, 20_000, 700, 0),
        (9, 500, 333, 1000),
    ):
        batch = StepBatch(decoding, context, 1 if tokens else 0, tokens, cached, decoding + (1 if tokens else 0))
        seconds = float(time_step(server.model, batch, server.machine, server.rates).seconds)
        own = clock.rows(decoding, tokens) + decoding * clock.token_ps * context
        own += decoding * sum(rate * min(context, window) for window, rate in clock.windows)
        own += clock.chunk(tokens, cached) if tokens else 0
        assert own / PICOSECONDS == pytest.approx(seconds, rel=2e-3)


def test_a_single_request_is_its_prompt_and_its_tokens() -> None:
    result = simulate_workload({}, "llama-3-8b", "1x1xh100-sxm-80gb", generated(1, "1000", "100"))
    closed = simulate_serving({}, "llama-3-8b", "1x1xh100-sxm-80gb", input=1000, output=100, concurrency=1).steady
    assert result.ttft.mean == pytest.approx(float(closed.ttft_s), rel=0.02)
    assert result.tpot.mean == pytest.approx(float(closed.tpot_s), rel=0.01)
    assert result.e2e.mean == pytest.approx(result.ttft.mean + 99 * result.tpot.mean)


@pytest.mark.parametrize("load", [0.3, 0.6])
def test_closed_form_and_simulation_agree_below_saturation(load: float) -> None:
    def steady(rate: float) -> tuple[float, float]:
        own = simulate_serving({}, "llama-3-8b", "1x1xh100-sxm-80gb", input=800, output=200, rate=rate).steady
        return float(own.tpot_s), float(own.e2e_s)

    whole = simulate_serving({}, "llama-3-8b", "1x1xh100-sxm-80gb", input=800, output=200, rate=1e4).steady
    rate = load * float(whole.requests_per_s)
    result = simulate_workload({}, "llama-3-8b", "1x1xh100-sxm-80gb", generated(3000, "800", "200", rate=rate))
    tpot, e2e = steady(rate)
    assert result.tpot.mean == pytest.approx(tpot, rel=0.05)
    assert result.e2e.mean == pytest.approx(e2e, rel=0.05)


def test_littles_law_in_a_closed_loop() -> None:
    result = simulate_workload({}, "llama-3-8b", "1x1xh100-sxm-80gb",
                               generated(2000, "lognormal:600:0.5", "lognormal:200:0.5", concurrency=32))  # fmt: skip
    assert result.mean_in_flight == pytest.approx(result.requests_per_s * result.e2e.mean)
    assert result.mean_in_flight == pytest.approx(32, rel=0.03)


def test_a_further_replica_never_lowers_the_capacity() -> None:
    def most(cluster: str) -> float:
        wanted = Objective(ttft_s=1.0)
        return highest_rate(
            lambda own: simulate_workload({}, "llama-3-8b", cluster, own, objective=wanted),
            lambda rate: generated(300, "500", "100", rate=rate), wanted,
        ).rate_per_s  # fmt: skip

    one, two = most("1x1xh100-sxm-80gb"), most("1x2xh100-sxm-80gb")
    assert two > 1.5 * one > 0


def test_objectives_that_nothing_keeps() -> None:
    wanted = Objective(ttft_s=1e-6)
    found = highest_rate(
        lambda own: simulate_workload({}, "llama-3-8b", "1x1xh100-sxm-80gb", own, objective=wanted),
        lambda rate: generated(5, "500", "100", rate=rate), wanted,
    )  # fmt: skip
    assert found.rate_per_s == 0
    assert found.best is None
    with pytest.raises(InputError, match="has no limit"):
        highest_rate(lambda own: found.best, lambda rate: generated(1, 1, 1), Objective())  # type: ignore[arg-type,return-value]


def test_weighted_percentiles() -> None:
    own = Distribution.of(np.array([3.0, 1.0, 2.0]), np.array([1, 98, 1]))
    assert (own.p50, own.p99, own.highest) == (1.0, 2.0, 3.0)
    assert own.mean == pytest.approx(1.03)
    assert np.isnan(Distribution.of(np.array([])).mean)


def test_workloads_are_drawn_by_their_seed() -> None:
    one, two = (generated(500, "lognormal:800:1", "zipf:1.5:2000", rate=3, arrivals="gamma:2", seed=7) for _ in "ab")
    assert (one.sent_s == two.sent_s).all()
    assert (one.inputs == two.inputs).all()
    assert one.inputs.mean() == pytest.approx(800, rel=0.2)
    assert np.diff(one.sent_s).mean() == pytest.approx(1 / 3, rel=0.3)
    assert one.outputs.max() <= 2000


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"input": "many"}, "uniform:LOW:HIGH"), ({"input": "uniform:9:3"}, "input"), ({"output": "0"}, "output"),
        ({"input": "lognormal:800"}, "lognormal:MEAN:CV"), ({"rate": 0.0}, "rate"), ({"requests": 0}, "requests"),
        ({"rate": 1.0, "arrivals": "bursty"}, "nearest: poisson"), ({"concurrency": 0}, "at least 1"),
        ({"prefix": (0, 1)}, "at least 1 token"), ({"rate": 1.0, "arrivals": "gamma:0"}, "gamma:CV"),
    ],
)  # fmt: skip
def test_workloads_that_are_none(fields: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        generated(**{"requests": 10, "input": "100", "output": "100", **fields})  # type: ignore[arg-type]


def test_traces(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "trace.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n12.5,300,20\n10,500,30\n", encoding="utf-8")
    own = read_trace(path)
    assert own.sent_s.tolist() == [0.0, 2.5]
    assert own.inputs.tolist() == [500, 300]
    lines = tmp_path / "trace.jsonl"
    lines.write_text('{"arrival_s": 0, "prompt_len": 5, "output_len": 6}\n', encoding="utf-8")
    assert read_trace(lines).outputs.tolist() == [6]
    for text, said in (("a,b\n1,2\n", "lacks a column"), ("sent_s,input_tokens,output_tokens\n1,x,3\n", "line 2"),
                       ("sent_s,input_tokens,output_tokens\n", "no rows"),
                       ("sent_s,input_tokens,output_tokens\n-1,3,3\n", "at least 0")):  # fmt: skip
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=said):
            read_trace(path)
    lines.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="line 1"):
        read_trace(lines)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--input", "10", "--output", "10", "--concurrency", "1", "--seed", "3"], "seed: 3 has no effect"),
        (["--input", "10", "--output", "10", "--concurrency", "1", "--slo-ttft", "1"], "slo_ttft: 1.0 has no effect"),
        (["--input", "10", "--output", "10", "--rate", "1", "--max-rate", "--slo-ttft", "1"], "rate: 1.0 has no"),
        (["--input", "10", "--output", "10", "--requests", "5", "--image-tokens", "5"], "image_tokens"),
        (["--input", "10", "--output", "10", "--requests", "5", "--batch", "5"], "batch: 5.0 has no effect"),
        (["--input", "10", "--output", "10", "--requests", "5", "--prefix", "x"], "TOKENS:GROUPS"),
        (["--trace", "none.csv", "--input", "3"], "input: '3' has no effect"),
        (["--trace", "none.csv"], "none.csv"),
        (["--output", "10", "--requests", "5"], "input: None is missing"),
        (["--input", "10", "--output", "10", "--max-rate"], "has no limit"),
    ],
)
def test_no_option_is_ignored(options: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["simulate", "serve", "-m", "llama-3-8b", "-c", "1x1xh100-sxm-80gb", *options])
    assert done.exit_code == 2
    assert said in done.stderr


def test_requests_one_by_one_on_the_command_line() -> None:
    args = ["simulate", "serve", "-m", "llama-3-8b", "-c", "1x1xh100-sxm-80gb", "--input", "100", "--output", "10",
            "--requests", "20", "--rate", "5", "--json"]  # fmt: skip
    answer = json.loads(CliRunner().invoke(app, args).stdout)
    assert answer["requests"] == 20
    assert answer["ttft"]["mean"] <= answer["e2e"]["mean"]
    one, two = (CliRunner().invoke(app, args).stdout for _ in "ab")
    assert one == two
