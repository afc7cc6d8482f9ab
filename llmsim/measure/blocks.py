"""Transformer blocks in plain torch, the reference that the counts are compared with.

Written against documented shapes, in the arrangement of each family: Llama (grouped-query attention, rotary positions,
SwiGLU), GPT-2 (layer norms, biases, GELU), Mixtral (router, sorted dispatch, grouped products) and multi-head latent
attention. Activations are (batch, sequence, hidden); heads are the third dimension inside attention.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed._functional_collectives import all_to_all_single_autograd
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from .counters import marked_recomputation, selective_recomputation

AttentionKernel = Literal["flash", "math", "eager"]
Checkpointed = Literal["none", "block", "attention", "mlp", "matmuls", "matmuls+attention"]
"""Nothing, the block, one of its branches, or the block but for the results of its products (and of attention)."""

_aten = torch.ops.aten
PRODUCTS = frozenset({_aten.mm.default, _aten.addmm.default, _aten._grouped_mm.default})
KEPT_RESULTS: dict[str, frozenset[Any]] = {
    "matmuls": PRODUCTS,
    "matmuls+attention": PRODUCTS | {_aten._scaled_dot_product_flash_attention_for_cpu.default},
}
Part = Callable[..., Tensor]


NormProduct = Literal["fp32", "activation"]
"""The gain is applied in ``fp32`` (as ``torch.nn.RMSNorm`` does), or after rounding in the ``activation``'s format (as
in the code of most published checkpoints)."""


def rms_norm(x: Tensor, gain: Tensor, product: NormProduct) -> Tensor:
    """Root-mean-square norm over the last dimension, statistics in fp32."""
    wide = x.float()
    unit = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return (gain * unit).to(x.dtype) if product == "fp32" else gain * unit.to(x.dtype)


class RmsNorm(nn.Module):
    """Root-mean-square norm with a gain."""

    def __init__(self, width: int, product: NormProduct, dtype: torch.dtype):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, dtype=dtype))
        self.product: NormProduct = product

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.product)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions on (batch, sequence, heads, width), from tables (sequence, 1, width / 2)."""
    first, second = x.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)


