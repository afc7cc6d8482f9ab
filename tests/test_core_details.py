"""Details of the counting passes, each against what it means."""

from __future__ import annotations

from core_cases import CLASSES, LAYERS, kept_terms, kernels, model_sizes, values

from llmsim.architecture import Architecture
from llmsim.core.data_parallel import Stored, Unit, shard_elements
from llmsim.core.formats import get_format
from llmsim.core.inventory import Inventory, KernelRow, parse_keep
from llmsim.core.liveness import derive_moments
from llmsim.core.messages import stage_transfers
from llmsim.core.operators import LayerBuilder, Read, activation, product
from llmsim.core.parameters import derive_parameters
from llmsim.core.saved import Region, derive_saved, weight_operands
from llmsim.core.sharding import mesh_sharding
from llmsim.core.state import _looks_at
from llmsim.core.terms import Sizes, Term
from llmsim.core.work import derive_work
from llmsim.layers.base import layer_input
from llmsim.layers.embedding_and_head import embedding
from llmsim.layers.mla import absorbed, is_latent
from llmsim.plans.adapters import Adapters, adapted_operators
from llmsim.timing.structure import Structure, layer_terms

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
        for work in layer_terms(kind, Structure("megatron-core", precision="fp8-block")).work:
            assert not work.low_precision or work.kind in ("gemm", "grouped_gemm")
            if work.source in ("index_select", "attention") and work.flops:
                assert work.masked_flops, work
    hybrid = Architecture.from_config("mamba2-2.7b")
    for kind in hybrid.kinds.values():
        assert not any(w.masked_flops for w in layer_terms(kind, Structure("megatron-core")).work)


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


def test_a_gradient_of_a_matrix_is_converted_behind_its_product() -> None:
    """Under autocast: made in the 16 bits of the operands, then, when what arrived is gone, in the 32 of the matrix."""
    b = LayerBuilder()
    b.linear("up", layer_input(), "hidden", "ffn")
    classes = {**dict.fromkeys(CLASSES, "fp32"), "activation": "bf16"}
    savings = derive_saved(b.operators, PLAIN, kernels(), formats=classes)
    product, conversion = derive_moments(b.operators, PLAIN, kernels(), savings, formats=classes)
    sizes = Sizes(model_sizes(), {}, {name: get_format(format) for name, format in classes.items()})
    rows, matrix = 16 * 512, 256 * 704
    assert sizes.size(product.flowing) == 2 * rows * 704 + 4 * rows * 256 + 2 * matrix
    assert not product.gradients
    assert sizes.size(conversion.flowing) == 4 * rows * 256 + 2 * matrix
    assert sizes.size(conversion.gradients) == 4 * matrix


def test_every_trained_parameter_has_a_gradient_in_the_end_and_no_other() -> None:
    for adapters in (None, Adapters(4, ("q",)), Adapters(4, ("q", "down"))):
        for name in ("gqa", "gpt", "mla"):
            operators = adapted_operators(LAYERS[name], adapters) if adapters else LAYERS[name]
            savings = derive_saved(operators, PLAIN, kernels(), formats=CLASSES)
            moments = derive_moments(operators, PLAIN, kernels(), savings, formats=CLASSES)
            trained = [p.local for p in derive_parameters(operators, PLAIN) if not p.frozen]
            sizes = values(lora_rank=4)
            assert sizes.count(moments[-1].gradients) == sizes.count(trained)


