"""The cells of passes with a cache: prompts, chunks of them and decoding steps of each kind of layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any

from .blocks import AttentionKernel
from .cached import RECURRENT, Pass, derived, executed, of_tokens
from .cells import OTHER, SMALL, Cell
from .pairs import BlockSpec, Family, Precision

PASSES = {"prompt": (32, 0), "chunk": (16, 48), "step": (1, 200)}
"""Name -> new tokens, tokens before them."""

WINDOW = 24
WINDOWED = {
    "prompt-below": (16, 0),
    "prompt-above": (40, 0),
    "chunk-across": (16, 16),
    "chunk-above": (16, 48),
    "chunk-wider": (32, 40),
    "step-below": (1, 10),
    "step-at": (1, 23),
    "step-after": (1, 24),
    "step-above": (1, 200),
}
"""The same around a window."""

MEMORY = 40
SHAPES = {"small": SMALL, "other": OTHER}
PLAIN: tuple[Family, ...] = ("llama", "gpt2", *RECURRENT)
LATENT: tuple[Family, ...] = ("mla", "dsa")
PRECISIONS: tuple[Precision, ...] = ("bf16", "fp32")

NO_CELLS: Mapping[str, str] = {
    "embedding": "a row for each new token, of a table: nothing is kept",
    "embedding_operators": "of `embedding`",
    "relative_embedding_operators": "tables of distances, which any pass looks up anew",
    "head": "a row for each new token: nothing is kept",
    "head_operators": "of `head`",
    "encoder_decoder_head_operators": "of `head`",
    "masked_head_operators": "the end of an encoder, which keeps nothing: a new token would change what all others see",
    "logits_and_loss": "part of `head`",
    "next_token_module": "a layer of the mixers that have cells, and a head",
    "next_token_operators": "of `next_token_module`",
    "block_operators": "layers of the mixers that have cells",
}
"""What builds operators in `llmsim/layers` beside the mixers, and why it has no cells here."""


def _passes() -> Iterator[tuple[str, Pass]]:
    for shape, precision in product(SHAPES, PRECISIONS):
        for family in PLAIN:
            yield from _each(family, "eager", precision, shape)
        if precision == "bf16":  # grouped products of torch are in 16 bits
            yield from _each("mixtral", "eager", precision, shape)
        for family, absorb in product(LATENT, (True, False)):
            window = SHAPES[shape][family].get("index_top_k")
            yield from _each(family, "math", precision, shape, window=window, absorb=absorb)
        yield from _each("t5", "eager", precision, shape, memory=MEMORY)
        for kernel in ("eager", "flash"):
            yield from _each("llama", kernel, precision, shape, WINDOWED, window=WINDOW)
        yield from _each("llama", "eager", precision, shape, WINDOWED, window=WINDOW, mixer=(("sinks", True),))
    yield from _each("llama", "flash", "bf16", "small")
    for options in ((("sinks", True),), (("gate", True), ("qk_norm", "head")), (("qk_norm", "gainless"),)):
        yield from _each("llama", "eager", "bf16", "small", mixer=options)


def _each(
    family: Family, kernel: AttentionKernel, precision: Precision, shape: str,
    passes: Mapping[str, tuple[int, int]] = PASSES, *, mixer: tuple[tuple[str, Any], ...] = (), **options: Any,
) -> Iterator[tuple[str, Pass]]:  # fmt: skip
    for name, (new, cached) in passes.items():
        spec = of_tokens(BlockSpec(family, kernel, precision, SHAPES[shape][family], mixer=mixer), new)
        words = [word for word, option in mixer for word in (word, option) if isinstance(word, str)]
        words += [key if option is True else f"{key}{option}" for key, option in options.items() if option]
        yield "-".join(("cached", family, kernel, precision, shape, name, *words)), Pass(spec, cached, **options)


CACHED_PASSES: Mapping[str, Pass] = dict(_passes())
"""Name -> pass."""

CACHED_CELLS: tuple[Cell, ...] = tuple(
    Cell(name, partial(derived, run), partial(executed, run)) for name, run in CACHED_PASSES.items()
)
"""FLOPs and bytes of state."""
