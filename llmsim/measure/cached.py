"""New tokens after cached ones, counted by the operator passes and by torch: FLOPs forward and bytes of state.

``derived`` counts from our operators, ``executed`` runs plain torch with a cache on fake tensors; both return the same
two numbers, which are to be equal with ``==``. A prompt is so many tokens after none, a chunk several after some, a
decoding step one after many.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from ..core.sharding import mesh_sharding
from ..core.state import CACHE, INDEX_CACHE, RECURRENT_STATE, derive_state
from ..core.terms import Sizes
from ..core.work import derive_work
from ..layers.base import LayerKind
from ..layers.mla import absorbed
from ..timing.columns import Columns, kind_sizes
from ..timing.structure import Structure
from . import blocks, mixers, sparse
from .counters import WorkCounter
from .pairs import BlockSpec, block_module, inventory, layer_operators

RECURRENT = ("mamba2", "mamba1", "delta_net")


class Counts(NamedTuple):
    """Multiply-adds x 2 of a forward pass over the new tokens, and bytes that the next pass needs."""

    flops: int
    state_bytes: int


# --- from the operators ---------------------------------------------------------------------------------------------


def derived(spec: BlockSpec, cached: int, *, absorb: bool = False) -> Counts:
    """The counts from the operator passes, for ``spec.sizes["sequence"]`` new tokens.

    Parameters
    ----------
    absorb
        Whether latent attention takes its up-projections into queries and outputs.
    """
    kind = LayerKind("block", layer_operators(spec), spec.dims(), window=None, causal=True)
    kind = absorbed(kind) if absorb else kind
    sharding, sizes = mesh_sharding(sequence_parallel=False), _sizes(spec, kind, cached)
    works = derive_work(kind.operators, sharding, inventory(spec))
    # What is computed element by element has no products, for torch or anyone who counts them.
    forward = [w for w in works if w.phase == "forward" and w.kind != "recurrence"]
    state = derive_state(kind.operators, sharding)
    flops = sum(sizes.count(w.flops) for w in forward)
    return Counts(int(flops), int(sizes.size((*state.tokens, *state.selected, *state.sequences))))


def _sizes(spec: BlockSpec, kind: LayerKind, cached: int) -> Sizes:
    """The planner's sizes of new tokens after cached ones, with the formats of the block."""
    columns = Columns(spec.sizes["sequence"], spec.sizes["batch"], 1, cached=cached)
    formats = spec.values().formats
    kept = {CACHE: "activation", INDEX_CACHE: "activation", RECURRENT_STATE: "fp32"}
    own = {**formats, **{name: formats[format] for name, format in kept.items()}}
    sizes = kind_sizes(kind, columns, Structure("torch-eager"))
    return Sizes(sizes.dims, sizes.degrees, own)


# --- in torch -------------------------------------------------------------------------------------------------------


def executed(spec: BlockSpec, cached: int, *, absorb: bool = False) -> Counts:
    """The counts of the same block run by torch, its attention over a cache or its scan after a state."""
    s = spec.sizes
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), WorkCounter() as counter:
        x = torch.zeros(s["batch"], s["sequence"], s["hidden"], dtype=spec.dtype)
        block = block_module(spec)
        if spec.family in RECURRENT:
            with _recorded_states() as states:
                block(x)
            kept = _bytes(states) + _convolution_bytes(block, s["batch"])
        else:
            latent = CachedSparseAttention if spec.family == "dsa" else CachedLatentAttention
            make = latent if absorb else CachedAttention
            block.attention = make(block.attention, s["batch"], cached)
            block(x)
            kept = _bytes(block.attention.state)
    return Counts(counter.flops["forward"], kept)


