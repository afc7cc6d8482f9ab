"""New tokens after cached ones, counted by the operator passes and by torch: FLOPs forward and bytes of state.

``derived`` counts from our operators, ``executed`` runs plain torch with a cache on fake tensors; both return the same
two numbers, which are to be equal with ``==``. A prompt is so many tokens after none, a chunk several after some, a
decoding step one after many.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from ..core.numeric import Number
from ..core.state import CACHE, INDEX_CACHE, RECURRENT_STATE
from ..core.terms import Sizes
from ..core.work import derive_work
from ..layers.base import LayerKind
from ..layers.mla import absorbed
from ..timing.columns import Columns, kind_sizes, visible_sizes
from ..timing.structure import Structure, layer_state
from . import mixers
from .cached_attention import CachedCrossAttention, cached_attention
from .counters import WorkCounter
from .pairs import BlockSpec, Family, block_module, inventory, layer_operators

RECURRENT: tuple[Family, ...] = ("mamba2", "mamba1", "delta_net")
_EAGER = Structure("torch-eager", sequence_parallel=False)


class Counts(NamedTuple):
    """Multiply-adds x 2 of a forward pass over the new tokens, and bytes that the next pass needs."""

    flops: int
    state_bytes: int


@dataclass(frozen=True)
class Pass:
    """A forward pass of a block over the ``sequence`` new tokens of its specification.

    Attributes
    ----------
    spec
        The block. Its ``flash`` kernel skips what is masked: here each query meets the positions that it sees, one by
        one; ``eager`` and ``math`` attention compute the whole rectangle of new tokens and positions.
    cached
        Tokens before them.
    window
        Positions that attention sees, and that are kept of them.
    memory
        Positions of the encoder's output, where there is one.
    absorb
        Whether latent attention takes its up-projections into queries and outputs.
    """

    spec: BlockSpec
    cached: int
    window: int | None = None
    memory: int | None = None
    absorb: bool = False


# --- from the operators ---------------------------------------------------------------------------------------------


def derived(run: Pass) -> Counts:
    """The counts from the operator passes, with the planner's own sizes."""
    spec = run.spec
    kind = LayerKind("block", layer_operators(spec), spec.dims(), window=run.window, causal=True)
    kind = absorbed(kind) if run.absorb else kind
    sizes = _sizes(run, kind)
    works = derive_work(kind.over_cache.operators, _EAGER.sharding, inventory(spec))
    seen = visible_sizes(kind, sizes) if spec.kernel == "flash" else sizes
    # What is computed element by element has no products, for torch or anyone who counts them.
    forward = [w for w in works if w.phase == "forward" and w.kind != "recurrence"]
    flops = sum((seen if w.masked_flops else sizes).count(w.flops) for w in forward)
    state = layer_state(kind, _EAGER)
    kept = sizes.size((*state.tokens, *state.selected, *state.encoded, *state.sequences))
    return Counts(_whole(flops), _whole(kept))


def _whole(count: Number) -> int:
    """A count as an integer: means of visible positions may be fractions, their sums over the new tokens are not."""
    nearest = round(count)
    assert abs(count - nearest) < 1e-9 * max(count, 1)
    return nearest


def _sizes(run: Pass, kind: LayerKind) -> Sizes:
    """The planner's sizes of new tokens after cached ones, with the formats of the block."""
    spec = run.spec
    columns = Columns(spec.sizes["sequence"], spec.sizes["batch"], 1, cached=run.cached, memory=run.memory)
    formats = spec.values().formats
    kept = {CACHE: "activation", INDEX_CACHE: "activation", RECURRENT_STATE: "fp32"}
    own = {**formats, **{name: formats[format] for name, format in kept.items()}}
    sizes = kind_sizes(kind, columns, _EAGER)
    return Sizes(sizes.dims, sizes.degrees, own)


# --- in torch -------------------------------------------------------------------------------------------------------


def executed(run: Pass) -> Counts:
    """The counts of the same block run by torch, its attention over a cache or its scan after a state."""
    spec, s = run.spec, run.spec.sizes
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), WorkCounter() as counter:
        x = torch.zeros(s["batch"], s["sequence"], s["hidden"], dtype=spec.dtype)
        block = block_module(spec)
        if spec.family in RECURRENT:
            with _recorded_states() as states:
                block(x)
            kept = _bytes(states) + _convolution_bytes(block, s["batch"])
        else:
            each = spec.kernel == "flash"
            block.attention = attention = cached_attention(
                block.attention, s["batch"], run.cached, absorb=run.absorb, window=run.window, each=each,
                **dict(spec.mixer),
            )  # fmt: skip
            cross = _cached_cross(block, run)
            block(x)
            kept = _bytes(attention.state) + (_bytes(cross.state) if cross else 0)
    return Counts(counter.flops["forward"], kept)


def _cached_cross(block: nn.Module, run: Pass) -> CachedCrossAttention | None:
    if run.memory is None:
        return None
    s = run.spec.sizes
    block.cross = CachedCrossAttention(block.cross, s["batch"], run.cached, run.memory)
    block.encoded = torch.zeros(s["batch"], run.memory, s["hidden"], dtype=run.spec.dtype)
    return block.cross


def _bytes(tensors: list[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


@contextmanager
def _recorded_states() -> Iterator[list[Tensor]]:
    """The state of a scan after its last step or chunk."""
    found: list[Tensor] = []
    plain = mixers.advanced

    def advanced(state: Tensor, share: Tensor, new: Tensor) -> Tensor:
        found[:] = [plain(state, share, new)]
        return found[0]

    with mock.patch.object(mixers, "advanced", advanced):
        yield found


def _convolution_bytes(block: nn.Module, batch: int) -> int:
    """Inputs that short convolutions still need: all taps but the last, of every channel."""
    weights = [m.weight for m in block.modules() if isinstance(m, mixers.ShortConvolution)]
    return sum(batch * w.shape[0] * (w.shape[-1] - 1) * w.element_size() for w in weights)


def of_tokens(spec: BlockSpec, new: int) -> BlockSpec:
    """The block over so many new tokens, which a scan takes in chunks that divide them."""
    sizes = {**spec.sizes, "sequence": new}
    if "chunk_context" in sizes:
        sizes["chunk_context"] = min(sizes["chunk_context"], new)
    return replace(spec, sizes=sizes)
