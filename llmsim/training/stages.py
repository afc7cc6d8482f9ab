"""How layers are spread over pipeline stages: a stage is a vector of counts per layer kind, stages come in runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..architecture import Architecture
from ..layers.base import LayerKind


@dataclass(frozen=True)
class Stage:
    """One pipeline stage, or a run of equal ones.

    Attributes
    ----------
    counts
        Layers of each kind, in the order of :func:`model_kinds`; the ends of the model are kinds of their own.
    chunks
        The same for each of its model chunks.
    first, repeats
        Index of the first stage of the run, and how many there are.
    """

    counts: tuple[int, ...]
    chunks: tuple[tuple[int, ...], ...]
    first: int
    repeats: int


def model_kinds(architecture: Architecture) -> tuple[LayerKind, ...]:
    """Layer kinds of the body, then embedding, head and each multi-token-prediction module."""
    return (*architecture.kinds.values(), architecture.embedding, architecture.head, *architecture.mtp)


def body_kinds(architecture: Architecture) -> int:
    """How many of :func:`model_kinds` are body layers, the ones that recomputation applies to."""
    return len(architecture.kinds)


def chunk_sizes(layers: int, parts: int) -> tuple[int, ...]:
    """Layers in each of ``parts`` chunks, in model order.

    Equal where they divide; otherwise embedding and head count as one layer each, as published recipes place them,
    and the chunks in the middle take what is left over.
    """
    if layers % parts == 0:
        return (layers // parts,) * parts
    slots = layers + 2
    base, rest = divmod(slots, parts)
    sizes = [base] * parts
    middle = [i for i in range(parts) if i not in (0, parts - 1)] or list(range(parts))
    order = sorted(middle, key=lambda i: abs(i - (parts - 1) / 2)) + [i for i in (0, parts - 1) if i not in middle]
    for i in order[:rest]:
        sizes[i] += 1
    sizes[0] -= 1
    sizes[-1] -= 1
    return tuple(sizes)


@lru_cache(maxsize=4096)
def stages(architecture: Architecture, pp: int, chunks: int) -> tuple[Stage, ...]:
    """The stages of a pipeline in order, runs of equal ones merged.

    Chunk j of stage i is the ``j * pp + i``-th part of the model.
    """
    names = list(architecture.kinds)
    width = len(model_kinds(architecture))
    sizes = chunk_sizes(len(architecture.layers), pp * chunks)
    parts: list[tuple[int, ...]] = []
    start = 0
    for index, size in enumerate(sizes):
        counts = [0] * width
        for name in architecture.layers[start : start + size]:
            counts[names.index(name)] += 1
        start += size
        if index == 0:
            counts[len(names)] = 1
        if index == len(sizes) - 1:
            counts[len(names) + 1] = 1
            for i in range(len(architecture.mtp)):
                counts[len(names) + 2 + i] = 1
        parts.append(tuple(counts))
    found: list[Stage] = []
    for i in range(pp):
        own = tuple(parts[j * pp + i] for j in range(chunks))
        counts_of_stage = tuple(sum(c) for c in zip(*own, strict=True))
        if found and found[-1].chunks == own:
            last = found[-1]
            found[-1] = Stage(last.counts, last.chunks, last.first, last.repeats + 1)
        else:
            found.append(Stage(counts_of_stage, own, i, 1))
    return tuple(found)


def expand(runs: Sequence[Stage]) -> list[Stage]:
    """One entry a stage."""
    return [Stage(s.counts, s.chunks, s.first + k, 1) for s in runs for k in range(s.repeats)]
