"""From the parts of each layer to an architecture: few kinds, shared operators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..architecture import Architecture
from ..core.operators import Operator
from ..layers.base import LayerKind, Mixer
from ..layers.blocks import Block, block_operators, next_token_operators

ROUTING = frozenset({"expert_groups", "groups_per_token"})
"""Sizes that no tensor has."""


@dataclass(frozen=True)
class Part:
    """One mixer of a layer.

    Attributes
    ----------
    name
        As it appears in the name of a kind: ``gqa``, ``moe``.
    branch
        The name of its residual branch: ``attention``, ``mlp`` ...
    mixer, sizes
        What it computes, and (dimension, size) of the dimensions that are its own.
    window, causal
        As of :class:`~llmsim.layers.base.LayerKind`.
    """

    name: str
    branch: str
    mixer: Mixer
    sizes: tuple[tuple[str, int], ...]
    window: int | None = None
    causal: bool = True


@dataclass(frozen=True)
class Blueprint:
    """What a family's reader finds in a configuration.

    Attributes
    ----------
    layers
        The parts of each layer, in order.
    block
        Norm and arrangement of all layers; its mixers are those of each layer.
    embedding, head
        Operators of the two ends.
    sizes
        Dimension -> size of what all parts have in common: hidden, vocab, positions ...
    tied, max_positions
        As of :class:`~llmsim.architecture.Architecture`.
    mtp
        The parts of the layer in each multi-token-prediction module.
    """

    layers: Sequence[tuple[Part, ...]]
    block: Block
    embedding: tuple[Operator, ...]
    head: tuple[Operator, ...]
    sizes: Mapping[str, int]
    tied: bool
    max_positions: int | None
    mtp: Sequence[tuple[Part, ...]] = ()


def build(blueprint: Blueprint, name: str, model_type: str) -> Architecture:
    """The architecture of a blueprint."""
    kinds: dict[tuple[Part, ...], LayerKind] = {}
    taken: set[str] = set()
    for parts in blueprint.layers:
        if parts in kinds:
            continue
        title = "+".join(part.name for part in parts)
        title = next(
            t for t in (title, *(f"{title}-{i}" for i in range(2, len(blueprint.layers) + 2))) if t not in taken
        )
        taken.add(title)
        kinds[parts] = _kind(title, block_operators(_block(blueprint.block, parts)), blueprint.sizes, parts)
    mtp = {p: _module(blueprint, p) for p in dict.fromkeys(blueprint.mtp)}
    return Architecture(
        name=name,
        model_type=model_type,
        layers=tuple(kinds[parts].name for parts in blueprint.layers),
        kinds={kind.name: kind for kind in kinds.values()},
        embedding=_kind("embedding", blueprint.embedding, blueprint.sizes),
        head=_kind("head", blueprint.head, blueprint.sizes),
        tied=blueprint.tied,
        hidden=blueprint.sizes["hidden"],
        vocab=blueprint.sizes["vocab"],
        max_positions=blueprint.max_positions,
        mtp=tuple(mtp[p] for p in blueprint.mtp),
    )


def _block(block: Block, parts: Iterable[Part]) -> Block:
    return replace(block, mixers=tuple((part.branch, part.mixer) for part in parts))


def _module(blueprint: Blueprint, parts: tuple[Part, ...]) -> LayerKind:
    operators = next_token_operators(_block(blueprint.block, parts), blueprint.tied)
    sizes = {**blueprint.sizes, "hidden_pair": 2 * blueprint.sizes["hidden"]}
    return _kind("mtp:" + "+".join(part.name for part in parts), operators, sizes, parts)


def _kind(
    name: str, operators: tuple[Operator, ...], common: Mapping[str, int], parts: Iterable[Part] = ()
) -> LayerKind:
    sizes = {**common, **{dim: size for part in parts for dim, size in part.sizes}}
    used = {dim for op in operators for dim in op.dims} | ROUTING
    windows = [part.window for part in parts if part.window is not None]
    return LayerKind(
        name,
        operators,
        {dim: size for dim, size in sizes.items() if dim in used},
        windows[0] if windows else None,
        all(part.causal for part in parts),
    )