def test_recomputing_holds_the_variables_of_its_branch() -> None:
    """Results since the last sum that nobody keeps live until the module returns, beside what its kernels make."""
    b, dims = LayerBuilder(), "batch sequence hidden"
    x = b.op("sum", "add", [layer_input(), layer_input()], dims)
    x = b.op("first", "rotary", [x], dims)
    x = b.op("kept", "rotary", [x], dims)
    x = b.op("last", "activation", [x], dims)
    b.op("out", "gate", [x], dims)
    rows = {
        "add": KernelRow(),
        "rotary": KernelRow(),
        "activation": KernelRow(keeps=(parse_keep("read0"),)),
        "gate": KernelRow(keeps=(parse_keep("scalar as fp32"),), forward_holds=(parse_keep("batch hidden as fp32"),)),
    }
    whole = Region(frozenset(op.name for op in b.operators))
    savings = derive_saved(b.operators, PLAIN, Inventory(rows), formats=CLASSES, regions=[whole])
    assert savings.recomputed == ("sum", "first", "kept", "last", "out")
    moment, *_ = derive_moments(b.operators, PLAIN, Inventory(rows), savings, formats=CLASSES)
    # The gradient that arrives, the results of `first` and `last`, and what the kernel holds.
    assert values().size(moment.flowing) == 3 * STREAM + 4 * 16 * 256
    assert values().size(moment.again) == STREAM + 4
    assert values().size(moment.kept) == STREAM


def test_regions_run_to_the_last_operator_that_keeps_something_new() -> None:
    b, dims = LayerBuilder(), "batch sequence hidden"
    x = layer_input()
    for name, kind in (("a", "norm"), ("b", "gate"), ("c", "add")):
        x = b.op(name, kind, [x], dims)
    rows = {"norm": "rows as fp32", "gate": "read0", "add": None}
    for keeps, again in ((rows, ("a",)), ({**rows, "norm": None}, ("a",)), ({**rows, "gate": "write"}, ("a", "b")),
                         ({**rows, "gate": None}, ("a",)), (dict.fromkeys(rows), ())):  # fmt: skip
        inventory = Inventory({k: KernelRow(keeps=(parse_keep(v),) if v else ()) for k, v in keeps.items()})
        whole = Region(frozenset("abc"))
        found = derive_saved(b.operators, PLAIN, inventory, formats=CLASSES, regions=[whole])
        assert found.recomputed == again, keeps
        all_of_it = derive_saved(b.operators, PLAIN, inventory, formats=CLASSES, regions=[whole], early_stop=False)
        assert all_of_it.recomputed == ("a", "b", "c")


def test_positions_that_others_look_at() -> None:
    tensor = activation("x", "batch sequence hidden")
    assert _looks_at(Read(tensor, ("batch", "sequence", "hidden"))) is None
    assert _looks_at(Read(tensor, ("batch", "context", "hidden"))) == "context"
    assert _looks_at(Read(tensor, ("batch", "index_context", "hidden"))) == "index_context"


def test_absorbed_attention_is_no_longer_latent_and_keeps_its_indexer() -> None:
    kind = next(k for k in Architecture.from_config("deepseek-v3.2").kinds.values() if is_latent(k))
    core = next(op for op in absorbed(kind).operators if "core_attn" in op.tags)
    assert [read.tensor.name for read in core.reads] == ["q_latent", "k_latent", "kv_down_norm", "index_select"]
    assert not {"k_up", "v_up", "k_concat"} & {op.name for op in absorbed(kind).operators}
    once = absorbed(kind)
    assert not is_latent(once)
    assert absorbed(once) is once


def test_names_of_dropouts_and_of_the_delta_rule() -> None:
    layer = embedding(positions=True, dropout=True)
    assert [op.name for op in layer.operators] == [
        "embedding",
        "position_embedding",
        "position_add",
        "embedding_dropout",
    ]
    kinds = Architecture.from_config("qwen3-next-80b-a3b").kinds.values()
    weights = {read.tensor.name for kind in kinds for op in kind.operators for read in op.reads}
    assert {"delta.a", "delta.dt", "delta_norm.weight"} <= weights


def test_projections_carry_their_names_as_tags() -> None:
    tags = {op.name: op.tags for op in LAYERS["gqa"]}
    for name in ("q", "k", "v", "attention_out"):
        assert {"attention", name} <= tags[name]
