"""New tokens after cached ones: chunks add up to the prompt, decoding goes on from there, states grow as they ought."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsim.architecture import Architecture
from llmsim.core.positions import visible_positions
from llmsim.core.state import State
from llmsim.layers.mla import absorbed, is_latent
from llmsim.serving.cache import model_cache
from llmsim.serving.decode import decode_flops, decoding
from llmsim.timing.columns import Columns, kind_sizes
from llmsim.timing.forward_flops import forward_flops, layer_forward_flops
from llmsim.timing.structure import Structure, layer_state

STACK = Structure("megatron-core", sequence_parallel=False)
MODELS = ["llama-3-8b", "gemma3-12b", "mixtral-8x7b", "gpt-oss-20b", "deepseek-v2-lite", "qwen3-30b-a3b"]
WITHOUT_SCANS = [Architecture.from_config(name) for name in MODELS]
ABSORBED = [replace(m, kinds={n: absorbed(k) for n, k in m.kinds.items()}) for m in WITHOUT_SCANS]


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=6), st.one_of(st.none(), st.integers(1, 2000)))
def test_each_query_sees_itself_and_what_is_before_it(chunks: list[int], window: int | None) -> None:
    whole, before = 0.0, 0
    for queries in chunks:
        whole += queries * visible_positions(queries, before, causal=True, window=window)
        before += queries
    expected = sum(min(i, window or i) for i in range(1, before + 1))
    assert whole == pytest.approx(expected, rel=1e-12)
    assert visible_positions(chunks[0], 17, causal=False) == chunks[0] + 17


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(ABSORBED), st.lists(st.integers(1, 5000), min_size=2, max_size=5))
def test_chunks_of_a_prompt_compute_what_the_prompt_does(model: Architecture, chunks: list[int]) -> None:
    before, parts = 0, 0.0
    for new in chunks:
        parts += float(forward_flops(model, STACK, Columns(new, 1, 1, cached=before)))
        before += new
    assert parts == pytest.approx(float(forward_flops(model, STACK, Columns(before, 1, 1, cached=0))), rel=1e-12)


@given(st.sampled_from(WITHOUT_SCANS), st.integers(1, 4000), st.integers(0, 100_000))
@settings(max_examples=30, deadline=None)
def test_columns_equal_single_passes(model: Architecture, new: int, cached: int) -> None:
    many = Columns(np.array([new, 1]), np.array([1, 3]), np.array([1, 1]), cached=np.array([cached, cached]))
    found = forward_flops(model, STACK, many)
    assert found[0] == pytest.approx(float(forward_flops(model, STACK, Columns(new, 1, 1, cached=cached))), rel=1e-12)
    assert found[1] == pytest.approx(float(forward_flops(model, STACK, Columns(1, 3, 1, cached=cached))), rel=1e-12)


@pytest.mark.parametrize("name", ["deepseek-v3", "deepseek-v2-lite", "kimi-k2", "deepseek-v3.2"])
def test_absorbing_pays_for_few_queries_over_many_positions(name: str) -> None:
    kind = next(k for k in Architecture.from_config(name).kinds.values() if is_latent(k))
    other = absorbed(kind)
    assert other.parameters == kind.parameters

    def flops(of: object, new: int, cached: int) -> float:
        return float(layer_forward_flops(of, STACK, Columns(new, 1, 1, cached=cached)))  # type: ignore[arg-type]

    # The expanded form expands what is cached as well, 2 kv_rank heads (nope + v) a position.
    sizes = kind.sizes
    expanding = 2 * sizes["kv_rank"] * sizes["heads"] * (sizes["nope_dim"] + sizes["v_dim"])
    parts = flops(kind, 8192, 0) + flops(kind, 64, 8192)
    assert parts == pytest.approx(flops(kind, 8192 + 64, 0) + 8192 * expanding, rel=1e-12)
    assert flops(other, 1, 8192) < flops(kind, 1, 8192)
    assert flops(other, 8192, 0) > flops(kind, 8192, 0)


def test_a_decoder_attends_to_keys_that_its_first_pass_computed() -> None:
    model = Architecture.from_config("t5-base")
    kind = next(k for k in model.kinds.values() if k.causal)
    hidden, width = kind.sizes["hidden"], kind.sizes["heads"] * kind.sizes["head_dim"]

    def flops(cached: int, memory: int) -> float:
        return float(layer_forward_flops(kind, STACK, Columns(8, 1, 1, cached=cached, memory=memory)))

    computing, attending = 2 * 2 * hidden * width, 8 * 2 * 2 * width  # of a position of the encoder
    assert flops(0, 500) - flops(0, 400) == 100 * (computing + attending)
    assert flops(64, 500) - flops(64, 400) == 100 * attending
    cache = model_cache(model)
    assert cache.encoded == cache.per_token == 12 * 2 * width * 2
    assert cache.bytes(100, memory=7) == 107 * cache.per_token
    step = decode_flops(model, 101)
    assert step == forward_flops(decoding(model), STACK, Columns(1, 1, 1, cached=100))
    assert decode_flops(model, 102) - step == 12 * 2 * 2 * 2 * width  # both attentions see one position more


def test_encoders_keep_nothing() -> None:
    for name in ("bert-base", "t5-base"):
        model = Architecture.from_config(name)
        for kind in model.kinds.values():
            assert (layer_state(kind, STACK) == State()) == (not kind.causal)
    assert model_cache(Architecture.from_config("bert-base")).bytes(1000) == 0


def test_an_indexer_selects_its_window_among_all_positions() -> None:
    kind = next(iter(Architecture.from_config("deepseek-v3.2").kinds.values()))
    assert kind.window is not None
    assert kind.kept_window is None
    near = next(k for k in Architecture.from_config("gemma3-12b").kinds.values() if k.window)
    sizes = kind_sizes(near, Columns(16, 1, 1, cached=5000), STACK)
    assert (sizes.dims["context"], sizes.dims["cache_span"]) == (near.window - 1 + 16, near.window)


def test_states_of_positions_and_of_sequences() -> None:
    llama, mamba = (Architecture.from_config(n) for n in ("llama-3-8b", "mamba2-2.7b"))
    (gqa,), (scan,) = llama.kinds.values(), mamba.kinds.values()
    held = layer_state(gqa, STACK)

    def size(kind: object, terms: object, **columns: int) -> int:
        return kind_sizes(kind, Columns(1, 1, 1, **columns), STACK).size(terms)  # type: ignore[arg-type]

    assert size(gqa, held.tokens, cached=999) == 1000 * 2 * 8 * 128 * 2
    assert size(gqa, held.tokens, cached=999, tp=4) == 1000 * 2 * 2 * 128 * 2
    assert held.sequences == ()
    state = layer_state(scan, STACK)
    assert state.tokens == ()
    assert size(scan, state.sequences, cached=10) == size(scan, state.sequences, cached=10**6) > 0
    latent = absorbed(next(iter(Architecture.from_config("deepseek-v3").kinds.values())))
    # A latent has no heads: tensor-parallel ranks hold it whole.
    whole, each = (size(latent, layer_state(latent, STACK).tokens, cached=99, tp=t) for t in (1, 8))
    assert whole == each == 100 * (512 + 64) * 2
