"""New tokens after cached ones against torch: a prompt, a chunk of one and a decoding step of each kind of layer."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from llmsim.measure.cached import RECURRENT, derived, executed, of_tokens
from llmsim.measure.cells import OTHER, SMALL
from llmsim.measure.pairs import BlockSpec

pytestmark = pytest.mark.torch

PASSES = {"prompt": (32, 0), "chunk": (16, 48), "step": (1, 200)}


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("shape", ["small", "other"])
@pytest.mark.parametrize(
    ("family", "precision"),
    [
        *((family, precision) for family in ("llama", "gpt2", *RECURRENT) for precision in ("bf16", "fp32")),
        ("mixtral", "bf16"),  # grouped products of torch are in 16 bits
    ],
)
def test_new_tokens_after_cached_ones(family: str, precision: str, shape: str, name: str) -> None:
    new, cached = PASSES[name]
    sizes = (SMALL if shape == "small" else OTHER)[family]
    spec = of_tokens(BlockSpec(family, "eager", precision, sizes), new)
    assert derived(spec, cached) == executed(spec, cached)


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("shape", ["small", "other"])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("family", ["mla", "dsa"])
def test_absorbed_latent_attention(family: str, precision: str, shape: str, name: str) -> None:
    new, cached = PASSES[name]
    spec = of_tokens(BlockSpec(family, "math", precision, (SMALL if shape == "small" else OTHER)[family]), new)
    assert derived(spec, cached, absorb=True) == executed(spec, cached, absorb=True)
