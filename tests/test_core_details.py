"""Details of the counting passes, each against what it means."""

from __future__ import annotations

from core_cases import CLASSES, LAYERS, kept_terms, kernels, values

from llmsim.architecture import Architecture
from llmsim.core.data_parallel import Stored, Unit, shard_elements
from llmsim.core.inventory import Inventory, KernelRow
from llmsim.core.liveness import derive_moments
from llmsim.core.messages import stage_transfers
from llmsim.core.operators import LayerBuilder, product
from llmsim.core.saved import Region, derive_saved, weight_operands
from llmsim.core.sharding import mesh_sharding
from llmsim.core.terms import Term
from llmsim.core.work import derive_work
from llmsim.layers.base import layer_input
from llmsim.plans.adapters import Adapters, adapted_operators
from llmsim.training.structure import Structure, kind_terms

PLAIN = mesh_sharding(sequence_parallel=False)
STREAM = 16 * 512 * 256 * 2
"""Bytes of the residual stream at the shared sizes."""


def test_terms_print_as_products() -> None:
    assert str(Term(())) == "1"
    assert str(Term((("hidden", ()),))) == "hidden"
    assert str(Term((("hidden", ("tp", "cp")),), "bf16", 3)) == "3·hidden/(tp·cp) [bf16]"


def test_a_share_without_padding_is_a_fraction() -> None:
    assert shard_elements(Unit((Stored(10, 3),)), 4, "none") == 7.5


def test_one_rank_hands_nothing_on() -> None:
    assert stage_transfers(0, 1, 1) == stage_transfers(0, 1, 3) == (0, 0)
    assert stage_transfers(0, 2, 3) == (3, 2)
    assert stage_transfers(1, 2, 3) == (2, 3)


def test_discarded_results_are_not_kept_and_their_inputs_are() -> None:
    """Megatron's output discarding: the results of norms go, 2 sbh bytes each, and come again in backward."""
    operators, inventory = LAYERS["gqa"], kernels()
    norms = Region(frozenset({"attention_norm", "mlp_norm"}), discard=True)
    plain, discarded = (derive_saved(operators, PLAIN, inventory, formats=CLASSES, regions=r) for r in ((), (norms,)))
    kept, before = (values().size(kept_terms(s)) for s in (discarded, plain))
    # The statistics of both norms go too, 4 bytes a position.
    assert before - kept == 2 * (STREAM + 4 * 16 * 512)
    assert {s.storage for s in discarded.again} >= {"attention_norm", "mlp_norm"}
    # What another owner keeps stays where results are not discarded (torch's checkpoint).
    shared = Region(norms.operators)
    torch_like = derive_saved(operators, PLAIN, inventory, formats=CLASSES, regions=(shared,))
    assert values().size(kept_terms(torch_like)) == before - 2 * 4 * 16 * 512


def test_frozen_products_wait_for_no_gradient_of_weights() -> None:
    adapters = Adapters(4, ("q",))
    operators = adapted_operators(LAYERS["gqa"], adapters)
    operands = weight_operands(operators, PLAIN, kernels(), formats=CLASSES)
    rows = 16 * 512 * 2
    size = values(lora_rank=4).size(operands)
    # Both adapter products keep their input (hidden, rank) and the gradient of their result (rank, heads x width).
    assert size == rows * (256 + 4) + rows * (4 + 16 * 32)


def test_gathered_operands_are_kept_whole_or_gathered_again() -> None:
    """A column-parallel product under sequence parallelism: its input as it is kept, and the gradient of its result."""
    b = LayerBuilder()
    b.linear("up", layer_input(), "hidden", "ffn")
    sharding, gradient = mesh_sharding(sequence_parallel=True), 16 * 512 * 704 * 2 // 4
    for gather, kept in ((None, STREAM), ({"tp": "keep"}, STREAM), ({"tp": "again"}, STREAM // 4)):
        operands = weight_operands(b.operators, sharding, kernels(), formats=CLASSES, gather=gather)
        assert values({"tp": 4}).size(operands) == kept + gradient


def test_every_visible_position_is_masked() -> None:
    """Products over positions that a query may see, of keys or of an indexer's; not over those of a chunk."""
    for dims, masked in (("batch context", True), ("batch index_context", True), ("batch chunk_context", False)):
        b = LayerBuilder()
        b.op("select", "index_select", [layer_input()], "batch sequence", products=[product(dims)])
        work = derive_work(b.operators, PLAIN, Inventory({"index_select": KernelRow()}))
        assert [w.masked_flops for w in work] == [masked] * 2


def test_masks_and_low_precision_are_marked_where_they_apply() -> None:
    model = Architecture.from_config("deepseek-v3.2")
    for kind in model.kinds.values():
        for work in kind_terms(kind, Structure("megatron-core", precision="fp8-block")).work:
            assert not work.low_precision or work.kind in ("gemm", "grouped_gemm")
            if work.source in ("index_select", "attention") and work.flops:
                assert work.masked_flops, work
    hybrid = Architecture.from_config("mamba2-2.7b")
    for kind in hybrid.kinds.values():
        assert not any(w.masked_flops for w in kind_terms(kind, Structure("megatron-core")).work)


def test_the_gradient_of_a_sum_is_one_storage_for_its_terms() -> None:
    b = LayerBuilder()
    x = layer_input()
    y = b.linear("y", x, "hidden", "hidden_out")
    y = b.linear("back", y, "hidden_out", "hidden")
    b.op("sum", "add", [x, y], "batch sequence hidden", format="residual")
    operators = tuple(b.operators)
    savings = derive_saved(operators, PLAIN, kernels(), formats=CLASSES)
    moments = derive_moments(operators, PLAIN, kernels(), savings, formats=CLASSES)
    at_sum = values(hidden_out=64).size(moments[0].flowing)
    assert at_sum == STREAM  # what arrives is the gradient of both terms, and nothing is added beside it


def test_a_gradient_in_another_format_is_a_storage_of_its_own() -> None:
    b = LayerBuilder()
    x = layer_input()
    y = b.linear("y", x, "hidden", "hidden_out")
    y = b.linear("back", y, "hidden_out", "hidden")
    b.op("sum", "add", [x, y], "batch sequence hidden", format="fp32")
    operators = tuple(b.operators)
    classes = {**CLASSES, "fp32": "fp32"}
    savings = derive_saved(operators, PLAIN, kernels(), formats=classes)
    moments = derive_moments(operators, PLAIN, kernels(), savings, formats=classes)
    assert len(moments[0].flowing) == 3  # the 32-bit gradient that arrives, and one in 16 bits for each term
