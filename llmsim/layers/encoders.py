"""Parts of encoders and of encoder-decoder models.

What a decoder attends to is as long as its own sequence (dimension ``memory``). Every decoder layer counts the output
of the encoder among what it keeps, although one copy serves all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ..core.operators import LayerBuilder, Operator, Read, Tensor, activation, index, renamed, weight
from .attention import HEADS
from .base import RESIDUAL, Norm, layer_input
from .embedding_and_head import TABLE, embedding, head, logits_and_loss


@dataclass(frozen=True)
class CrossAttention:
    """Attention of a decoder to the output of its encoder (Vaswani 2017, arXiv:1706.03762, section 3.2.3)."""

    def __call__(self, b: LayerBuilder, x: Tensor) -> Tensor:
        encoded = activation("encoded", RESIDUAL)
        q = b.linear("cross_q", x, "hidden", "heads head_dim")
        k = b.linear("cross_k", encoded, "hidden", "kv_heads head_dim", state=True)
        v = b.linear("cross_v", encoded, "hidden", "kv_heads head_dim", state=True)
        reads: list[Tensor | Read] = [q, renamed(k, sequence="memory"), renamed(v, sequence="memory")]
        o = b.op("cross_attention", "attention", reads, HEADS, over="memory")
        return b.linear("cross_out", o, "heads head_dim", "hidden")


@lru_cache(maxsize=512)
def relative_embedding_operators() -> tuple[Operator, ...]:
    """Token embedding of T5 with the tables of relative positions that all layers of a stack share (Raffel 2019,
    arXiv:1910.10683, section 2.1)."""
    b = embedding()
    table = weight(TABLE, "vocab", "hidden", leading="vocab", format="weight_high")
    b.op("decoder_embedding", "embedding", [index("decoder_tokens", "batch sequence"), table], RESIDUAL,
         format="residual")  # fmt: skip
    for stack in ("encoder", "decoder"):
        table = weight(f"{stack}_positions.weight", "position_buckets", "heads", leading="position_buckets",
                       format="weight_high")  # fmt: skip
        distances = index(f"{stack}_distances", "sequence context")
        b.op(f"{stack}_positions", "embedding", [distances, table], "sequence context heads")
    return tuple(b.operators)


@lru_cache(maxsize=512)
def encoder_decoder_head_operators(tied: bool, norm: Norm) -> tuple[Operator, ...]:
    """The final norm of the encoder, then the head of the decoder."""
    b = LayerBuilder()
    norm(b, "encoder_norm", activation("encoded", RESIDUAL))
    return (*b.operators, *head(tied=tied, norm=norm).operators)


@lru_cache(maxsize=512)
def masked_head_operators(*, pooler: bool, transform: bool, tied: bool, norm: Norm) -> tuple[Operator, ...]:
    """The end of BERT (Devlin 2018, arXiv:1810.04805): a dense layer on the first position where it has a pooler, then
    the loss of every position's token, behind a dense layer, a norm and with a bias where it has the transform of its
    masked-language-model head, by the embedding table alone where not."""
    b = LayerBuilder()
    if pooler:
        pooled = b.linear("pooler", activation("first", "batch hidden"), "hidden", "pooled", bias=True)
        b.op("pooler_activate", "activation", [pooled], "batch pooled")
    x = layer_input()
    if transform:
        x = b.linear("transform", x, "hidden", "transformed", bias=True)
        x = norm(b, "transform_norm", b.op("transform_activate", "activation", [x], "batch sequence transformed"),
                 "transformed")  # fmt: skip
    logits_and_loss(b, x, tied, transform, x.dims[-1])
    return tuple(b.operators)
