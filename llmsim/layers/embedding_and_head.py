"""The two ends of a model, embedding and head with its loss, and the multi-token-prediction module."""

from __future__ import annotations

from collections.abc import Mapping

from ..core.operators import LayerBuilder, Tensor, index, weight
from .base import RESIDUAL, Mixer, Norm, layer_input, residual

TABLE = "embedding.weight"


def embedding(
    *,
    positions: bool = False,
    types: bool = False,
    norm: Norm | None = None,
    projected: bool = False,
    dropout: bool = False,
) -> LayerBuilder:
    """Token embedding, with learned positions, token types, a norm and dropout where the model has them.

    ``projected``: the table has its own width and a matrix leads to the hidden width (OPT-350M).
    """
    b = LayerBuilder()
    width = "embed_width" if projected else "hidden"
    table = weight(TABLE, "vocab", width, leading="vocab", format="weight_high")
    tokens = index("tokens", "batch sequence")
    x = b.op("embedding", "embedding", [tokens, table], f"batch sequence {width}", format="residual")
    if projected:
        x = b.linear("embed_in", x, "embed_width", "hidden")
    if positions:
        x = _add_lookup(b, x, "position", "sequence", "positions")
    if types:
        x = _add_lookup(b, x, "type", "batch sequence", "token_types")
    if norm is not None:
        x = norm(b, "embedding_norm", x)
    if dropout:
        b.dropout("embedding_dropout", x)
    return b


def _add_lookup(b: LayerBuilder, x: Tensor, name: str, dims: str, rows: str) -> Tensor:
    table = weight(f"{name}.weight", rows, "hidden", leading=rows, format="weight_high")
    y = b.op(f"{name}_embedding", "embedding", [index(name, dims), table], RESIDUAL, format="residual")
    return b.op(f"{name}_add", "add", [x, y], RESIDUAL, format="residual")


def head(*, tied: bool, norm: Norm | None, bias: bool = False, projected: bool = False) -> LayerBuilder:
    """Final norm, the product with the vocabulary matrix (the embedding table itself where tied) and the loss."""
    b = LayerBuilder()
    x = layer_input()
    if norm is not None:
        x = norm(b, "final_norm", x)
    if projected:
        x = b.linear("embed_out", x, "hidden", "embed_width")
    logits_and_loss(b, x, tied, bias, "embed_width" if projected else "hidden")
    return b


def logits_and_loss(b: LayerBuilder, x: Tensor, tied: bool, bias: bool, width: str = "hidden") -> None:
    """The product with the vocabulary matrix, whose rows have ``width``, and the loss of its logits."""
    matrix = weight(TABLE if tied else "head.weight", width, "vocab", leading="vocab", format="weight_high")
    reads = [x, matrix, *([weight("head.bias", "vocab")] if bias else [])]
    logits = b.op("logits", "contract", reads, "batch sequence vocab")
    b.op(
        "loss",
        "loss",
        [logits, index("labels", "batch sequence")],
        "batch sequence",
        over="vocab",
        format="fp32",
    )


def next_token_module(mixers: Mapping[str, Mixer], norm: Norm, *, tied: bool = False) -> LayerBuilder:
    """One multi-token-prediction module (DeepSeek-V3, arXiv:2412.19437, section 2.2): two norms, a projection of both
    streams, one layer, and the shared norm-and-head with its own loss. Embedding and head are the model's own."""
    b = LayerBuilder()
    x = layer_input()
    table = weight(TABLE, "vocab", "hidden", leading="vocab", format="weight_high")
    e = b.op("mtp_embedding", "embedding", [index("tokens", "batch sequence"), table], RESIDUAL, format="residual")
    both = b.op(
        "mtp_concat",
        "concat",
        [norm(b, "mtp_embedding_norm", e), norm(b, "mtp_hidden_norm", x)],
        "batch sequence hidden_pair",
    )
    y = b.linear("mtp_projection", both, "hidden_pair", "hidden")
    for name, mixer in mixers.items():
        y = residual(b, y, name, mixer, norm)
    logits_and_loss(b, norm(b, "mtp_final_norm", y), tied, bias=False)
    return b
