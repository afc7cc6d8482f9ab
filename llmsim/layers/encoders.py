"""Parts of encoders and of encoder-decoder models: their parameters. The cost of attention across two streams and of a
pooler is not modelled; architectures that hold them say so under ``unsupported``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from ..core.operators import LayerBuilder, Operator, Tensor, activation, index, weight
from .attention import HEADS
from .base import RESIDUAL, Norm
from .ends import embedding, head


@dataclass(frozen=True)
class CrossAttention:
    """Attention of a decoder to the output of its encoder (Vaswani 2017, arXiv:1706.03762, section 3.2.3)."""

    def __call__(self, b: LayerBuilder, x: Tensor) -> Tensor:
        encoded = activation("encoded", "batch context hidden")
        q = b.linear("cross_q", x, "hidden", "heads head_dim")
        k = b.linear("cross_k", encoded, "hidden", "kv_heads head_dim", state=True)
        v = b.linear("cross_v", encoded, "hidden", "kv_heads head_dim", state=True)
        o = b.op("cross_attention", "cross_attention", [q, k, v], HEADS, over="context")
        return b.linear("cross_out", o, "heads head_dim", "hidden")


@cache
def relative_embedding_operators() -> tuple[Operator, ...]:
    """Token embedding of T5 with the tables of relative positions that all layers of a stack share (Raffel 2019,
    arXiv:1910.10683, section 2.1)."""
    b = embedding()
    for stack in ("encoder", "decoder"):
        table = weight(f"{stack}_positions.weight", "position_buckets", "heads", leading="position_buckets",
                       format="weight_high")  # fmt: skip
        distances = index(f"{stack}_distances", "sequence context")
        b.op(f"{stack}_positions", "embedding", [distances, table], "sequence context heads")
    return tuple(b.operators)


@cache
def encoder_decoder_head_operators(tied: bool, norm: Norm) -> tuple[Operator, ...]:
    """The final norm of the encoder, then the head of the decoder."""
    b = LayerBuilder()
    norm(b, "encoder_norm", activation("encoded", RESIDUAL))
    return (*b.operators, *head(tied=tied, norm=norm).operators)


@cache
def pooler_operators() -> tuple[Operator, ...]:
    """The dense layer on the first position that ends BERT (Devlin 2018, arXiv:1810.04805)."""
    b = LayerBuilder()
    pooled = b.linear("pooler", activation("first", "batch hidden"), "hidden", "pooled", bias=True)
    b.op("pooler_activate", "activation", [pooled], "batch pooled")
    return tuple(b.operators)
