"""Shapes and traffic of kernels, what they hold, and statistics over sharded widths."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import sympy
from core_cases import FUSED, LAYERS, kernels, values
from hypothesis import given
from hypothesis import strategies as st
from sympy import Symbol

from llmsim.core.formats import FORMATS, get_format
from llmsim.core.inventory import Inventory, KernelRow, parse_keep
from llmsim.core.messages import derive_messages
from llmsim.core.operators import LayerBuilder, Operator, Tensor, activation, index, product, weight
from llmsim.core.sharding import Sharding, mesh_sharding
from llmsim.core.terms import Sizes
from llmsim.core.transients import derive_holds, derive_transients
from llmsim.core.work import Work, derive_work
from llmsim.layers.attention import Attention
from llmsim.layers.mla import LatentAttention
from llmsim.layers.moe import MixtureOfExperts

b, s, h, f, v, a, d, t = (Symbol(n, positive=True) for n in ("b", "s", "h", "f", "v", "a", "d", "t"))
SYMBOLS = Sizes(
    {"batch": b, "sequence": s, "context": s, "hidden": h, "ffn": f, "vocab": v, "heads": a, "head_dim": d},
    {"tp": t},
    {"activation": get_format("bf16"), "residual": get_format("bf16"), "gradient": get_format("fp32"),
     "weight": get_format("bf16"), "weight_high": get_format("bf16"), "normed": get_format("bf16")},
)  # fmt: skip
WHOLE = mesh_sharding(sequence_parallel=False)
STREAM = "batch sequence hidden"
names = st.sampled_from(sorted(LAYERS))
degrees = st.fixed_dictionaries({axis: st.sampled_from([1, 2, 4]) for axis in ("tp", "ep", "dp")})


def phases(work: tuple[Work, ...]) -> dict[str, Work]:
    return {w.phase: w for w in work}


def built(build: Any, *reads: Tensor) -> tuple[Operator, ...]:
    builder = LayerBuilder()
    build(builder, *reads)
    return tuple(builder.operators)


@given(names, degrees, st.booleans(), st.sampled_from([(), FUSED]))
def test_the_shape_of_a_product_says_its_flops(
    name: str, plan: dict[str, int], sequence_parallel: bool, fused: tuple[tuple[str, ...], ...]
) -> None:
    """2 m n k, of each of the products of a training step; experts share the rows of a grouped product."""
    sizes = values(plan)
    work = derive_work(LAYERS[name], mesh_sharding(sequence_parallel=sequence_parallel), kernels(fused))
    products = [w for w in work if w.kind in ("gemm", "grouped_gemm")]
    assert {w.phase for w in products} == {"forward", "input_gradient", "weight_gradient"}
    for w in products:
        assert sizes.count(w.flops) == 2 * sizes.count(w.rows) * sizes.count(w.columns) * sizes.count(w.depth)
        assert bool(w.groups) == (w.kind == "grouped_gemm")
        assert sizes.count(w.groups) == (16 // plan["ep"] if w.groups else 0)
        assert w.launches == 1


def test_matrices_of_a_linear_layer() -> None:
    """y = x W with W of h x f: rows, columns, depth and each matrix once; a gradient is added to what is there."""
    x = activation("x", STREAM)
    work = phases(derive_work(built(lambda b, x: b.linear("up", x, "hidden", "ffn"), x), WHOLE, kernels()))
    shapes = {p: tuple(SYMBOLS.count(getattr(w, m)) for m in ("rows", "columns", "depth")) for p, w in work.items()}
    assert shapes == {
        "forward": (b * s, f / t, h),
        "input_gradient": (b * s, h, f / t),
        "weight_gradient": (h, f / t, b * s),
    }
    traffic = {p: sympy.expand(SYMBOLS.size(w.bytes)) for p, w in work.items()}
    once = 2 * b * s * h + 2 * b * s * f / t
    assert traffic["forward"] == traffic["input_gradient"] == sympy.expand(once + 2 * h * f / t)
    assert traffic["weight_gradient"] == sympy.expand(once + 2 * 4 * h * f / t)
    assert all(w.passes == 1 and not w.masked_flops and w.low_precision for w in work.values())


def test_a_product_of_what_has_no_gradient_sends_none_back() -> None:
    tokens = index("ids", STREAM)
    work = derive_work(built(lambda b, x: b.linear("up", x, "hidden", "ffn"), tokens), WHOLE, kernels())
    assert [w.phase for w in work] == ["forward", "weight_gradient"]


def test_low_precision_is_for_matrices_alone() -> None:
    table = weight("table", "hidden", "ffn", format="weight_high")
    x = activation("x", STREAM)
    (high, *_) = derive_work(
        built(lambda b, x: b.op("y", "contract", [x, table], "batch sequence ffn"), x), WHOLE, kernels()
    )
    assert not high.low_precision


@pytest.mark.parametrize(("mixer", "width"), [(Attention(), 32), (LatentAttention(), 32)])
def test_shapes_of_attention(mixer: Any, width: int) -> None:
    """Rows of queries of all heads, columns of visible positions, the width of a query for depth."""
    sizes = values({"tp": 4})
    operators = built(mixer, activation("x", STREAM))
    core = [w for w in derive_work(operators, WHOLE, kernels()) if w.kind == "attention"]
    assert [w.phase for w in core] == ["forward", "input_gradient"]
    for w in core:
        assert sizes.count(w.rows) == 16 * 512 * 16 // 4
        assert sizes.count(w.columns) == 512
        assert sizes.count(w.depth) == width
        assert w.masked_flops
        assert w.passes == 1
    forward, backward = (sizes.size(w.bytes) for w in core)
    kv_heads = 8 if isinstance(mixer, Attention) else 16
    assert forward == 2 * 16 * 512 * (2 * 16 + 2 * kv_heads) * 32 // 4
    assert backward == 2 * forward


def test_memory_bound_kernels_touch_each_tensor_once_a_pass() -> None:
    """Forward reads and writes; backward reads the written gradient and what was kept, writes gradients of reads."""
    x, y = activation("x", STREAM), activation("y", STREAM)
    stream = 2 * b * s * h
    gain = built(lambda b, x: b.norm("n", x, "hidden"), x)
    cases = {
        "add": (built(lambda b, x, y: b.op("z", "add", [x, y], STREAM), x, y), 3, 3),
        "gate": (built(lambda b, x, y: b.op("z", "gate", [x, y], STREAM), x, y), 3, 5),
        "activation": (built(lambda b, x: b.op("z", "activation", [x], STREAM), x), 2, 3),
        "norm": (gain, 2, 3),
    }
    for kind, (operators, forward, backward) in cases.items():
        work = phases(derive_work(operators, WHOLE, kernels()))
        assert SYMBOLS.size(work["forward"].bytes) == forward * stream, kind
        assert SYMBOLS.size(work["input_gradient"].bytes) == backward * stream, kind
        assert not any(w.flops or w.masked_flops for w in work.values())


def test_the_gradient_of_a_table_is_dense() -> None:
    """Zeroed, and rows added to: the table's gradient, and the looked-up rows in its format."""
    table = weight("table", "vocab", "hidden", format="weight_high")
    tokens = index("tokens", "batch sequence")
    operators = built(lambda b, i: b.op("e", "embedding", [i, table], STREAM), tokens)
    work = phases(derive_work(operators, WHOLE, kernels()))
    assert SYMBOLS.size(work["forward"].bytes) == 8 * b * s + 2 * b * s * h
    rows = 2 * b * s * h + 4 * b * s * h
    assert sympy.expand(SYMBOLS.size(work["input_gradient"].bytes) - rows - 4 * h * v / t) == 0


