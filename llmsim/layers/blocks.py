"""Whole layers and ends by structure, each built once: equal structures share one ``operators`` object.

What the passes derive from operators is remembered by the identity of that object, so two models that differ in sizes
only are derived once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from ..core.operators import LayerBuilder, Operator
from .base import Arrangement, Mixer, Norm, layer_input, parallel_residual, residual
from .embedding_and_head import embedding, head, next_token_module

Parallel = Literal["no", "shared", "separate"]


@dataclass(frozen=True)
class Block:
    """What a layer is made of.

    Attributes
    ----------
    mixers
        (branch name, mixer) in order: ``("attention", Attention()), ("mlp", Mlp())``.
    norm, arrangement
        The norm and where it stands around each branch.
    parallel
        Branches side by side instead of one after the other, with one norm for all (``shared``) or one each
        (``separate``).
    """

    mixers: tuple[tuple[str, Mixer], ...]
    norm: Norm
    arrangement: Arrangement = "pre"
    parallel: Parallel = "no"


@lru_cache(maxsize=512)
def block_operators(block: Block) -> tuple[Operator, ...]:
    """The operators of a layer."""
    b = LayerBuilder()
    x = layer_input()
    if block.parallel != "no":
        parallel_residual(b, x, dict(block.mixers), block.norm, shared=block.parallel == "shared")
    else:
        for name, mixer in block.mixers:
            x = residual(b, x, name, mixer, block.norm, block.arrangement)
    return tuple(b.operators)


@lru_cache(maxsize=512)
def embedding_operators(positions: bool, types: bool, norm: Norm | None, projected: bool) -> tuple[Operator, ...]:
    """The operators of :func:`~llmsim.layers.embedding_and_head.embedding`."""
    return tuple(embedding(positions=positions, types=types, norm=norm, projected=projected).operators)


@lru_cache(maxsize=512)
def head_operators(tied: bool, norm: Norm | None, bias: bool, projected: bool) -> tuple[Operator, ...]:
    """The operators of :func:`~llmsim.layers.embedding_and_head.head`."""
    return tuple(head(tied=tied, norm=norm, bias=bias, projected=projected).operators)


@lru_cache(maxsize=512)
def next_token_operators(block: Block, tied: bool) -> tuple[Operator, ...]:
    """The operators of :func:`~llmsim.layers.embedding_and_head.next_token_module` around a layer."""
    return tuple(next_token_module(dict(block.mixers), block.norm, tied=tied).operators)
