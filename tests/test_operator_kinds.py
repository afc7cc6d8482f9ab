"""The registry of operator kinds: every kind that layers use has an entry and kernels, and a new one is an entry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from llmsim.architecture import Architecture
from llmsim.core import operator_kinds
from llmsim.core.errors import UnsupportedError
from llmsim.core.inventory import Keep, KernelRow
from llmsim.core.operator_kinds import OPERATOR_KINDS, OperatorKind, operator_kind
from llmsim.core.operators import HIGH, Operator, Read, Tensor
from llmsim.hardware import software
from llmsim.hardware.software import get_software, kernel_rows, software_names
from llmsim.models import bundled_models
from llmsim.plans.training import TrainingPlan
from llmsim.timing.structure import Structure, layer_terms
from llmsim.training.simulate import simulate_training
from llmsim.training.structure import TrainingStructure, activation_terms

PLAN = TrainingPlan(
    sequence_length=2048, global_batch_size=16, data_parallel=8, framework="torchtitan", sharding="zero3"
)
NODE = "1x8xh100-sxm-80gb"


def test_every_kind_of_every_bundled_model_has_an_entry() -> None:
    used = {
        op.kind
        for name in bundled_models()
        for kind in Architecture.from_config(name).kinds.values()
        for op in kind.operators
    }
    assert used <= set(OPERATOR_KINDS)


def test_every_row_of_kernels_is_of_a_kind_and_every_kind_has_kernels() -> None:
    assert {name.removesuffix(HIGH) for name in kernel_rows()} <= set(OPERATOR_KINDS)
    for framework in software_names():
        inventory = get_software(framework).stack.inventory()
        for name in OPERATOR_KINDS:
            assert isinstance(inventory.row(name), KernelRow)


def test_a_kind_without_an_entry_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="'swirl' is not modelled"):
        operator_kind("swirl")


@pytest.fixture
def swirl(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A new kind, in one entry: an elementwise operator that keeps its input and sorts rows."""
    row = KernelRow(keeps=(Keep("read0"),), forward_passes=2.0, checked="nowhere")
    entry = OperatorKind("swirl", sorts_rows=True, row=row)
    monkeypatch.setattr(operator_kinds, "OPERATOR_KINDS", OPERATOR_KINDS)
    monkeypatch.setitem(OPERATOR_KINDS, "swirl", entry)
    software._inventory.cache_clear()
    get_software.cache_clear()
    yield entry.name
    software._inventory.cache_clear()
    get_software.cache_clear()


def with_operator(model: Architecture, kind: str) -> Architecture:
    """The model with one more operator at the end of each layer."""

    def longer(own: tuple[Operator, ...]) -> tuple[Operator, ...]:
        last = own[-1]
        turned = Tensor(f"{last.write.name}.turned", last.write.dims, "activation", last.write.format)
        return (*own, Operator("turn", kind, (Read(last.write, last.write.dims),), turned))

    kinds = {name: replace(k, operators=longer(k.operators)) for name, k in model.kinds.items()}
    return replace(model, kinds=kinds)


def test_a_new_kind_is_one_entry(swirl: str) -> None:
    plain = Architecture.from_config("llama-3.2-1b")
    model = with_operator(plain, swirl)
    (kind,) = model.kinds.values()
    assert model.unsupported is None
    works = [w for w in layer_terms(kind, Structure("torchtitan")).work if w.source == swirl]
    assert [(w.kind, w.phase, w.passes) for w in works] == [
        ("memory", "forward", 2.0),
        ("memory", "input_gradient", 1.0),
    ]
    kept = activation_terms(kind, TrainingStructure("torchtitan")).plain.kept
    assert any(saved.operator == "turn" for saved in kept)
    with_it, without = (simulate_training(PLAN, m, NODE) for m in (model, plain))
    assert with_it.breakdown_s["permute"] > without.breakdown_s["permute"] == 0
    assert with_it.fullest.memory_bytes["activations"] > without.fullest.memory_bytes["activations"]


def test_without_its_entry_a_model_is_refused_by_name() -> None:
    model = with_operator(Architecture.from_config("llama-3.2-1b"), "swirl")
    with pytest.raises(UnsupportedError, match="operators of kind swirl"):
        simulate_training(PLAN, model, NODE)
