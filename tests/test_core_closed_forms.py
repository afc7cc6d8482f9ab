"""Derived counts against published closed forms, in symbols and at the papers' sizes."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import pytest
import sympy
from core_cases import CLASSES, FORMATS, LAYERS, kept_terms, kernels
from sympy import Symbol

from llmsim.core.formats import get_format
from llmsim.core.inventory import Inventory
from llmsim.core.messages import GatherPolicy, Message, derive_messages, wire_share
from llmsim.core.operators import Operator
from llmsim.core.saved import Region, derive_saved
from llmsim.core.sharding import mesh_sharding
from llmsim.core.terms import Sizes
from llmsim.core.work import derive_work

s, b, h, a, k, d, f, t, c = (Symbol(n, positive=True) for n in "sbhakdftc")
SYMBOLS = Sizes(
    {"batch": b, "sequence": s, "context": s, "hidden": h, "heads": a, "kv_heads": k, "head_dim": d, "ffn": f},
    {"tp": t, "cp": c},
    FORMATS,
)

# --- Korthikanti 2022, arXiv:2205.05198: a GPT layer with dropout, unfused attention, heads x width = hidden ----------

MEGATRON_2022 = kernels(layer_norm="megatron-2022", attention="unfused")
CLASSIC = {k: a, d: h / a, f: 4 * h}
CORE = (Region(frozenset({"attention"})),)
FULL = (Region(frozenset(op.name for op in LAYERS["gpt"])),)


def saved_bytes(
    operators: Iterable[Operator], inventory: Inventory, *, sequence_parallel: bool, regions: tuple[Region, ...] = ()
) -> sympy.Expr:
    """Bytes of a layer on one rank; a gathered input is gathered again in backward."""
    sharding = mesh_sharding(sequence_parallel=sequence_parallel)
    savings = derive_saved(
        tuple(operators), sharding, inventory, formats=CLASSES, gather={"tp": "again"}, regions=regions
    )
    return SYMBOLS.size(kept_terms(savings))


@pytest.mark.parametrize(
    ("sequence_parallel", "regions", "expected"),
    [
        (False, (), s * b * h * (10 + 24 / t + 5 * a * s / (h * t))),
        (True, (), s * b * h / t * (34 + 5 * a * s / h)),
        (False, CORE, s * b * h * (10 + 24 / t)),
        (True, CORE, 34 * s * b * h / t),
        (True, FULL, 2 * s * b * h / t),
        (False, FULL, 2 * s * b * h),
    ],
    ids=["tp", "tp+sp", "tp+selective", "tp+sp+selective", "tp+sp+full", "tp+full"],
)
def test_table_2_of_korthikanti(sequence_parallel: bool, regions: tuple[Region, ...], expected: sympy.Expr) -> None:
    found = saved_bytes(LAYERS["gpt"], MEGATRON_2022, sequence_parallel=sequence_parallel, regions=regions)
    assert sympy.expand(found.subs(CLASSIC) - expected) == 0


@pytest.mark.parametrize(
    ("hidden", "heads", "layers", "stages", "chunks", "batch", "plain_gib", "selective_gib"),
    [
        (6144, 64, 48, 1, 1, 4, 59.25, 9.5625),
        (12288, 96, 96, 8, 3, 1, 66.84375, 12.3515625),
        (20480, 128, 105, 35, 3, 1, 114.0234375, 23.076171875),
        (25600, 160, 128, 64, 1, 1, 131.25, 26.5625),
    ],
    ids=["22B", "175B", "530B", "1T"],
)
def test_figure_1_of_korthikanti(
    hidden: int, heads: int, layers: int, stages: int, chunks: int, batch: int, plain_gib: float, selective_gib: float
) -> None:
    """Tensor parallelism of 8; interleaving keeps L(1 + (p-1)/(pv)) layers in flight on the first stage."""
    in_flight = layers * (1 + sympy.Rational(stages - 1, stages * chunks) if chunks > 1 else 1)
    model = {h: hidden, a: heads, s: 2048, b: batch, t: 8}
    plain = saved_bytes(LAYERS["gpt"], MEGATRON_2022, sequence_parallel=False)
    selective = saved_bytes(LAYERS["gpt"], MEGATRON_2022, sequence_parallel=True, regions=CORE)
    for formula, expected in ((plain, plain_gib), (selective, selective_gib)):
        per_layer = formula.subs(CLASSIC).subs(model)
        assert per_layer * in_flight == sympy.Rational(expected) * 2**30


# --- fused and eager kernels ------------------------------------------------------------------------------------------


def test_fused_kernels() -> None:
    """The textbook form, and the reciprocal roots of two norms, 4 bytes a row each."""
    textbook = s * b * h * (8 + 4 * a * d / h + 4 * k * d / h + 6 * f / h) + 4 * a * b * s
    found = saved_bytes(LAYERS["gqa"], kernels(), sequence_parallel=True)
    assert sympy.expand(found.subs(t, 1) - textbook - 8 * b * s) == 0
    assert sympy.expand(found - (textbook + 8 * b * s) / t) == 0


LLAMA_3_8B = {h: 4096, a: 32, k: 8, d: 128, f: 14336, b: 1, s: 8192}


def test_llama_3_8b_in_16_bits() -> None:
    """53 bytes per token and hidden element, the log-sum-exp and the norms' statistics: 53.033."""
    eager = kernels(norm="eager_fp32", gate="eager")
    savings = derive_saved(LAYERS["gqa"], mesh_sharding(sequence_parallel=False), eager, formats=CLASSES)
    found = SYMBOLS.size(kept_terms(savings)).subs({t: 1, c: 1}).subs(LLAMA_3_8B)
    tokens, hidden = 8192, 4096
    assert found == 53 * tokens * hidden + 4 * 32 * tokens + 8 * tokens
    assert float(found / (tokens * hidden)) == pytest.approx(53.033, abs=5e-4)


