"""A layer kind with names of its own has adapters, recomputation, a state and its cached form by its tags."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmsim.architecture import Architecture
from llmsim.core.operators import LayerBuilder, Operator, Tensor, renamed
from llmsim.core.state import derive_state
from llmsim.layers.attention import HEADS
from llmsim.layers.base import LayerKind, Norm, layer_input, residual
from llmsim.plans.adapters import adapted
from llmsim.plans.recompute import parse_recompute, regions
from llmsim.plans.training import TrainingPlan
from llmsim.timing.columns import Columns, kind_sizes
from llmsim.timing.forward_flops import layer_forward_flops
from llmsim.timing.structure import Structure, layer_state
from llmsim.training.simulate import simulate_training

STACK = Structure("megatron-core", sequence_parallel=False)
PLAN = TrainingPlan(sequence_length=2048, global_batch_size=16, data_parallel=8, recompute="none")


def whirl(b: LayerBuilder, x: Tensor) -> Tensor:
    """Attention to keys that a kept stem expands to, and a recurrence behind it."""
    ask = b.linear("whirl_ask", x, "hidden", "heads head_dim", tags="attention q")
    stem = b.linear("whirl_stem", x, "hidden", "kv_rank", state=True)
    keys, values = (b.linear(f"whirl_{n}", stem, "kv_rank", "heads head_dim", tags="attention") for n in ("on", "to"))
    reads = [ask, renamed(keys, sequence="context"), renamed(values, sequence="context")]
    seen = b.op("whirl_look", "attention", reads, HEADS, over="context", tags="core_attn")
    turned = b.op("whirl_turn", "activation", [seen], HEADS, states="batch heads head_dim")
    return b.linear("whirl_back", turned, "heads head_dim", "hidden", tags="attention attention_out")


def spring(b: LayerBuilder, x: Tensor) -> Tensor:
    with b.tagged("mlp"):
        wide = b.linear("spring_out", x, "hidden", "ffn", tags="up")
        bent = b.op("spring_bend", "activation", [wide], "batch sequence ffn", tags="mlp_act")
        return b.linear("spring_in", bent, "ffn", "hidden", tags="down")


def operators() -> tuple[Operator, ...]:
    b, norm = LayerBuilder(), Norm()
    residual(b, residual(b, layer_input(), "whirl", whirl, norm), "spring", spring, norm)
    return tuple(b.operators)


LLAMA = Architecture.from_config("llama-3.2-1b")
(GQA,) = LLAMA.kinds.values()
KIND = LayerKind("whirl+spring", operators(), {**GQA.sizes, "kv_rank": 256}, window=None, causal=True)
MODEL = replace(LLAMA, kinds={KIND.name: KIND}, layers=(KIND.name,) * len(LLAMA.layers))


@pytest.mark.parametrize(
    ("target", "products"),
    [
        ("all", {"whirl_ask", "whirl_on", "whirl_to", "whirl_back", "spring_out", "spring_in"}),
        ("attention", {"whirl_ask", "whirl_on", "whirl_to", "whirl_back"}),
        ("mlp", {"spring_out", "spring_in"}),
        ("q,down", {"whirl_ask", "spring_in"}),
    ],
)
def test_adapters_are_beside_what_is_tagged(target: str, products: set[str]) -> None:
    (kind,) = adapted(MODEL, f"lora:8:{target}").kinds.values()
    assert {op.name.removesuffix(".adapted") for op in kind.operators if op.name.endswith(".adapted")} == products


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        ("core_attn", {"whirl_look"}),
        ("mlp", {"spring_out", "spring_bend", "spring_in"}),
        ("mlp_act", {"spring_bend"}),
        ("layernorm", {"whirl_norm", "spring_norm"}),
    ],
)
def test_modules_are_recomputed_by_their_tags(setting: str, names: set[str]) -> None:
    (region,) = regions(KIND.operators, parse_recompute(f"selective:{setting}"))
    assert region.operators == names
    (kept,) = regions(KIND.operators, parse_recompute("selective:projections"))
    assert kept.keep_outputs == {"whirl_ask", "whirl_back"}


def test_it_keeps_what_it_marks_and_expands_it_at_every_position() -> None:
    state = derive_state(KIND.operators, STACK.sharding)
    assert layer_state(KIND, STACK) == state
    heads, width = KIND.sizes["heads"], KIND.sizes["head_dim"]
    sizes = kind_sizes(KIND, Columns(16, 1, 1, cached=84), STACK)
    assert sizes.size(state.tokens) == 100 * 256 * 2
    assert sizes.size(state.sequences) == heads * width * 4
    expanding = 2 * 256 * 2 * heads * width
    first, later = (float(layer_forward_flops(KIND, STACK, Columns(16, 1, 1, cached=c))) for c in (0, 84))
    assert later - first == 84 * (expanding + 16 * 2 * 2 * heads * width)


@pytest.mark.parametrize("change", [{"adapter": "lora:8"}, {"recompute": "selective:core_attn,mlp"}])
def test_it_is_trained_with_both(change: dict[str, str]) -> None:
    plain, changed = (simulate_training(p, MODEL, "1x8xh100-sxm-80gb") for p in (PLAN, PLAN.replace(**change)))
    assert changed.fullest.memory_bytes["activations"] != plain.fullest.memory_bytes["activations"]