def test_what_an_index_selects_has_no_backward() -> None:
    operators = built(lambda b, i: b.op("z", "add", [i], "batch sequence", role="index"), index("i", "batch sequence"))
    assert [w.phase for w in derive_work(operators, WHOLE, kernels())] == ["forward"]


def test_states_of_scans_pass_through_memory() -> None:
    row = KernelRow(score_passes=(2.0, 0.0), score_format="fp32")
    operators = built(
        lambda b, x: b.op("scan", "ssm_scan", [x], STREAM, products=[product(STREAM, 3)], states="batch hidden"),
        activation("x", STREAM),
    )
    work = derive_work(operators, WHOLE, Inventory({"ssm_scan": row}))
    assert [(w.name, w.phase) for w in work] == [
        ("scan", "forward"), ("scan.states", "forward"), ("scan", "input_gradient"),
    ]  # fmt: skip
    assert [SYMBOLS.count(w.flops) for w in work] == [3 * b * s * h, 0, 6 * b * s * h]
    states = work[1]
    assert (states.passes, states.launches, SYMBOLS.size(states.bytes)) == (2, 0, 4 * b * h)
    assert [w.kind for w in work] == ["scan", "memory", "scan"]


# --- what is alive beside what is kept --------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [True, False])
def test_gradients_alive_while_a_product_runs_backward(apart: bool) -> None:
    """Of its result, of its input once, and of its matrix where it is not added in place."""
    operators = built(
        lambda b, x: [b.linear(n, x, "hidden", "ffn", bias=True) for n in ("gate", "up")], activation("x", STREAM)
    )
    one, both = 2 * b * s * f / t, kernels((("gate", "up"), ("elsewhere", "absent")))
    matrix = 4 * h * f / t if apart else 0
    found = derive_transients(operators, WHOLE, kernels(), weight_gradients=apart)
    assert [sympy.expand(SYMBOLS.size(x)) for x in found] == [one + 2 * b * s * h + matrix] * 2
    (fused,) = derive_transients(operators, WHOLE, both, weight_gradients=apart)
    assert sympy.expand(SYMBOLS.size(fused)) == 2 * one + 2 * b * s * h + 2 * matrix


