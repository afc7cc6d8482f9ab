"""Attention of new tokens over a cache in plain torch, around the modules of :mod:`.blocks`: what it keeps is in
``state`` after a pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import blocks, encoders, sparse


def attended(q: Tensor, k: Tensor, v: Tensor, *, window: int | None = None, each: bool = False) -> Tensor:
    """Attention of (batch, heads, positions, width) tensors, the queries being the last of the positions: of all pairs,
    or of ``each`` query with those alone that it sees."""
    if not each:
        return torch.softmax(q @ k.transpose(-1, -2), -1) @ v
    first = k.shape[2] - q.shape[2] + 1
    rows = []
    for i, query in enumerate(q.split(1, 2)):
        seen = slice(max(0, first + i - (window or k.shape[2])), first + i)
        rows.append(torch.softmax(query @ k[:, :, seen].transpose(-1, -2), -1) @ v[:, :, seen])
    return torch.cat(rows, 2)


class CachedAttention(nn.Module):
    """Grouped-query attention of new tokens over cached and new keys and values, all of them or those in a window.

    ``options`` are those of :class:`~llmsim.layers.attention.Attention` that add to the module.
    """

    def __init__(
        self,
        module: blocks.Attention,
        batch: int,
        cached: int,
        *,
        window: int | None = None,
        each: bool = False,
        **options: Any,
    ):
        super().__init__()
        self.inner, self.window, self.each = module, window, each
        matrix = module.out.weight
        held = cached if window is None else min(cached, window)
        shape = (batch, held, module.widths[1] // module.head_dim, module.head_dim)
        self.state = [torch.zeros(shape, dtype=matrix.dtype) for _ in range(2)]
        hidden, width = matrix.shape
        self.gate = nn.Linear(hidden, width, bias=False, dtype=matrix.dtype) if options.get("gate") else None
        self.sink = torch.zeros(width // module.head_dim, dtype=matrix.dtype) if options.get("sinks") else None
        normed = options.get("qk_norm", "none") != "none"
        self.norm = blocks.RmsNorm(module.head_dim, "activation", matrix.dtype) if normed else None

    def forward(self, x: Tensor) -> Tensor:
        own = self.inner
        flat = own.qkv(x).split(own.widths, -1) if own.fused else (own.q(x), own.k(x), own.v(x))
        q, k, v = (t.unflatten(-1, (-1, own.head_dim)) for t in flat)
        if self.norm is not None:
            q, k = self.norm(q), self.norm(k)
        if own.rotary is not None:  # tables of the new positions: their number is what counts
            q, k = own.rotary(q), own.rotary(k)
        # The first of the new tokens sees one position less than the window before it.
        before = [t if self.window is None else t[:, max(0, t.shape[1] - self.window + 1) :] for t in self.state]
        whole = [torch.cat(pair, 1) for pair in zip(before, (k, v), strict=True)]
        self.state = [t if self.window is None else t[:, max(0, t.shape[1] - self.window) :] for t in whole]
        repeats = q.shape[2] // k.shape[2]
        keys, values = (t.repeat_interleave(repeats, 2).transpose(1, 2) for t in whole)
        y = self._attend(q.transpose(1, 2), keys, values).transpose(1, 2).flatten(2)
        if self.gate is not None:
            y = y * self.gate(x).sigmoid()
        out: Tensor = own.out(y)
        return out

    def _attend(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        if self.sink is None:
            return attended(q, keys, values, window=self.window, each=self.each)
        scores = q @ keys.transpose(-1, -2)
        sink = self.sink[:, None, None].expand(*scores.shape[:-1], 1)
        return torch.softmax(torch.cat((scores, sink), -1), -1)[..., :-1] @ values


class CachedCrossAttention(nn.Module):
    """Attention of new tokens to the output of an encoder, whose keys and values the first pass computes."""

    def __init__(self, module: encoders.CrossAttention, batch: int, cached: int, memory: int):
        super().__init__()
        self.inner = module
        shape = (batch, memory, module.heads, module.k.weight.shape[0] // module.heads)
        self.state = [torch.zeros(shape, dtype=module.k.weight.dtype) for _ in range(2 * (cached > 0))]

    def forward(self, x: Tensor, encoded: Tensor) -> Tensor:
        own = self.inner
        if not self.state:
            self.state = [product(encoded).unflatten(-1, (own.heads, -1)) for product in (own.k, own.v)]
        q = own.q(x).unflatten(-1, (own.heads, -1))
        y: Tensor = own.out(attended(*(t.transpose(1, 2) for t in (q, *self.state))).transpose(1, 2).flatten(2))
        return y


class CachedLatentAttention(nn.Module):
    """Latent attention of new tokens over cached latents and shared rotary keys. ``absorb``: every head attends to them
    as they are; otherwise keys and values of all positions expand from them."""

    def __init__(self, module: blocks.LatentAttention, batch: int, cached: int, *, absorb: bool):
        super().__init__()
        self.inner, self.absorb = module, absorb
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
        core = self._absorbed if self.absorb else self._expanded
        y: Tensor = own.out(core(q_nope, own.rotary(q_rope), mask).flatten(2))
        return y

    def _absorbed(self, q_nope: Tensor, q_rope: Tensor, mask: Tensor | float) -> Tensor:
        own = self.inner
        up, out = (m.weight.unflatten(0, (own.heads, -1)) for m in (own.k_up, own.v_up))
        q_low = torch.einsum("bshn,hnr->bshr", q_nope, up)
        q_wide = torch.cat((q_low, q_rope), -1).transpose(1, 2)  # (batch, heads, new, latent)
        keys = torch.cat(self.state[:2], -1).unsqueeze(1)
        weights = torch.softmax(q_wide @ keys.transpose(-1, -2) + mask, -1)
        low = (weights @ self.state[0].unsqueeze(1)).transpose(1, 2)
        return torch.einsum("bshr,hvr->bshv", low, out)

    def _expanded(self, q_nope: Tensor, q_rope: Tensor, mask: Tensor | float) -> Tensor:
        own = self.inner
        k_nope, v = own._up(self.state[0])
        keys = torch.cat((k_nope, self.state[1].unsqueeze(2).expand(-1, -1, own.heads, -1)), -1).transpose(1, 2)
        q = torch.cat((q_nope, q_rope), -1).transpose(1, 2)
        weights = torch.softmax(q @ keys.transpose(-1, -2) + mask, -1)
        return (weights @ v.transpose(1, 2)).transpose(1, 2)


class CachedSparseAttention(CachedLatentAttention):
    """The same to the positions that an indexer leaves, whose keys are cached too."""

    inner: sparse.SparseLatentAttention

    def __init__(self, module: sparse.SparseLatentAttention, batch: int, cached: int, *, absorb: bool):
        super().__init__(module, batch, cached, absorb=absorb)
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


def cached_attention(
    module: nn.Module, batch: int, cached: int, *, absorb: bool, window: int | None, each: bool, **options: Any
) -> CachedAttention | CachedLatentAttention:
    """The attention of a block over so many cached tokens."""
    if isinstance(module, sparse.SparseLatentAttention):
        return CachedSparseAttention(module, batch, cached, absorb=absorb)
    if isinstance(module, blocks.LatentAttention):
        return CachedLatentAttention(module, batch, cached, absorb=absorb)
    assert isinstance(module, blocks.Attention)
    return CachedAttention(module, batch, cached, window=window, each=each, **options)