class RotaryTable(nn.Module):
    """Cosines and sines, shared by all layers."""

    def __init__(self, sequence: int, width: int, dtype: torch.dtype):
        super().__init__()
        angles = torch.arange(sequence)[:, None] * 1e4 ** (-torch.arange(0, width, 2) / width)
        self.register_buffer("cosine", angles.cos()[:, None].to(dtype))
        self.register_buffer("sine", angles.sin()[:, None].to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        return rotate(x, self.cosine, self.sine)


def attend(
    q: Tensor, k: Tensor, v: Tensor, kernel: AttentionKernel, dropout: float = 0.0, *, causal: bool = True,
    mask: Tensor | float = 0.0,
) -> Tensor:  # fmt: skip
    """Attention of (batch, sequence, heads, width) tensors; fails where the kernel asked for cannot run."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    if kernel == "eager":
        return _attend_eager(q, k, v, dropout, mask).transpose(1, 2)
    backend = SDPBackend.FLASH_ATTENTION if kernel == "flash" else SDPBackend.MATH
    with sdpa_kernel(backend):
        grouped = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped).transpose(1, 2)


def _attend_eager(q: Tensor, k: Tensor, v: Tensor, dropout: float, mask: Tensor | float) -> Tensor:
    """Attention as separate products and a softmax, in the format of its inputs. The causal mask is left out: it would
    be a constant shared by all layers."""
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    weights = torch.softmax(scores + mask if isinstance(mask, Tensor) else scores, -1)
    if dropout:
        weights = torch.native_dropout(weights, dropout, True)[0]
    return weights @ v


class Attention(nn.Module):
    """Grouped-query attention; one product for q, k and v where ``fused``."""

    def __init__(
        self,
        hidden: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        *,
        kernel: AttentionKernel = "flash",
        rotary: RotaryTable | None = None,
        fused: bool = False,
        bias: bool = False,
        dropout: float = 0.0,
        causal: bool = True,
    ):
        super().__init__()
        self.causal = causal
        self.head_dim, self.kernel, self.rotary, self.fused, self.dropout = head_dim, kernel, rotary, fused, dropout
        self.widths = [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim]
        if fused:
            self.qkv = nn.Linear(hidden, sum(self.widths), bias=bias, dtype=dtype)
        else:
            self.q, self.k, self.v = (nn.Linear(hidden, width, bias=bias, dtype=dtype) for width in self.widths)
        self.out = nn.Linear(heads * head_dim, hidden, bias=bias, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        flat = self.qkv(x).split(self.widths, -1) if self.fused else (self.q(x), self.k(x), self.v(x))
        q, k, v = (t.unflatten(-1, (-1, self.head_dim)) for t in flat)
        if self.rotary is not None:
            q, k = self.rotary(q), self.rotary(k)
        return self.out(attend(q, k, v, self.kernel, self.dropout, causal=self.causal).flatten(2))


class LatentAttention(nn.Module):
    """Multi-head latent attention, expanded. ``fused``: the key/value latent and the rotary key come out of one
    product, keys and values out of another."""

    def __init__(
        self,
        hidden: int,
        heads: int,
        q_rank: int,
        kv_rank: int,
        nope_dim: int,
        rope_dim: int,
        v_dim: int,
        dtype: torch.dtype,
        *,
        norm: Callable[[int], nn.Module],
        rotary: RotaryTable,
        kernel: AttentionKernel = "math",
        fused: bool = False,
    ):
        super().__init__()
        self.heads, self.kernel, self.rotary, self.fused = heads, kernel, rotary, fused
        self.kv_rank, self.nope_dim, self.rope_dim, self.v_dim = kv_rank, nope_dim, rope_dim, v_dim

        def linear(inputs: int, outputs: int) -> nn.Linear:
            return nn.Linear(inputs, outputs, bias=False, dtype=dtype)

        self.q_down, self.q_norm = linear(hidden, q_rank), norm(q_rank)
        self.q_up = linear(q_rank, heads * (nope_dim + rope_dim))
        self.kv_norm = norm(kv_rank)
        if fused:
            self.kv_down = linear(hidden, kv_rank + rope_dim)
            self.kv_up = linear(kv_rank, heads * (nope_dim + v_dim))
        else:
            self.kv_down, self.k_rope = linear(hidden, kv_rank), linear(hidden, rope_dim)
            self.k_up, self.v_up = linear(kv_rank, heads * nope_dim), linear(kv_rank, heads * v_dim)
        self.out = linear(heads * v_dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self._attend(x, self.q_norm(self.q_down(x)))

    def _attend(self, x: Tensor, q_low: Tensor, mask: Tensor | float = 0.0) -> Tensor:
        q = self.q_up(q_low).unflatten(-1, (self.heads, -1))
        q_nope, q_rope = q.split([self.nope_dim, self.rope_dim], -1)
        q = torch.cat((q_nope, self.rotary(q_rope)), -1)
        latent, k_rope = self._down(x)
        k_nope, v = self._up(self.kv_norm(latent))
        k_rope = self.rotary(k_rope.unsqueeze(2)).expand(-1, -1, self.heads, -1)
        return self.out(attend(q, torch.cat((k_nope, k_rope), -1), v, self.kernel, mask=mask).flatten(2))

    def _down(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not self.fused:
            return self.kv_down(x), self.k_rope(x)
        latent, k_rope = self.kv_down(x).split([self.kv_rank, self.rope_dim], -1)
        return latent, k_rope

    def _up(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        if not self.fused:
            return self.k_up(latent).unflatten(-1, (self.heads, -1)), self.v_up(latent).unflatten(-1, (self.heads, -1))
        k_nope, v = self.kv_up(latent).unflatten(-1, (self.heads, -1)).split([self.nope_dim, self.v_dim], -1)
        return k_nope, v


class GatedMlp(nn.Module):
    """SwiGLU; one product for gate and up where ``fused``."""

    def __init__(self, hidden: int, ffn: int, dtype: torch.dtype, *, fused: bool = False):
        super().__init__()
        self.fused = fused
        if fused:
            self.gate_up = nn.Linear(hidden, 2 * ffn, bias=False, dtype=dtype)
        else:
            self.gate, self.up = (nn.Linear(hidden, ffn, bias=False, dtype=dtype) for _ in range(2))
        self.down = nn.Linear(ffn, hidden, bias=False, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1) if self.fused else (self.gate(x), self.up(x))
        return self.down(F.silu(gate) * up)


def clamped_gate(gate: Tensor, up: Tensor) -> Tensor:
    """The gate of gpt-oss: both sides clamped to 7, a sigmoid of slope 1.702, one added to the other side."""
    gate, up = gate.clamp(max=7.0), up.clamp(-7.0, 7.0)
    return (up + 1) * (gate * torch.sigmoid(gate * 1.702))


class Mlp(nn.Module):
    """Two products with biases and a GELU between them."""

    def __init__(self, hidden: int, ffn: int, dtype: torch.dtype):
        super().__init__()
        self.up, self.down = nn.Linear(hidden, ffn, dtype=dtype), nn.Linear(ffn, hidden, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class Sorting(NamedTuple):
    """Where the rows of a dispatch come from: position in the flat choices, source token, end of each expert."""

    order: Tensor
    source: Tensor
    ends: Tensor


def route(logits: Tensor, top_k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Shares and experts (tokens, top_k): a softmax over all experts in fp32, the best renormalised."""
    shares, chosen = torch.topk(torch.softmax(logits.float(), -1), top_k)
    return (shares / shares.sum(-1, keepdim=True)).to(dtype), chosen


def dispatch(tokens: Tensor, chosen: Tensor, experts: int) -> tuple[Tensor, Sorting]:
    """The rows (tokens x top_k, hidden), sorted by expert."""
    flat = chosen.flatten()
    order = flat.argsort()
    source = order // chosen.shape[1]
    ends = F.one_hot(flat, experts).sum(0).cumsum(0).to(torch.int32)
    return tokens[source], Sorting(order, source, ends)


def combine(rows: Tensor, shares: Tensor, sorting: Sorting) -> Tensor:
    """The tokens: sums of their rows, weighed by their shares."""
    weighted = rows * shares.flatten()[sorting.order][:, None]
    tokens = torch.zeros(shares.shape[0], rows.shape[1], dtype=rows.dtype, device=rows.device)
    return tokens.index_add(0, sorting.source, weighted)


class Experts(nn.Module):
    """Top-k routing without dropping, rows sorted by expert, gated experts as grouped products.

    With a process group the experts are spread over it: rows travel by two all-to-alls, here in equal shares, and are
    sorted once more on arrival.
    """

    def __init__(
        self,
        hidden: int,
        ffn: int,
        experts: int,
        top_k: int,
        dtype: torch.dtype,
        *,
        compute_dtype: torch.dtype,
        group: ProcessGroup | None = None,
    ):
        super().__init__()
        self.experts, self.top_k, self.compute_dtype, self.group = experts, top_k, compute_dtype, group
        self.router = nn.Linear(hidden, experts, bias=False, dtype=dtype)
        local = experts // (group.size() if group else 1)
        self.gate = nn.Parameter(torch.zeros(local, hidden, ffn, dtype=dtype))
        self.up = nn.Parameter(torch.zeros(local, hidden, ffn, dtype=dtype))
        self.down = nn.Parameter(torch.zeros(local, ffn, hidden, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)
        shares, chosen = route(self.router(tokens), self.top_k, self.compute_dtype)
        rows, sorting = dispatch(tokens.to(self.compute_dtype), chosen, self.experts)
        compute = self._compute if self.group is None else self._compute_remotely
        return combine(compute(rows, sorting.ends), shares, sorting).view(x.shape)

    def _compute(self, rows: Tensor, ends: Tensor) -> Tensor:
        def product(x: Tensor, weight: Tensor) -> Tensor:
            return torch._grouped_mm(x, weight.to(self.compute_dtype), offs=ends)

        return product(F.silu(product(rows, self.gate)) * product(rows, self.up), self.down)

    def _compute_remotely(self, rows: Tensor, ends: Tensor) -> Tensor:
        assert self.group is not None
        members, local = self.group.size(), self.gate.shape[0]
        shares = [rows.shape[0] // members] * members
        arrived = all_to_all_single_autograd(rows, shares, shares, self.group)
        # Rows arrive by (source rank, expert); the products want them by expert.
        positions = torch.arange(rows.shape[0], device=rows.device)
        by_expert = positions.view(members, local, -1).transpose(0, 1).flatten()
        done = self._compute(arrived[by_expert], ends[:local].clone())
        return all_to_all_single_autograd(done[by_expert.argsort()], shares, shares, self.group)


def recomputed(part: Part, *inputs: Tensor, kept: frozenset[Any] = frozenset()) -> Tensor:
    """``part(*inputs)``, computed again in backward but for the results of the operators in ``kept``."""
    contexts = partial(selective_recomputation, kept) if kept else marked_recomputation
    y: Tensor = checkpoint(part, *inputs, use_reentrant=False, context_fn=contexts)
    return y


class Block(nn.Module):
    """Two pre-norm residual branches, either or both of them checkpointed, with dropout behind each where asked for."""

    def __init__(
        self,
        norm: Callable[[], nn.Module],
        attention: nn.Module,
        mlp: nn.Module,
        *,
        checkpointed: Checkpointed = "none",
        dropout: float = 0.0,
    ):
        super().__init__()
        self.attention_norm, self.attention, self.mlp_norm, self.mlp = norm(), attention, norm(), mlp
        self.checkpointed, self.dropout = checkpointed, dropout

    def forward(self, x: Tensor) -> Tensor:
        return self._checkpointed(x)

    def _checkpointed(self, *inputs: Tensor) -> Tensor:
        if self.checkpointed == "block" or self.checkpointed in KEPT_RESULTS:
            return recomputed(self._branches, *inputs, kept=KEPT_RESULTS.get(self.checkpointed, frozenset()))
        return self._branches(*inputs)

    def _branches(self, x: Tensor, *_: Tensor) -> Tensor:
        x = x + self._part("attention", self._attention, x)
        return x + self._part("mlp", self._mlp, x)

    def _part(self, name: str, part: Part, x: Tensor) -> Tensor:
        y = recomputed(part, x) if self.checkpointed == name else part(x)
        return torch.native_dropout(y, self.dropout, True)[0] if self.dropout else y

    def _attention(self, x: Tensor) -> Tensor:
        y: Tensor = self.attention(self.attention_norm(x))
        return y

    def _mlp(self, x: Tensor) -> Tensor:
        y: Tensor = self.mlp(self.mlp_norm(x))
        return y


class Model(nn.Module):
    """Embedding (with learned positions and dropout where asked for), blocks, final norm, head; returns the logits."""

    def __init__(
        self,
        vocab: int,
        hidden: int,
        blocks: list[Block],
        norm: nn.Module,
        dtype: torch.dtype,
        *,
        positions: int = 0,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.embedding = nn.Embedding(vocab, hidden, dtype=dtype)
        self.positions = nn.Embedding(positions, hidden, dtype=dtype) if positions else None
        self.blocks = nn.ModuleList(blocks)
        self.norm, self.dropout = norm, dropout
        self.head = nn.Linear(hidden, vocab, bias=False, dtype=dtype)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        if self.positions is not None:
            x = x + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        if self.dropout:
            x = torch.native_dropout(x, self.dropout, True)[0]
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy in fp32."""
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
