"""The cells of published models: which are built by ``transformers``, how deep, and with which attention kernel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from ..models import bundled_models
from . import published
from .cells import Cell
from .published import Attention, PublishedModel

UNKNOWN = frozenset(
    ("internlm-7b", "internlm2-7b", "internlm2-20b", "chatglm3-6b", "mistral-small-4-119b", "step-3.5-flash")
)
"""Bundled models whose code ``transformers`` does not have, or not as a language model of its own."""

KERNELS: dict[str, Attention] = {
    # Values narrower than queries and keys, one head of keys for many, or a learned bias: torch then computes products.
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_k2", "t5"), "math"),
    # Their own products: of scores with a cap, with slopes or with sinks, or no attention at all.
    **dict.fromkeys(("bloom", "gemma2", "gpt_oss", "mpt", "mamba2"), "eager"),
}
PERIODS = {"jamba": 8, "gemma3_text": 6, "gemma4_text": 6, "gemma4_unified_text": 6, "nemotron_h": 8}
"""Layers until a pattern of kinds repeats, where these are more than four."""

SEQUENCES = {"mamba2": 512, "nemotron_h": 256, "jamba": 16}
"""Tokens of a sequence: two chunks where a chunk is long, few where code walks through them one by one."""

WHOLE = (
    "llama-3-8b", "llama-3-70b", "gpt-2-xl", "mixtral-8x7b", "qwen3-30b-a3b", "bert-base", "deepseek-v3", "t5-base",
    "gemma3-12b", "qwen3-next-80b-a3b", "mamba2-2.7b", "gpt-oss-120b",
)  # fmt: skip
"""Models counted at full depth."""

FEW = (
    "llama-3-8b", "gpt-2-xl", "mixtral-8x7b", "qwen3-30b-a3b", "bert-base", "deepseek-v3", "t5-base", "gemma3-12b",
    "qwen3-next-80b-a3b", "mamba2-2.7b", "gpt-oss-20b", "deepseek-v3.2",
)  # fmt: skip
"""Models whose first layers are counted by `make conform` already."""


def _model(name: str) -> tuple[PublishedModel, str]:
    family = PublishedModel(name).configuration()["model_type"]
    attention: Attention = "math" if name == "falcon-7b" else KERNELS.get(family, "flash")
    return PublishedModel(name, attention, 0, 2 - (family == "jamba"), SEQUENCES.get(family, 128)), family


def _cut(name: str) -> Cell:
    model, family = _model(name)
    model = replace(model, layers=PERIODS.get(family, 4))
    return Cell(f"{name}-{model.layers}layers", partial(published.derived, model), partial(published.executed, model))


def _whole(name: str) -> Cell:
    model, _ = _model(name)
    return Cell(name, partial(published.derived, model), partial(published.executed, model))


def _sizes() -> Iterator[Cell]:
    for name in names():
        model, _ = _model(name)
        compared = partial(published.derived_parameters, model), partial(published.built_parameters, model)
        yield Cell(f"{name}-parameters", *compared)


def names() -> list[str]:
    """The bundled models that can be built."""
    return [name for name in bundled_models() if name not in UNKNOWN]


FEW_CELLS = tuple(map(_cut, FEW))
"""First layers of a model of each family: parameters, FLOPs of forward and backward."""

CUT_CELLS = tuple(_cut(name) for name in names() if name not in FEW)
"""The same of every other bundled model."""

WHOLE_CELLS = tuple(map(_whole, WHOLE))
"""The same at full depth."""

PARAMETER_CELLS = tuple(_sizes())
"""Parameters of every bundled model at full depth."""
