"""What layers and passes say is in the vocabulary that they declare: names, dimensions, formats, kinds, phases."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

from llmsim.architecture import Architecture
from llmsim.core.data_parallel import Stored, Unit, data_parallel_messages
from llmsim.core.formats import FORMATS, get_format
from llmsim.core.messages import derive_messages
from llmsim.core.operators import Operator, Tensor
from llmsim.core.saved import derive_saved
from llmsim.core.sharding import mesh_sharding
from llmsim.core.work import derive_work
from llmsim.hardware.software import get_software, software_names
from llmsim.layers.base import LayerKind
from llmsim.models import bundled_models
from llmsim.plans.adapters import TARGETS
from llmsim.plans.recompute import MODULES
from llmsim.timing.structure import Structure

STRUCTURE = Structure("megatron-core")
CLASSES = {name: format.name for name, format in STRUCTURE.formats().items()}
FOLLOWING = {
    "batch", "sequence", "context", "memory", "steps", "index_context", "scan_heads", "slots", "router_experts",
    "chunk", "chunks", "chunk_context", "conv_span", "top_k",
}  # fmt: skip
"""Dimensions that a plan or another dimension gives their size."""


@cache
def kinds() -> tuple[LayerKind, ...]:
    """All layers and ends of the bundled models, one of each structure."""
    found: dict[int, LayerKind] = {}
    for name in bundled_models():
        model = Architecture.from_config(name)
        for kind in (*model.kinds.values(), model.embedding, model.head, *model.mtp):
            found.setdefault(id(kind.operators), kind)
    return tuple(found.values())


def tensors(op: Operator) -> Iterator[Tensor]:
    yield op.write
    yield from (read.tensor for read in op.reads)


@cache
def literals(kind: type) -> dict[str, set[Any]]:
    """Field -> the values that its annotation lists."""

    def listed(hint: Any) -> set[Any]:
        if get_origin(hint) is Literal:
            return set(get_args(hint))
        return set().union(*map(listed, get_args(hint))) if get_origin(hint) in (Union, UnionType) else set()

    hints = get_type_hints(kind)
    return {f.name: values for f in dataclasses.fields(kind) if (values := listed(hints[f.name]))}


def assert_declared(entries: Iterable[Any]) -> None:
    for entry in entries:
        for field, values in literals(type(entry)).items():
            assert getattr(entry, field) in values, (entry, field)


def test_names_tell_operators_and_tensors_apart() -> None:
    for kind in kinds():
        names = [op.name for op in kind.operators]
        assert len(set(names)) == len(names), kind.name
        assert all(name.isidentifier() for name in names), kind.name
        known: dict[str, Tensor] = {}
        for op in kind.operators:
            assert op.write.name == op.name
            for tensor in tensors(op):
                assert all(part.isidentifier() for part in tensor.name.split(".")), tensor
                plain = dataclasses.replace(tensor, role="activation") if tensor.role != "weight" else tensor
                assert known.setdefault(tensor.name, plain) == plain


def test_layers_name_what_they_read_by_whoever_wrote_it() -> None:
    """An activation that enters a layer is its residual stream, or the output of an encoder."""
    for kind in kinds():
        written: set[str] = set()
        for op in kind.operators:
            entering = {r.tensor.name for r in op.activations} - written
            assert entering <= {"x", "encoded", "first"}, op
            written.add(op.name)


def test_dimensions_have_sizes_and_formats_are_known() -> None:
    for kind in kinds():
        for op in kind.operators:
            assert {*op.dims, *op.over} <= {*kind.sizes, *FOLLOWING}, (kind.name, op.name)
            assert {t.format for t in tensors(op)} <= {*CLASSES, *FORMATS}


def test_only_what_is_multiplied_is_open_to_low_precision() -> None:
    """What is looked up, added or scales is no matrix of a product, whatever its shape."""
    for kind in kinds():
        multiplied = {id(op.reads[1].tensor) for op in kind.operators if op.kind == "contract"}
        for op in kind.operators:
            for read in op.weights:
                assert read.tensor.format == "weight_high" or id(read.tensor) in multiplied, read.tensor


def test_lookups_have_one_index_for_each_row() -> None:
    """Rows are looked up for every position that is written, or for positions that a batch shares."""
    for kind in kinds():
        for op in (op for op in kind.operators if op.kind == "embedding"):
            rows, table = op.reads
            assert set(op.write.dims) - set(table.dims) - set(rows.dims) <= {"batch"}, op
            assert set(rows.dims) <= set(op.write.dims)


def test_what_parts_of_a_model_share_is_one_tensor() -> None:
    """Tokens, labels and a tied table, in embedding, head and prediction modules."""
    for name in bundled_models():
        model = Architecture.from_config(name)
        shared: dict[str, Tensor] = {}
        for kind in (model.embedding, model.head, *model.mtp):
            here = {t.name: t for op in kind.operators for t in tensors(op)}
            for tensor in here.values():
                if tensor.name in ("tokens", "labels", "embedding.weight", "head.weight"):
                    found = dataclasses.replace(tensor, dims=tuple(sorted(tensor.dims)))
                    assert shared.setdefault(tensor.name, found) == found, (name, tensor)


def test_elementwise_kernels_write_what_they_read() -> None:
    alike = {
        "activation",
        "add",
        "bias",
        "clamped_gate",
        "dropout",
        "gate",
        "gated_norm",
        "layer_norm",
        "norm",
        "rotary",
    }
    for kind in kinds():
        for op in (op for op in kind.operators if op.kind in alike):
            assert {*op.write.dims} in [{*read.dims} for read in op.activations], op


def test_entries_say_what_their_classes_declare() -> None:
    inventory = STRUCTURE.inventory
    for kind in kinds():
        assert_declared(t for op in kind.operators for t in tensors(op))
        for context_kind in ("none", "ring", "ulysses"):
            sharding = mesh_sharding(sequence_parallel=True, context_kind=context_kind)
            supported = [op for op in kind.operators if inventory.rows.get(op.kind)]
            assert_declared(derive_messages(supported, sharding, inventory))
            again = derive_messages(supported, sharding, inventory, gather={"tp": "again", "cp": "stream"})
            assert_declared(again)
            assert_declared(derive_work(supported, sharding, inventory))


@pytest.mark.parametrize("kind", ["ddp", "zero1", "zero1_broadcast", "zero2", "zero3", "hsdp"])
def test_data_parallel_messages_say_what_their_class_declares(kind: Any) -> None:
    bf16 = get_format("bf16")
    sent = data_parallel_messages(kind, [Unit((Stored(8),))], shard=2, parameter_format=bf16, gradient_format=bf16)
    assert sent
    assert_declared(sent)


def test_profiles_and_plans_speak_of_operators_that_exist() -> None:
    operators = [op for kind in kinds() for op in kind.operators]
    names = {op.name for op in operators}
    for software in map(get_software, software_names()):
        inventory = software.stack.inventory()
        assert {name for group in inventory.fused for name in group} <= names, software.name
        assert inventory.split <= names
    for module, (select, _) in MODULES.items():
        assert any(map(select, operators)), module
    asked = {*TARGETS, *(product for own in TARGETS.values() for product in own), *MODULES}
    tags = {tag for op in operators for tag in op.tags}
    assert tags <= asked | {"latent", "rope_key", "rope_query", "k_concat"}


@pytest.mark.parametrize("framework", ["megatron-core", "torch-eager"])
def test_storages_say_what_they_hold(framework: str) -> None:
    """A tensor of the layer, some that lie together, or what an operator made: of a tensor, a statistic, dimensions."""
    structure = Structure(framework)
    inventory, classes = structure.inventory, {name: f.name for name, f in structure.formats().items()}
    for kind in kinds():
        supported = [op for op in kind.operators if inventory.rows.get(op.kind)]
        kept = derive_saved(supported, structure.sharding, inventory, formats=classes).kept
        known = {t.name for op in supported for t in tensors(op)}
        for saved in kept:
            owner, _, made = saved.storage.partition("@")[0].partition(":")
            assert {*owner.split("+")} <= known, saved
            source, _, format = made.partition(" as ")
            source = source.removeprefix("new ")
            assert source in {"", "rows", "scalar", "write", *known} or {*source.split()} <= {*kind.sizes, *FOLLOWING}
            assert format in {"", *CLASSES, *FORMATS}, saved


def test_tokens_are_looked_up_for_every_position() -> None:
    for kind in kinds():
        for op in kind.operators:
            for read in op.reads:
                if op.kind == "embedding" and read.tensor.leading == ("vocab",):
                    assert op.reads[0].dims == ("batch", "sequence"), (kind.name, op.name)
                    assert op.write.dims[:2] == ("batch", "sequence"), (kind.name, op.name)
