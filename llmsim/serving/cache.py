"""The cache of a model: bytes of keys and values per token, or of their latent, and of states per sequence."""

from __future__ import annotations

from dataclasses import dataclass

from ..architecture import Architecture
from ..core.formats import get_format
from ..core.numeric import Number, minimum
from ..core.state import CACHE
from ..core.terms import Sizes
from ..timing.columns import Columns, kind_sizes
from ..timing.structure import Structure, layer_state

ONE_DEVICE = Structure("megatron-core", sequence_parallel=False)
"""The structure under which a model is served on one device: nothing in counts of states depends on the stack."""


@dataclass(frozen=True)
class Cache:
    """Bytes that one sequence keeps in all layers.

    Attributes
    ----------
    per_token
        Bytes per token of the layers that see all positions.
    windowed
        Window -> bytes per token of the layers that see so many positions only.
    per_sequence
        Bytes whatever the length.
    encoded
        Bytes per position of an encoder's output, whatever the decoder has written.
    """

    per_token: int
    windowed: dict[int, int]
    per_sequence: int
    encoded: int = 0

    def bytes(self, context: Number, memory: Number | None = None) -> Number:
        """At a context length, with ``memory`` positions of an encoder's output: by default as many."""
        near = sum(size * minimum(context, window) for window, size in self.windowed.items())
        encoded = self.encoded * (context if memory is None else memory)
        return self.per_token * context + near + self.per_sequence + encoded


def model_cache(architecture: Architecture, *, format: str = "bf16") -> Cache:
    """The cache of a model.

    Parameters
    ----------
    format
        Of keys, values and latents; states of recurrences are kept in 32 bits.
    """
    per_token, per_sequence, encoded = 0, 0, 0
    windowed: dict[int, int] = {}
    for name in architecture.layers:
        kind = architecture.kinds[name]
        own, state = kind_sizes(kind, Columns(1, 1, 1), ONE_DEVICE), layer_state(kind, ONE_DEVICE)
        sizes = Sizes(own.dims, own.degrees, {**ONE_DEVICE.formats(), CACHE: get_format(format)})
        tokens, selected = sizes.size(state.tokens), sizes.size(state.selected)
        if (window := kind.kept_window) is None:
            per_token += tokens + selected
        else:
            windowed[window] = windowed.get(window, 0) + tokens
        per_sequence += sizes.size(state.sequences)
        encoded += sizes.size(state.encoded)
    return Cache(per_token, windowed, per_sequence, encoded)
