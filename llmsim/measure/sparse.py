"""Sparse attention in plain torch, the reference that the counts are compared with (arXiv:2512.02556, section 2.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .blocks import LatentAttention


class Indexer(nn.Module):
    """Scores of all positions for each query, cut off from the gradients of the layer."""

    def __init__(self, hidden: int, q_rank: int, heads: int, width: int, dtype: torch.dtype):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.share = (
            nn.Linear(inputs, outputs, bias=False, dtype=dtype)
            for inputs, outputs in ((q_rank, heads * width), (hidden, width), (hidden, heads))
        )
        self.norm = nn.LayerNorm(width, dtype=dtype)

    def forward(self, x: Tensor, q_low: Tensor) -> Tensor:
        """(batch, sequence, sequence) from (batch, sequence, hidden) and (batch, sequence, rank)."""
        x, q_low = x.detach(), q_low.detach()
        q = self.q(q_low).unflatten(-1, (self.heads, -1)).flatten(1, 2)
        # All heads of all queries are rows of one product.
        scores = (q @ self.norm(self.k(x)).transpose(1, 2)).unflatten(1, (-1, self.heads)).relu()
        return (scores * self.share(x)[..., None]).sum(2)


class SparseLatentAttention(LatentAttention):
    """Latent attention to the ``top_k`` positions that an indexer leaves."""

    indexer: Indexer
    top_k: int

    def forward(self, x: Tensor) -> Tensor:
        q_low = self.q_norm(self.q_down(x))
        scores = self.indexer(x, q_low)
        chosen = scores.detach().topk(self.top_k).indices
        mask = torch.full_like(scores, float("-inf"), requires_grad=False).scatter(-1, chosen, 0.0)
        # A sum stands in for the indexer's own loss: its gradient meets every score.
        return self._attend(x, q_low, mask[:, None]) + 0 * scores.sum()
