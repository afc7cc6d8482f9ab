"""Properties of the counting core: one formula for all kinds of numbers, and what every derivation must obey."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sympy
from core_cases import CLASSES, FUSED, LAYERS, all_terms, kept_terms, kernels, model_sizes, values
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsim.core.errors import UnsupportedError
from llmsim.core.inventory import Inventory
from llmsim.core.messages import derive_messages, wire_share
from llmsim.core.operators import EXPECTED_DIMS
from llmsim.core.parameters import derive_parameters
from llmsim.core.saved import Region, derive_saved
from llmsim.core.sharding import Sharding, mesh_sharding
from llmsim.core.terms import Sizes, Term
from llmsim.core.work import derive_work

AXES = ("dp", "tp", "ulysses", "cp", "ep", "edp", "etp")
names = st.sampled_from(sorted(LAYERS))
degrees = st.fixed_dictionaries({axis: st.sampled_from([1, 2, 4, 8]) for axis in AXES})
context_kinds = st.sampled_from(["all_gather", "ring", "ulysses", "ulysses+ring"])


@st.composite
def shardings(draw: Callable[..., Any]) -> Sharding:
    return mesh_sharding(sequence_parallel=draw(st.booleans()), context_kind=draw(context_kinds))


def terms_of(name: str, sharding: Sharding) -> tuple[list[Term], list[Term]]:
    """All terms of a layer that count elements, and all that count bytes."""
    operators, inventory = LAYERS[name], kernels()
    work = derive_work(operators, sharding, inventory)
    savings = derive_saved(operators, sharding, inventory, formats=CLASSES)
    parameters = derive_parameters(operators, sharding)
    elements = [*all_terms(work, "flops", "rows", "columns", "depth", "groups"), *(p.local for p in parameters)]
    sent = all_terms(derive_messages(operators, sharding, inventory), "payload")
    return elements, [*all_terms(work, "bytes"), *sent, *kept_terms(savings)]


@settings(max_examples=25, deadline=None)
@given(names, shardings(), st.lists(degrees, min_size=2, max_size=5), st.sampled_from([1, 3]))
def test_columns_equal_single_plans(name: str, sharding: Sharding, plans: list[dict[str, int]], scale: int) -> None:
    elements, sizes = terms_of(name, sharding)
    table = values({axis: np.array([plan[axis] for plan in plans]) for axis in AXES}, scale=scale)
    columns = [np.broadcast_to(table.elements(t), len(plans)) for t in elements]
    columns += [np.broadcast_to(table.bytes(t), len(plans)) for t in sizes]
    for row, plan in enumerate(plans):
        one = values(plan, scale=scale)
        scalars = [one.elements(t) for t in elements] + [one.bytes(t) for t in sizes]
        assert [int(column[row]) for column in columns] == scalars


@settings(max_examples=10, deadline=None)
@given(names, shardings(), degrees)
def test_symbols_equal_numbers_where_everything_divides(name: str, sharding: Sharding, plan: dict[str, int]) -> None:
    elements, sizes = terms_of(name, sharding)
    numbers = model_sizes(16)
    symbols = {dim: sympy.Symbol(dim, positive=True) for dim in numbers}
    axes = {axis: sympy.Symbol(axis, positive=True) for axis in AXES}
    known = {symbols[d]: v for d, v in numbers.items()} | {axes[a]: v for a, v in plan.items()}
    closed, number = Sizes(symbols, axes, values().formats), Sizes(numbers, plan, values().formats)
    for term in {*elements, *sizes}:
        divides = all(numbers[dim] % number.degree(on) == 0 for dim, on in term.factors)
        if divides:
            assert closed.elements(term).subs(known) == number.elements(term)
    for term in set(sizes):
        if all(numbers[dim] % number.degree(on) == 0 for dim, on in term.factors):
            assert closed.bytes(term).subs(known) == number.bytes(term)


@given(st.sampled_from(["all_gather", "reduce_scatter", "all_reduce", "all_to_all", "send_recv"]), st.integers(1, 4096))
def test_a_group_of_one_sends_nothing(collective: Any, size: int) -> None:
    assert wire_share(collective, 1) == 0
    assert 0 <= wire_share(collective, size) <= 2
    many = wire_share(collective, np.array([1, size]))
    assert many.tolist() == [0, wire_share(collective, size)]


@given(names, shardings())
def test_no_message_goes_over_an_axis_that_nothing_carries(name: str, sharding: Sharding) -> None:
    for message in derive_messages(LAYERS[name], sharding, kernels()):
        assert message.axes
        assert set(message.axes) <= set(AXES)
        # Activations are never reduced over data parallelism: that sum belongs to the parameters.
        assert "dp" not in message.axes


@given(names, st.sampled_from([(), FUSED]))
def test_backward_sends_the_transposes_of_forward(name: str, fused: tuple[tuple[str, ...], ...]) -> None:
    transpose = {"all_gather": "reduce_scatter", "reduce_scatter": "all_gather", "all_to_all": "all_to_all"}
    messages = derive_messages(LAYERS[name], mesh_sharding(sequence_parallel=True), kernels(fused))
    forward = [(m.collective, m.axes, m.payload) for m in messages if m.phase == "forward"]
    backward = [(m.collective, m.axes, m.payload) for m in messages if m.phase == "backward"]
    assert sorted((transpose[c], a, str(p)) for c, a, p in forward) == sorted((c, a, str(p)) for c, a, p in backward)


@given(names, degrees)
def test_fusing_changes_no_flops(name: str, plan: dict[str, int]) -> None:
    sharding, sizes = mesh_sharding(sequence_parallel=True), values(plan)
    apart = derive_work(LAYERS[name], sharding, kernels())
    together = derive_work(LAYERS[name], sharding, kernels(FUSED))
    assert len(together) < len(apart)
    for phase in ("forward", "input_gradient", "weight_gradient"):
        counts = [sizes.count(t for w in work if w.phase == phase for t in w.flops) for work in (apart, together)]
        assert counts[0] == counts[1] > 0


@st.composite
def regions(draw: Callable[..., Any]) -> tuple[str, Region]:
    name = draw(names)
    operators = [op.name for op in LAYERS[name]]
    first, last = sorted(draw(st.tuples(*[st.integers(0, len(operators) - 1)] * 2)))
    inside = operators[first : last + 1]
    kept = draw(st.sets(st.sampled_from(inside), max_size=2))
    return name, Region(frozenset(inside), frozenset(kept))


@settings(deadline=None)
@given(regions(), st.sampled_from([{}, {"norm": "eager", "gate": "eager"}]), st.booleans())
def test_recomputing_keeps_less_and_repeats_no_more_than_forward(
    case: tuple[str, Region], chosen: dict[str, str], early_stop: bool
) -> None:
    name, region = case
    operators, inventory, sharding = LAYERS[name], kernels(**chosen), mesh_sharding(sequence_parallel=False)
    plain = derive_saved(operators, sharding, inventory, formats=CLASSES)
    some = derive_saved(operators, sharding, inventory, formats=CLASSES, regions=[region], early_stop=early_stop)
    everything = Region(frozenset(op.name for op in operators))
    full = derive_saved(operators, sharding, inventory, formats=CLASSES, regions=[everything], early_stop=early_stop)
    sizes = values()
    work = {w.name: w for w in derive_work(operators, sharding, inventory) if w.phase == "forward"}

    def flops(recomputed: tuple[str, ...]) -> int:
        return sum(sizes.count(work[op].flops) for op in recomputed if op in work)

    assert 0 <= flops(some.recomputed) <= flops(full.recomputed) <= flops(tuple(work))
    assert set(some.recomputed) <= region.operators - region.keep_outputs
    stream = Term((("batch", ()), ("sequence", ()), ("hidden", ())), "residual")
    assert sizes.size(kept_terms(full)) == sizes.bytes(stream)
    if not region.keep_outputs:
        entering = _entering(name, region)
        assert sizes.size(kept_terms(some)) <= sizes.size(kept_terms(plain)) + entering
    # What is made again is what the region's operators would have kept, no more.
    again = sum(sizes.size(s.terms) for s in some.again)
    assert again <= sizes.size(kept_terms(plain))


def _entering(name: str, region: Region) -> int:
    """Bytes of the tensors that enter a region: kept at its border, wherever it is drawn."""
    sizes = values()
    made = {op.write.name for op in LAYERS[name] if op.name in region.operators}
    tensors = {
        read.tensor
        for op in LAYERS[name]
        if op.name in region.operators
        for read in op.reads
        if read.tensor.role != "weight" and read.tensor.name not in made
    }
    return sum(sizes.bytes(Term(tuple((d, ()) for d in t.dims), t.format)) for t in tensors)


@given(names, st.sampled_from([1, 2, 4, 8]), st.booleans())
def test_the_ranks_together_hold_every_parameter(name: str, degree: int, sequence_parallel: bool) -> None:
    sharding, sizes = mesh_sharding(sequence_parallel=sequence_parallel), values({"tp": degree, "ep": degree})
    for p in derive_parameters(LAYERS[name], sharding):
        axes = {axis for _, on in p.local.factors for axis in on}
        assert sizes.elements(p.local) * sizes.degree(axes) == sizes.elements(p.elements)
        assert sizes.elements(p.leading) * sizes.elements(p.rest) == sizes.elements(p.local)
        # A gradient is a partial sum over exactly the axes that share the parameter and split its use.
        assert not axes & set(p.gradient_axes)
        assert p.expert == ("ep" in axes)


def test_gradient_sums_of_each_kind_of_parameter() -> None:
    found = {
        p.name: set(p.gradient_axes)
        for name in ("gpt", "moe", "mla")
        for p in derive_parameters(LAYERS[name], mesh_sharding(sequence_parallel=True, context_kind="ring"))
    }
    dense = {"dp", "cp"}
    assert found["up.weight"] == found["up.bias"] == found["shared_up.weight"] == dense
    # Added behind the sum of a row-parallel product, where every rank sees the whole gradient.
    assert found["attention_out.bias"] == found["down.bias"] == dense
    assert found["attention_norm.weight"] == found["router.weight"] == found["q_down.weight"] == {*dense, "tp"}
    assert found["expert_up.weight"] == {"edp"}


@given(names, shardings())
def test_expectations_are_marked(name: str, sharding: Sharding) -> None:
    elements, sizes = terms_of(name, sharding)
    marked = [t for t in (*elements, *sizes) if t.expected]
    assert all({"slots"} & {dim for dim, _ in t.factors} for t in marked)
    assert bool(marked) == (name == "moe")
    assert {"slots"} == EXPECTED_DIMS
    exchanged = [m for m in derive_messages(LAYERS[name], sharding, kernels()) if m.axes == ("ep",)]
    assert all(m.payload.expected for m in exchanged)


def test_a_table_that_leaves_64_bits_is_refused() -> None:
    work = derive_work(LAYERS["gqa"], mesh_sharding(sequence_parallel=False), kernels())
    flops = all_terms(work, "flops")
    values().check_range(flops)
    million = np.array([1 << 20, 4096])
    with pytest.raises(OverflowError, match="64-bit"):
        values(batch=million, sequence=1 << 22, context=1 << 22).check_range(flops)
    values({"dp": np.array([1 << 20, 4096])}, batch=million).check_range(flops)
    symbolic = values(batch=sympy.Symbol("b"), sequence=1 << 40, context=1 << 40)
    symbolic.check_range(flops)


def test_an_operator_kind_without_a_row_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="'norm'"):
        derive_work(LAYERS["gqa"], mesh_sharding(sequence_parallel=False), Inventory({}))
