"""Blocks of encoders and of encoder-decoder models in plain torch, the reference that the counts are compared with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .blocks import AttentionKernel, Block, Checkpointed, attend


class EncoderBlock(Block):
    """Two residual branches with their norms behind the sum (arXiv:1706.03762)."""

    def _branches(self, x: Tensor, *_: Tensor) -> Tensor:
        x = self.attention_norm(x + self._part("attention", self.attention, x))
        y: Tensor = self.mlp_norm(x + self._part("mlp", self.mlp, x))
        return y


class CrossAttention(nn.Module):
    """Attention to the output of an encoder, (batch, positions, hidden)."""

    def __init__(self, hidden: int, heads: int, head_dim: int, dtype: torch.dtype, *, kernel: AttentionKernel):
        super().__init__()
        self.heads, self.kernel = heads, kernel
        self.q, self.k, self.v = (nn.Linear(hidden, heads * head_dim, bias=False, dtype=dtype) for _ in range(3))
        self.out = nn.Linear(heads * head_dim, hidden, bias=False, dtype=dtype)

    def forward(self, x: Tensor, encoded: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)) for t in (self.q(x), self.k(encoded), self.v(encoded)))
        return self.out(attend(q, k, v, self.kernel, causal=False).flatten(2))


class DecoderBlock(Block):
    """A block with cross-attention between its two branches, each behind its norm (arXiv:1910.10683).

    ``encoded`` is what it attends to, set before it runs.
    """

    encoded: Tensor

    def __init__(
        self,
        norm: Callable[[], nn.Module],
        attention: nn.Module,
        mlp: nn.Module,
        cross: CrossAttention,
        *,
        checkpointed: Checkpointed = "none",
    ):
        super().__init__(norm, attention, mlp, checkpointed=checkpointed)
        self.cross_norm, self.cross = norm(), cross

    def forward(self, x: Tensor) -> Tensor:
        return self._checkpointed(x, self.encoded)

    def _branches(self, x: Tensor, *encoded: Tensor) -> Tensor:
        x = x + self._attention(x)
        x = x + self.cross(self.cross_norm(x), *encoded)
        return x + self._mlp(x)