def test_llama_3_8b_under_autocast() -> None:
    """72.03 = 59.03 that grow with tokens, and one 16-bit copy of each matrix, which does not."""
    classes = {**dict.fromkeys(CLASSES, "fp32"), "activation": "bf16"}
    sizes = Sizes(SYMBOLS.dims, {}, {name: get_format(format) for name, format in classes.items()})
    eager = kernels(norm="eager_fp32", gate="eager", contract="autocast")
    kept = derive_saved(LAYERS["gqa"], mesh_sharding(sequence_parallel=False), eager, formats=classes).kept
    growing = sum(sizes.size(x.terms) for x in kept if not x.per_step).subs(LLAMA_3_8B)
    copies = sum(sizes.size(x.terms) for x in kept if x.per_step).subs(LLAMA_3_8B)
    per_element = 8192 * 4096
    assert float(growing / per_element) == pytest.approx(59.033, abs=5e-4)
    assert copies == 2 * (4096 * (4096 + 1024 + 1024) + 4096 * 4096 + 3 * 4096 * 14336)
    assert float((growing + copies) / per_element) == pytest.approx(72.03, abs=5e-3)


# --- context parallelism ----------------------------------------------------------------------------------------------


def sent_elements(messages: Iterable[Message], phase: str, axes: tuple[str, ...]) -> sympy.Expr:
    """Elements that one rank puts on the wire."""
    return sum(
        SYMBOLS.elements(m.payload) * wire_share(m.collective, SYMBOLS.degree(m.axes))
        for m in messages
        if m.phase == phase and m.axes == axes
    )


def context_messages(kind: str, policy: GatherPolicy) -> tuple[Message, ...]:
    sharding = mesh_sharding(sequence_parallel=True, context_kind=kind)
    return derive_messages(LAYERS["gqa"], sharding, kernels(), gather={"cp": policy, "tp": "keep"})


KV_GATHER = 2 * s * b * k * d / t * (c - 1) / c


@pytest.mark.parametrize(
    ("kind", "policy", "forward", "backward"),
    [
        # Ring: (c-1) rounds of both blocks, 2(s/c)bkd; backward passes them on once more, and their gradients.
        ("ring", "stream", (c - 1) * 2 * (s / c) * b * k * d / t, 2 * KV_GATHER),
        ("all_gather", "keep", KV_GATHER, KV_GATHER),
        ("all_gather", "again", KV_GATHER, 2 * KV_GATHER),
        # Ulysses: q, k, v before and o behind attention.
        ("ulysses", "keep", (2 * a + 2 * k) * d * b * (s / c) * (c - 1) / c / t, None),
    ],
)
def test_context_parallel_volumes(
    kind: str, policy: GatherPolicy, forward: sympy.Expr, backward: sympy.Expr | None
) -> None:
    messages = context_messages(kind, policy)
    assert sympy.expand(sent_elements(messages, "forward", ("cp",)) - forward) == 0
    expected = forward if backward is None else backward
    assert sympy.expand(sent_elements(messages, "backward", ("cp",)) - expected) == 0