def test_only_products_have_gradients_of_matrices() -> None:
    operators = built(lambda b, x: b.norm("n", x, "hidden"), activation("x", STREAM))
    (found,) = derive_transients(operators, WHOLE, kernels(), weight_gradients=True)
    assert SYMBOLS.size(found) == 4 * b * s * h


def test_kernels_hold_what_their_rows_say() -> None:
    operators = built(lambda b, x: b.op("z", "gate", [x], STREAM), activation("x", STREAM))
    row = KernelRow(backward_holds=(parse_keep("2 batch sequence as fp32"), parse_keep("batch hidden as activation")))
    held = derive_holds(operators, WHOLE, Inventory({"gate": row}))
    assert SYMBOLS.size(held) == 2 * 4 * b * s + 2 * b * h


# --- statistics over sharded widths -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "sums"), [("norm", 1), ("layer_norm", 2)])
def test_a_norm_over_a_sharded_width_sums_its_statistics(kind: Literal["norm", "layer_norm"], sums: int) -> None:
    """One 32-bit number a row: the mean square; for a layer norm the mean beside it. As many come back."""
    sharded = Sharding({"tp": (("hidden",),)})
    operators = built(lambda b, x: b.norm("n", x, "hidden", kind=kind), activation("x", STREAM))
    sent = derive_messages(operators, sharded, kernels())
    assert [(m.collective, m.axes, m.phase) for m in sent] == [
        ("all_reduce", ("tp",), phase) for phase in ("forward", "backward") for _ in range(sums)
    ]
    assert {SYMBOLS.bytes(m.payload) for m in sent} == {4 * b * s}
    assert not derive_messages(operators, WHOLE, kernels())


def test_full_norms_of_queries_are_summed_over_the_ranks_that_share_their_heads() -> None:
    operators = built(Attention(qk_norm="full"), activation("x", STREAM))
    sent = derive_messages(operators, WHOLE, kernels())
    sums = [m for m in sent if m.tensor.endswith(".statistic")]
    assert [(m.operator, m.phase) for m in sums] == [
        (name, phase) for name in ("q_norm", "k_norm") for phase in ("forward", "backward")
    ]
    assert not [m for m in derive_messages(built(Attention(qk_norm="head"), activation("x", STREAM)), WHOLE, kernels())
                if m.tensor.endswith(".statistic")]  # fmt: skip


# --- layers -----------------------------------------------------------------------------------------------------------


def test_what_a_router_chooses_is_read_by_dispatch_and_combine() -> None:
    operators = {op.name: op for op in built(MixtureOfExperts(), activation("x", STREAM))}
    assert [r.tensor.name for r in operators["dispatch"].reads] == ["x", "route"]
    assert [r.tensor.name for r in operators["combine"].reads] == ["expert_down", "route"]


# --- formats ----------------------------------------------------------------------------------------------------------

TORCH_NAMES = {"fp64": "float64", "fp32": "float32", "tf32": "float32", "bf16": "bfloat16", "fp16": "float16",
               "fp8": "float8_e4m3fn", "int64": "int64", "int32": "int32", "int8": "int8", "bool": "bool"}  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize("name", TORCH_NAMES)
def test_elements_take_what_they_take_in_torch(name: str) -> None:
    torch = pytest.importorskip("torch")
    size = torch.zeros(0, dtype=getattr(torch, TORCH_NAMES[name])).element_size()
    assert get_format(name).bytes(1000) == 1000 * size


SCALED = {
    "fp8-block": 8 + 32 / 128, "mxfp8": 8 + 8 / 32, "nvfp4": 4 + 8 / 16, "mxfp4": 4 + 8 / 32, "nf4": 4 + 8 / 64,
    "q8_0": 34 * 8 / 32, "q6_k": 210 * 8 / 256, "q5_k": 176 * 8 / 256, "q4_k": 144 * 8 / 256, "q3_k": 110 * 8 / 256,
    "q2_k": 84 * 8 / 256, "q5_0": 22 * 8 / 32, "q4_0": 18 * 8 / 32, "q4_1": 20 * 8 / 32, "iq4_xs": 136 * 8 / 256,
}  # fmt: skip


@pytest.mark.parametrize(("name", "bits"), SCALED.items())
def test_scaled_formats(name: str, bits: float) -> None:
    """Bits an element, one scale for each block (DeepSeek-V3, section 3.3; OCP MX v1.0, table 1; NVFP4; the bytes of a
    block in llama.cpp)."""
    format = get_format(name)
    assert format.bytes(4096) == 4096 * bits / 8
    assert format.bytes(1) == 1 + format.scale_bits // 8
    assert format.bytes(4097) == 4096 * bits / 8 + 1 + format.scale_bits // 8


def test_every_format_is_checked() -> None:
    assert {*TORCH_NAMES, *SCALED, "int4"} == set(FORMATS)
    assert get_format("int4").bytes(1001) == 501
