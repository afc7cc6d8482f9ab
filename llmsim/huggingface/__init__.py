"""Reading Hugging Face's ``config.json``: names and files, the nested language model, and the family that it belongs
to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

from ..architecture import Architecture
from ..core.arguments import listed
from ..core.errors import InputError, nearest_names
from .blueprint import build
from .decoder import read_decoder
from .families import DECODERS
from .files import find_config, read_json
from .keys import is_vision
from .others import OTHERS
from .reader import Reader
from .values import check_values, left_out

SAME_AS = {
    "kimi_k2": "deepseek_v3",
    "kimi_k25": "deepseek_v3",
    "gemma3": "gemma3_text",
    "llama4": "llama4_text",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
    "ministral3": "mistral",
    "qwen2_vl": "qwen2",
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl": "qwen3",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
    "qwen3_vl_moe_text": "qwen3_moe",
    "glm4v_moe": "glm4_moe",
    "glm4v_moe_text": "glm4_moe",
    "mistral4": "deepseek_v3",
    "gemma4": "gemma4_text",
    "gemma4_unified": "gemma4_text",
    "gemma4_unified_text": "gemma4_text",
    "step3p7": "step3p5",
}
"""Model types that are another family under a name of their own, or as a multimodal model."""

WRAPPERS = ("llava", "llava_next", "llava_onevision", "mistral3", "vipllava")
"""Multimodal types whose language model is nested under ``text_config`` and names its own type."""


def load_architecture(
    source: str | PathLike[str] | Mapping[str, Any],
    *,
    search: Sequence[str | PathLike[str]] = (),
    ignore: Iterable[str] = (),
) -> Architecture:
    """See :meth:`llmsim.architecture.Architecture.from_config`."""
    ignore = listed(ignore, "ignore", "keys of config.json", (str,))
    if isinstance(source, Mapping):
        return read_config(source, ignore=ignore)
    path, name = find_config(source, listed(search, "search", "directories"))
    values = read_json(path)
    try:
        return read_config(values, name=name, ignore=ignore)
    except InputError as error:
        where = f"model {path}: {error.field}"
        raise InputError(where, error.value, error.allowed, error.nearest, error.why) from None


def read_config(config: Mapping[str, Any], *, name: str = "", ignore: Iterable[str] = ()) -> Architecture:
    """The architecture that a configuration describes.

    Raises
    ------
    InputError
        As :meth:`~llmsim.architecture.Architecture.from_config`.
    """
    r = _language_model(Reader(config, ignore=(ignore,) if isinstance(ignore, str) else ignore))
    check_values(r.values, r.path)
    family = SAME_AS.get(r.model_type, r.model_type)
    blueprint = OTHERS[family](r) if family in OTHERS else read_decoder(r, DECODERS[family])
    r.finish()
    own = config.get("_model")
    title = name or (own if isinstance(own, str) else r.model_type)
    return replace(build(blueprint, title, r.model_type), left_out=left_out(config))


def known_model_types() -> list[str]:
    """Every ``model_type`` that can be read, sorted."""
    return sorted({*DECODERS, *OTHERS, *SAME_AS})


def _language_model(r: Reader) -> Reader:
    """The reader of the language model, nested or not, with its model type."""
    outer = _model_type(r, default=None)
    text = r.nested("text_config")
    r.model_type = outer
    if text is None:
        return _checked(r)
    text.model_type = _model_type(text, default=SAME_AS.get(outer, outer))
    outside, inside = r.find("tie_word_embeddings"), text.find("tie_word_embeddings")
    if outside is not None and inside is None:
        text.values["tie_word_embeddings"] = outside[1]
    elif outside is not None and inside is not None and inside[1] != outside[1]:
        text.refuse(*inside, f"contradicts the outer tie_word_embeddings = {outside[1]!r}")
    if outer not in WRAPPERS:
        _checked(r)
    r.finish(is_vision)
    return _checked(text)


def _model_type(r: Reader, default: str | None) -> str:
    found = r.find("model_type")
    if found is None:
        return default if default is not None else r.missing("model_type", "a family's name")
    if not isinstance(found[1], str):
        r.refuse("model_type", found[1], allowed="a family's name, as text")
    return found[1]


def _checked(r: Reader) -> Reader:
    known = known_model_types()
    if r.model_type not in known:
        near = ", ".join(nearest_names(r.model_type, known))
        raise InputError(
            f"{r.path}model_type", r.model_type, f"{len(known)} families, {', '.join(known)}", near, "is unknown"
        )
    return r
