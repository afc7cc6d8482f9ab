"""Published models that transformers builds from the bundled config.json: parameters and FLOPs equal ours."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="conformance cells run torch: pip install 'llmsim[torch]'")
pytest.importorskip("transformers", reason="published models are built by it: pip install 'llmsim[transformers]'")

from llmsim.architecture import Architecture
from llmsim.measure.cells import Cell
from llmsim.measure.published import DIFFERENCES, PublishedModel, derived
from llmsim.measure.published_cells import CUT_CELLS, FEW, FEW_CELLS, PARAMETER_CELLS, WHOLE_CELLS, names

pytestmark = pytest.mark.torch


@pytest.mark.conform
@pytest.mark.parametrize("cell", FEW_CELLS, ids=str)
def test_first_layers(cell: Cell) -> None:
    assert cell.derived() == cell.executed()


@pytest.mark.full
@pytest.mark.parametrize("cell", [*CUT_CELLS, *PARAMETER_CELLS, *WHOLE_CELLS], ids=str)
def test_every_model(cell: Cell) -> None:
    assert cell.derived() == cell.executed()


def test_cutting_a_model_leaves_whole_layers_away() -> None:
    for name in FEW:
        model = PublishedModel(name)
        whole, cut = (Architecture.from_config(m.configuration()) for m in (model, PublishedModel(name, layers=2)))
        assert whole.layers[: len(cut.layers)] == cut.layers or whole.is_encoder_decoder
        assert len(cut.layers) == 2 * (1 + whole.is_encoder_decoder)


def test_differences_are_stated_where_they_are_and_nowhere_else() -> None:
    having: dict[str, set[str]] = {d.operator: set() for d in DIFFERENCES}
    for name in names():
        model = Architecture.from_config(PublishedModel(name).configuration())
        for difference in DIFFERENCES:
            if any(difference.applies(model.model_type, kind) for kind in model.kinds.values()):
                having[difference.operator].add(model.model_type)
    assert having == {
        "convolution": {"jamba", "mamba2", "nemotron_h", "qwen3_next", "qwen3_5_moe_text"},
        "selective_scan": {"jamba"},
        "ssm_scan": {"mamba2", "nemotron_h"},
        "delta_rule": {"qwen3_next", "qwen3_5_moe_text"},
        "index_select": {"deepseek_v32", "glm_moe_dsa"},
        "dispatch": {"llama4_text"},
    }


def test_a_batch_of_two_has_twice_the_flops_of_one() -> None:
    for name in ("llama-3-8b", "jamba-v0.1", "mamba2-2.7b", "qwen3-next-80b-a3b", "deepseek-v3.2"):
        one, two = (derived(PublishedModel(name, "math", 8, batch, 512)) for batch in (1, 2))
        assert (2 * one.forward_flops, 2 * one.backward_flops) == two[1:]
        assert one.parameters == two.parameters
