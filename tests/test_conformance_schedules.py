"""Orders of pipeline schedules against the tables of torch.distributed.pipelining, node by node."""

import re
from itertools import product
from pathlib import Path

import pytest

pytest.importorskip("torch")

from llmsim.measure.pipelines import TORCH_NAMES, torch_orders, torch_table, walk
from llmsim.training.longest_path import longest_path
from llmsim.training.orders import device_order, held, most_held, routes

pytestmark = pytest.mark.torch

STAGES, MICRO_BATCHES = (1, 2, 3, 4, 8, 16), (1, 2, 4, 8, 12, 16, 24, 64)
CHUNKS = {"gpipe": (1,), "1f1b": (1,), "interleaved": (2, 3), "interleaved-zb": (2, 3)}


def takes(schedule, p, m):
    """Numbers that both are defined for: torch's 1F1B wants a micro-batch a stage, its groups of interleaving may be
    larger than ours."""
    rounds = max(1, m // p)
    allowed = {
        "1f1b": m >= p,
        "interleaved": m % p == 0,
        "interleaved-zb": m % rounds == 0,
        "dualpipe-v": m >= 2 * p,
    }
    return allowed.get(schedule, True)


SHAPES = [
    (s, p, v, m)
    for s in TORCH_NAMES
    for v, p, m in product(CHUNKS.get(s, (2,)), STAGES, MICRO_BATCHES)
    if takes(s, p, m)
]


WALKED = [s for s in SHAPES if s[1] in (2, 4, 16) and s[3] in (8, 64)]


def test_the_documented_numbers():
    text = (Path(__file__).parents[1] / "docs" / "conformance.md").read_text(encoding="utf-8")
    shapes, walked = re.search(r"rank: (\d+)\s+shapes .* In (\d+) more", text, re.DOTALL).groups()
    assert (int(shapes), int(walked)) == (len(SHAPES), 2 * len(WALKED))


@pytest.mark.parametrize("schedule", TORCH_NAMES)
def test_orders_are_those_of_torch(schedule):
    shapes = [shape for shape in SHAPES if shape[0] == schedule]
    assert len(shapes) > 20
    for name, p, v, m in shapes:
        ours = [device_order(name, i, p, v, m) for i in range(p)]
        theirs = torch_orders(name, p, v, m)
        assert ours == theirs, (name, p, v, m)
        # Held at once: until the gradients of inputs, and until those of weights.
        assert list(map(most_held, ours)) == list(map(most_held, theirs))
        for i, order in enumerate(theirs):
            late = {"F": 1, "<": 1, "B": -1, "&": -1, "W": -1}
            now = most = 0
            for kind, _, _ in order:
                now += late.get(kind, 0)
                most = max(most, now)
            assert max(map(sum, held(name, i, p, v, m))) == most


@pytest.mark.parametrize("schedule", TORCH_NAMES)
@pytest.mark.parametrize("unequal", [False, True])
def test_makespans_are_those_of_torch(schedule, unequal):
    few = [s for s in WALKED if s[0] == schedule]
    assert few
    for name, p, v, m in few:
        way = routes(name, p, v)[0]
        parts = range(len(way))
        cost = {
            kind: [1.0 + unequal * ((7 * k + 3 * n) % 11) / 8 for k in parts] for n, kind in enumerate(("F", "I", "W"))
        }
        cost["B"] = [i + w for i, w in zip(cost["I"], cost["W"], strict=True)]
        hop = 0.25 * unequal
        by_device = {kind: [[0.0] * v for _ in range(p)] for kind in cost}
        for kind, (k, (i, c)) in product(cost, enumerate(way)):
            by_device[kind][i][c] = cost[kind][k]
        ours = longest_path(name, by_device["F"], by_device["B"], m, hop, by_device["W"]).seconds
        theirs = walk(torch_table(name, p, v, m), lambda kind, part, cost=cost: cost[kind][part], hop)
        assert ours == pytest.approx(theirs, rel=1e-12), (name, p, v, m)
