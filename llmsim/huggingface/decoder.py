"""Decoder-only models: one reader for all families that are rows of the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from ..layers.base import Arrangement, Norm
from ..layers.blocks import Block, Parallel, embedding_operators, head_operators
from .attention import POSITIONS, AttentionRule, Positions, read_attention
from .blueprint import Blueprint, Part
from .feed_forward import FeedForwardRule, read_feed_forward
from .options import Rule, answer
from .reader import LARGEST_CONTEXT, MOST_LAYERS, Reader

MOST_MODULES = 16


@dataclass(frozen=True)
class Decoder:
    """How a family differs from Llama, whose values are the defaults.

    Attributes
    ----------
    attention, mlp
        The two parts of a layer.
    norm, norm_bias, arrangement, parallel
        The norm, where it stands, and whether the parts are side by side.
    positions, extra_positions
        How positions enter, unless ``position_embedding_type`` says otherwise, and rows of a learned table beyond
        ``max_position_embeddings``.
    embedding_norm
        A norm on the embedding.
    embed_width
        Width of the embedding table where it is not the hidden one.
    final_norm
        A norm before the head.
    tied, head_bias
        Whether the head is the embedding table where the file does not say, and whether it has a bias.
    mtp
        Whether multi-token-prediction modules come with ``num_nextn_predict_layers``.
    unused
        Fields that files of this family carry and that have no effect.
    """

    attention: AttentionRule = field(default_factory=AttentionRule)
    mlp: FeedForwardRule = field(default_factory=FeedForwardRule)
    norm: Literal["norm", "layer_norm"] = "norm"
    norm_bias: Rule[bool] = False
    arrangement: Rule[Arrangement] = "pre"
    parallel: Rule[Parallel] = "no"
    positions: Rule[Positions] = "rotary"
    extra_positions: int = 0
    embedding_norm: bool = False
    embed_width: Callable[[Reader], int | None] = lambda r: None
    final_norm: Rule[bool] = True
    tied: bool = False
    head_bias: Rule[bool] = False
    mtp: bool = False
    unused: tuple[str, ...] = ()


def read_decoder(r: Reader, family: Decoder) -> Blueprint:
    """The blueprint of a decoder-only model."""
    hidden, vocab = r.integer("hidden_size"), r.integer("vocab_size")
    layers = r.integer("num_hidden_layers", high=MOST_LAYERS)
    tied = r.flag("tie_word_embeddings", family.tied)
    max_positions = r.optional("max_position_embeddings", high=LARGEST_CONTEXT)
    usual: Positions = answer(family.positions, r)
    positions = r.choice("position_embedding_type", POSITIONS, usual)
    sizes = {"hidden": hidden, "vocab": vocab}
    if positions == "learned":
        if max_positions is None:
            r.missing("max_position_embeddings", "a whole number, the rows of the table of learned positions,")
        sizes["positions"] = max_positions + family.extra_positions
    width = family.embed_width(r) or hidden
    if width != hidden:
        sizes["embed_width"] = width

    norm = Norm(family.norm, answer(family.norm_bias, r))
    mixers = read_attention(r, family.attention, layers, hidden, positions)
    mlps = read_feed_forward(r, family.mlp, layers, hidden)
    parts = list(zip(mixers, mlps, strict=True))
    r.unused(*family.unused)
    return Blueprint(
        layers=parts,
        block=Block((), norm, answer(family.arrangement, r), answer(family.parallel, r)),
        embedding=embedding_operators(
            positions == "learned", False, norm if family.embedding_norm else None, width != hidden
        ),
        head=head_operators(
            tied, norm if answer(family.final_norm, r) else None, answer(family.head_bias, r), width != hidden
        ),
        sizes=sizes,
        tied=tied,
        max_positions=max_positions,
        mtp=_modules(r, parts) if family.mtp else (),
    )


def _modules(r: Reader, parts: list[tuple[Part, Part]]) -> list[tuple[Part, ...]]:
    """Each module holds one more layer like the last."""
    count = r.optional("num_nextn_predict_layers", low=0, high=MOST_MODULES) or 0
    return [parts[-1]] * count