def test_combined_context_parallel_volumes() -> None:
    """Heads spread over u near ranks, a ring over c groups of them (arXiv:2405.07719): each carries its share."""
    u = Symbol("u", positive=True)
    sizes = Sizes(SYMBOLS.dims, {"tp": t, "cp": c, "ulysses": u}, FORMATS)
    messages = context_messages("ulysses+ring", "stream")

    def sent(axis: str) -> sympy.Expr:
        own = [m for m in messages if m.phase == "forward" and m.axes == (axis,)]
        return sum(sizes.elements(m.payload) * wire_share(m.collective, sizes.degree(m.axes)) for m in own)

    assert sympy.simplify(sent("cp") - (c - 1) * 2 * (s / c) * b * k * d / (t * u)) == 0
    assert sympy.simplify(sent("ulysses") - (2 * a + 2 * k) * d * b * s / (c * u) * (u - 1) / u / t) == 0
    assert {m.axes for m in messages} == {("cp",), ("ulysses",), ("tp",)}


def test_tensor_parallel_volumes() -> None:
    """8bsh(t-1)/t elements a layer with either collective, of which sequence parallelism gathers once more unless the
    copy is kept."""
    plain = derive_messages(LAYERS["gqa"], mesh_sharding(sequence_parallel=False), kernels())
    split = context_messages("none", "keep")
    for messages in (plain, split):
        total = sum(sent_elements(messages, phase, ("tp",)) for phase in ("forward", "backward"))
        assert sympy.expand(total - 8 * b * s * h * (t - 1) / t) == 0


def test_experts_exchange_four_times() -> None:
    """4 T K h (e-1)/e elements a layer: dispatch and combine, forward and backward."""
    slots, e = Symbol("slots", positive=True), Symbol("e", positive=True)
    sizes = SYMBOLS.with_dims(slots=slots)
    sizes.degrees["ep"] = e
    messages = derive_messages(LAYERS["moe"], mesh_sharding(sequence_parallel=True), kernels())
    exchanged = [m for m in messages if m.axes == ("ep",)]
    assert {m.collective for m in exchanged} == {"all_to_all"}
    total = sum(sizes.elements(m.payload) for m in exchanged)
    assert sympy.expand(total - 4 * slots * h / e) == 0


# --- FLOPs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "backward_share"), [("flash", Fraction(5, 2)), ("math", Fraction(2))])
def test_attention_executes_more_backward_than_forward(kernel: str, backward_share: Fraction) -> None:
    work = derive_work(LAYERS["gqa"], mesh_sharding(sequence_parallel=False), kernels(attention=kernel))
    core = [w for w in work if w.kind == "attention"]
    forward = SYMBOLS.count(x for w in core if w.phase == "forward" for x in w.flops)
    backward = SYMBOLS.count(x for w in core if w.phase != "forward" for x in w.flops)
    assert sympy.expand(forward - 4 * b * a * s * s * d / t) == 0
    assert sympy.simplify(backward / forward) == sympy.Rational(backward_share.numerator, backward_share.denominator)


def test_layer_flops() -> None:
    """Per token, forward: projections 2(2had + 2hkd), core 4ads, three matrices 6hf; backward twice the products."""
    work = derive_work(LAYERS["gqa"], mesh_sharding(sequence_parallel=False), kernels())
    single = {t: 1, c: 1}
    forward = SYMBOLS.count(x for w in work if w.phase == "forward" for x in w.flops).subs(single)
    products = 2 * (2 * h * a * d + 2 * h * k * d) + 6 * h * f
    assert sympy.expand(forward / (b * s) - products - 4 * a * d * s) == 0
    backward = SYMBOLS.count(x for w in work if w.phase != "forward" for x in w.flops).subs(single)
    assert sympy.expand(backward / (b * s) - 2 * products - 10 * a * d * s) == 0


@pytest.mark.parametrize("kernel", ["math", "unfused", "eager"])
def test_unfused_attention_writes_its_scores(kernel: str) -> None:
    """One matrix of a x s x s scores a sequence, so many times over as its row says; fused kernels write none."""
    row = kernels(attention=kernel).row("attention")
    work = derive_work(LAYERS["gqa"], mesh_sharding(sequence_parallel=False), kernels(attention=kernel))
    scores = [w for w in work if w.source == "scores"]
    element = SYMBOLS.formats[row.score_format].bits // 8
    assert [w.passes for w in scores] == list(row.score_passes)
    assert [sympy.expand(SYMBOLS.size(w.bytes)) for w in scores] == [element * b * a * s * s / t] * 2
    launches = [sum(w.launches for w in work if "attention" in w.operators and w.phase == p)
                for p in ("forward", "input_gradient")]  # fmt: skip
    assert launches == [row.forward_launches, row.backward_launches]
    assert not [w for w in derive_work(LAYERS["gqa"], mesh_sharding(sequence_parallel=False), kernels())
                if w.source == "scores"]  # fmt: skip
