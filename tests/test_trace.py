"""Any module: its operator table equals what torch counts, and a step of it is composed like any other."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsim import InputError, TracedModule, simulate_traced
from llmsim.training.traced import TracedBlock, TracedOperator, partition

GIB = 2**30


def module(blocks: int = 4, product: tuple[int, int, int] = (8192, 4096, 4096)) -> TracedModule:
    rows, columns, depth = product
    flops, traffic = 2 * rows * columns * depth, 2 * (rows * columns + rows * depth + columns * depth)
    names = [f"layers.{i}" for i in range(blocks)]
    operators = [
        TracedOperator(name, "mm", phase, "product", flops, traffic, rows, columns, depth)
        for name in names
        for phase in ("forward", "backward", "backward")
    ]
    return TracedModule(
        "Stack",
        "bf16",
        tuple(operators),
        tuple(TracedBlock(n, ((columns, depth),), 2 * rows * depth, 0) for n in names),
    )


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.data())
@settings(max_examples=60, deadline=None)
def test_partition_is_the_best_of_all(weights, data):
    parts = data.draw(st.integers(1, len(weights)))
    found = partition(weights, parts)
    assert [i for part in found for i in part] == list(range(len(weights)))
    assert len(found) == parts
    assert all(found)
    cuts = combinations(range(1, len(weights)), parts - 1)
    best = min(max(sum(weights[a:b]) for a, b in zip((0, *c), (*c, len(weights)), strict=True)) for c in cuts)
    assert max(sum(weights[i] for i in part) for part in found) == best


@pytest.mark.parametrize("sharding", ["ddp", "zero1", "zero2", "zero3"])
def test_breakdown_sums_to_the_step(sharding):
    result = simulate_traced(module(), "8xh100-sxm-80gb", micro_batches=4, sharding=sharding)
    assert result.step_time_s == pytest.approx(sum(result.breakdown_s.values()), rel=1e-12)
    assert result.to_dict()["schema"] == "llmsim.traced-result/1"


def test_sharding_trades_memory_for_transfers():
    held, moved = {}, {}
    for sharding in ("ddp", "zero1", "zero2", "zero3"):
        result = simulate_traced(module(), "8xh100-sxm-80gb", sharding=sharding)
        held[sharding] = sum(v for k, v in result.memory_bytes.items() if k != "unsharded")
        moved[sharding] = sum(result.breakdown_s.get(k, 0) for k in ("gradients", "parameters", "fsdp"))
    assert held["ddp"] > held["zero1"] > held["zero2"] > held["zero3"]
    assert all(v > 0 for v in moved.values())
    alone = simulate_traced(module(), "1x1xh100-sxm-80gb")
    assert alone.breakdown_s["gradients"] == alone.breakdown_s["parameters"] == 0


def test_a_pipeline_of_equal_blocks_has_the_textbook_bubble():
    whole = simulate_traced(module(8), "1x1xh100-sxm-80gb", micro_batches=16)
    staged = simulate_traced(module(8), "1x4xh100-sxm-80gb", micro_batches=16, pipeline_parallel=4)
    work = sum(v for k, v in whole.breakdown_s.items() if k in ("gemm", "memory", "attention", "host"))
    assert [len(s) for s in staged.stages] == [2, 2, 2, 2]
    assert staged.breakdown_s["bubble"] == pytest.approx(3 / 16 * work / 4, rel=0.02)  # and the latency of hops
    assert staged.memory_bytes["activations"] == 4 * 2 * module(8).blocks[0].saved_bytes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pipeline_parallel": 0}, "1 to 4"),
        ({"pipeline_parallel": 5}, "nearest: 4"),
        ({"pipeline_parallel": 3}, "divisor of 8"),
        ({"micro_batches": 0}, "from 1"),
        ({"sharding": "zero4"}, "zero3"),
        ({"sharding": "zero3", "pipeline_parallel": 2}, "zero1"),
        ({"optimizer": "adamv"}, "adamw"),
        ({"framework": "torchtitam"}, "torchtitan"),
    ],
)
def test_wrong_settings_are_named(changes, words):
    with pytest.raises(InputError, match=words):
        simulate_traced(module(), "8xh100-sxm-80gb", **changes)


torch = pytest.importorskip("torch")


@pytest.mark.torch
@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "mla"])
def test_a_table_equals_the_counts_of_operators(family):
    """The trace of a whole model against the analytical counts: FLOPs both ways, bytes kept, parameters."""
    from llmsim.measure.blocks import token_loss
    from llmsim.measure.cells import SMALL
    from llmsim.measure.conformance import derived
    from llmsim.measure.pairs import BlockSpec, model_module, token_batch
    from llmsim.measure.trace import trace

    spec = BlockSpec(family, "math" if family == "mla" else "flash", "bf16", SMALL[family])
    model = model_module(spec, 2)
    tokens, labels = token_batch(spec)
    traced = trace(model, [tokens], loss=lambda logits: token_loss(logits, labels))
    counted = derived(spec, 2)
    assert traced.flops("forward") == counted.forward_flops
    assert traced.flops("backward") == counted.backward_flops
    assert traced.saved_bytes == counted.saved_bytes
    assert traced.parameters == sum(p.numel() for p in model.parameters())
    assert sum(flops for _, flops, _ in traced.table().values()) == traced.flops()


@pytest.mark.torch
def test_blocks_are_the_elements_of_lists_and_the_parts_around_them():
    from torch import nn

    import llmsim

    layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.Linear(32, 64), nn.TransformerEncoder(layer, 3, enable_nested_tensor=False))
    traced = llmsim.trace(model, torch.zeros(2, 16, 32))
    assert [b.name for b in traced.blocks] == ["0", "1"]
    stack = nn.ModuleDict({"stem": nn.Conv2d(3, 8, 3), "tail": nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])})
    stack.forward = lambda x: stack["tail"][2](stack["tail"][1](stack["tail"][0](stack["stem"](x).mean((2, 3)))))
    traced = llmsim.trace(stack, {"x": torch.zeros(2, 3, 9, 9)})
    assert [b.name for b in traced.blocks] == ["stem", "tail.0", "tail.1", "tail.2"]
    assert [b.parameters for b in traced.blocks] == [8 * 27 + 8, 72, 72, 72]
    assert traced.flops("forward") == 2 * (2 * 49 * 8 * 27 + 3 * 2 * 8 * 8)


@pytest.mark.torch
def test_modules_that_cannot_be_traced_are_named():
    from torch import nn

    import llmsim

    with pytest.raises(InputError, match="float32"):
        llmsim.trace(nn.Identity(), torch.zeros(2))
    with pytest.raises(InputError, match="depend on values"):
        llmsim.trace(_Selecting(), torch.zeros(4, 8))


class _Selecting(torch.nn.Linear):
    def __init__(self):
        super().__init__(8, 8)

    def forward(self, x):
        rows = torch.nonzero(x[:, 0] > 0).tolist()
        return super().forward(x)[: len(rows)]