def _bytes(tensors: list[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


class CachedAttention(nn.Module):
    """Grouped-query attention of new tokens over cached and new keys and values."""

    def __init__(self, module: blocks.Attention, batch: int, cached: int):
        super().__init__()
        self.inner = module
        shape = (batch, cached, module.widths[1] // module.head_dim, module.head_dim)
        self.state = [torch.zeros(shape, dtype=module.out.weight.dtype) for _ in range(2)]

    def forward(self, x: Tensor) -> Tensor:
        own = self.inner
        flat = own.qkv(x).split(own.widths, -1) if own.fused else (own.q(x), own.k(x), own.v(x))
        q, k, v = (t.unflatten(-1, (-1, own.head_dim)) for t in flat)
        if own.rotary is not None:  # tables of the new positions: their number is what counts
            q, k = own.rotary(q), own.rotary(k)
        self.state = [torch.cat(pair, 1) for pair in zip(self.state, (k, v), strict=True)]
        repeats = q.shape[2] // k.shape[2]
        keys, values = (t.repeat_interleave(repeats, 2).transpose(1, 2) for t in self.state)
        scores = q.transpose(1, 2) @ keys.transpose(-1, -2)
        attended = torch.softmax(scores, -1) @ values
        y: Tensor = own.out(attended.transpose(1, 2).flatten(2))
        return y


class CachedLatentAttention(nn.Module):
    """Latent attention of new tokens over cached latents, which nothing expands: every head attends to the latent and
    the shared rotary key."""

    def __init__(self, module: blocks.LatentAttention, batch: int, cached: int):
        super().__init__()
        self.inner = module
        dtype = module.out.weight.dtype
        self.state = [torch.zeros(batch, cached, width, dtype=dtype) for width in (module.kv_rank, module.rope_dim)]

    def forward(self, x: Tensor) -> Tensor:
        return self._attend(x, self.inner.q_norm(self.inner.q_down(x)))

    def _attend(self, x: Tensor, q_input: Tensor, mask: Tensor | float = 0.0) -> Tensor:
        own = self.inner
        q = own.q_up(q_input).unflatten(-1, (own.heads, -1))
        q_nope, q_rope = q.split([own.nope_dim, own.rope_dim], -1)
        latent, k_rope = own._down(x)
        new = (own.kv_norm(latent), own.rotary(k_rope.unsqueeze(2)).squeeze(2))
        self.state[:2] = [torch.cat(pair, 1) for pair in zip(self.state, new, strict=False)]
        up, out = (m.weight.unflatten(0, (own.heads, -1)) for m in (own.k_up, own.v_up))
        q_low = torch.einsum("bshn,hnr->bshr", q_nope, up)
        q_wide = torch.cat((q_low, own.rotary(q_rope)), -1).transpose(1, 2)  # (batch, heads, new, latent)
        keys = torch.cat(self.state[:2], -1).unsqueeze(1)
        weights = torch.softmax(q_wide @ keys.transpose(-1, -2) + mask, -1)
        low = (weights @ self.state[0].unsqueeze(1)).transpose(1, 2)
        attended = torch.einsum("bshr,hvr->bshv", low, out)
        y: Tensor = own.out(attended.flatten(2))
        return y


class CachedSparseAttention(CachedLatentAttention):
    """The same to the positions that an indexer leaves, whose keys are cached too."""

    inner: sparse.SparseLatentAttention

    def __init__(self, module: sparse.SparseLatentAttention, batch: int, cached: int):
        super().__init__(module, batch, cached)
        width = module.indexer.k.weight.shape[0]
        self.state.append(torch.zeros(batch, cached, width, dtype=module.out.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        own, indexer = self.inner, self.inner.indexer
        q_low = own.q_norm(own.q_down(x))
        self.state[2] = torch.cat((self.state[2], indexer.norm(indexer.k(x))), 1)
        q = indexer.q(q_low).unflatten(-1, (indexer.heads, -1)).flatten(1, 2)
        scores = (q @ self.state[2].transpose(1, 2)).unflatten(1, (-1, indexer.heads)).relu()
        scores = (scores * indexer.share(x)[..., None]).sum(2)
        chosen = scores.topk(min(own.top_k, scores.shape[-1])).indices
        mask = torch.full_like(scores, float("-inf")).scatter(-1, chosen, 0.0)
        return self._attend(x, q_low, mask[:, None])


@contextmanager
def _recorded_states() -> Iterator[list[Tensor]]:
    """The state of a scan after its last step or chunk."""
    found: list[Tensor] = []
    plain = mixers.advanced

    def advanced(state: Tensor, share: Tensor, new: Tensor) -> Tensor:
        found[:] = [plain(state, share, new)]
        return found[0]

    with mock.patch.object(mixers, "advanced", advanced):
        yield found


def _convolution_bytes(block: nn.Module, batch: int) -> int:
    """Inputs that short convolutions still need: all taps but the last, of every channel."""
    weights = [m.weight for m in block.modules() if isinstance(m, mixers.ShortConvolution)]
    return sum(batch * w.shape[0] * (w.shape[-1] - 1) * w.element_size() for w in weights)


def of_tokens(spec: BlockSpec, new: int) -> BlockSpec:
    """The block over so many new tokens, which a scan takes in chunks that divide them."""
    sizes = {**spec.sizes, "sequence": new}
    if "chunk_context" in sizes:
        sizes["chunk_context"] = min(sizes["chunk_context"], new)
    return replace(spec, sizes=sizes)
