"""Names of checkpoints that are a bundled model's weights under another name: stored in another format, tuned, or
published again by somebody else.

A name is cut into words. From its end, words that change no shape (``Instruct``, ``2507``, ``GGUF``, ``AWQ``) are
dropped one after the other until a bundled model is left; a size or a version is never dropped.
"""

from __future__ import annotations

import re
from functools import lru_cache

from .catalogue import aliases, bundled_names
from .hub_ids import HUB_IDS

_TUNED = (
    "it", "instruct", "chat", "base", "pt", "sft", "dpo", "rlhf", "thinking", "reasoning", "preview", "exp", "turbo",
    "text", "hf", "abliterated", "uncensored", "heretic", "latest", "original", "v1", "1m", "128k", "mtp", "release",
)  # fmt: skip
"""Words that say how weights were trained on, and change no shape."""
_STORED = (
    "fp8", "fp4", "fp16", "bf16", "f16", "bfloat16", "float16", "nvfp4", "mxfp4", "mxfp8", "nf4", "awq", "gptq", "bnb",
    "gguf", "ggml", "mlx", "exl2", "exl3", "autoround", "int2", "int3", "int4", "int8", "2bit", "3bit", "4bit", "5bit",
    "6bit", "8bit", "dynamic", "static", "block", "tensor", "per", "pertensor", "channel", "online", "mixed", "kv",
    "marlin", "qat", "sym", "asym", "quantized", "quantised", "quant", "quants", "ud", "i1", "imat", "imatrix", "gs32",
    "g32", "g64", "g128", "gs128", "32g", "64g", "128g", "unsloth", "modelopt", "compressed", "onnx", "optiq",
    "w8a8", "w8a16", "w4a16", "w4a8", "w4a4",
)  # fmt: skip
"""Words that say how weights are stored, or in which file."""
_DROPPED = frozenset((*_TUNED, *_STORED))
_PATTERNS = re.compile(
    r"(iq|q)[1-8](_[0-9a-z]+)*|quantized\.w[0-9]+a[0-9]+|[0-9](\.[0-9]+)?bpw"
    r"|(0[1-9]|1[0-2])[0-3][0-9]|2[3-9](0[1-9]|1[0-2])"
)
"""Formats of llama.cpp and others, and dates of a release: MMDD and YYMM."""
_SIZE = re.compile(r"[0-9]+(\.[0-9]+)?[bm]")
_FORMATS = (
    (r"nvfp4|fp4", "nvfp4"), (r"mxfp4", "mxfp4"), (r"mxfp8", "mxfp8"), (r"(quantized\.)?w8a8", "int8"),
    (r"(quantized\.)?w4a16", "int4"), (r"nf4|bnb", "nf4"), (r"awq", "awq"), (r"gptq", "gptq"), (r"fp8", "fp8"),
    (r"int8|8bit", "int8"), (r"int4|4bit|autoround", "int4"), (r"bf16|bfloat16", "bf16"), (r"fp16|f16|float16", "fp16"),
)  # fmt: skip
"""Words -> format, the first that is there."""
_NATIVE = (
    (r"gpt-?oss", "mxfp4"), (r"kimi-k2-thinking|kimi-k2\.[5-9]", "int4-experts"), (r"kimi-k2", "fp8"),
    (r"deepseek-(r1|v3)(?!.*distill)(?!.*qwen)", "fp8"), (r"minimax-m2", "fp8"), (r"ministral-3-.*instruct", "fp8"),
    (r"devstral-(small-)?2-", "fp8"), (r"mistral-medium-3\.5", "fp8"),
)  # fmt: skip
"""Models that were published in another format than 16 bits."""


def stored_otherwise(name: str) -> str | None:
    """The bundled name of a checkpoint that is another's weights under a name of its own, whoever published it
    (``RedHatAI/Qwen2.5-7B-Instruct-FP8-dynamic``, ``Llama 3.1 8B Q4_0``); None for anything else."""
    words = _words(name)
    while words:
        found = _by_key().get(_key(words))
        if found:
            return found
        if not _drops(words):
            return None
        words = words[:-1]
    return None


def stored_format(name: str) -> str | None:
    """The format of weights that a checkpoint's name states (``q4_k`` for its sizes S to XL), or that its model was
    published in; None where neither says other than 16 bits."""
    words = re.split(r"[-\s:/()@+,]+", _bits(name.lower().removesuffix(".gguf")))
    for word in words:
        if match := re.fullmatch(r"(iq|q)([1-8])_([0-9a-z]+)(_[a-z]+)?", word):
            return f"{match[1]}{match[2]}_{match[3]}"
    if "int8" in words or "8bit" in words:
        return "int8"
    for pattern, format in _FORMATS:
        if any(re.fullmatch(pattern, word) for word in words):
            return format
    short = name.lower().rpartition("/")[2]
    return next((format for pattern, format in _NATIVE if re.search(pattern, short)), None)


def _bits(name: str) -> str:
    return re.sub(r"\b([2-8])-bits?\b", r"\1bit", name)


def _words(name: str) -> list[str]:
    """The words of a name without its publisher and what stands in brackets."""
    plain = re.sub(r"\([^)]*\)|\"|'", " ", name.strip().lower()).strip().removesuffix(".gguf")
    short = _bits(plain.rpartition("/")[2])
    publisher = re.match(r"([a-z0-9-]+?)_(?=[a-z])", short)
    if publisher and publisher[1] in _publishers() and "-" in short[publisher.end() :]:
        short = short[publisher.end() :]
    return [word for word in re.split(r"[-\s:@+,]+", short) if word]


def _drops(words: list[str]) -> bool:
    """Whether the last word changes no shape, as a version of the tuning (``Instruct-v0.1``) does not."""
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    tuning = re.fullmatch(r"v[0-9](\.[0-9])?", last) is not None and before in _TUNED
    return tuning or last in _DROPPED or _PATTERNS.fullmatch(last) is not None


def _key(words: list[str]) -> tuple[str, ...]:
    """Letters and numbers, however they are joined: ``llama3.1-8b`` as ``Llama-3_1-8B``."""
    text = re.sub(r"(?<=\d)_(?=\d)", ".", "-".join(words))
    return tuple(re.findall(r"[a-z]+|\d+(?:\.\d+)*", text))


@lru_cache(maxsize=1)
def _publishers() -> frozenset[str]:
    return frozenset(spelling.rpartition("/")[0].lower() for each in HUB_IDS.values() for spelling in each)


@lru_cache(maxsize=1)
def _by_key() -> dict[tuple[str, ...], str]:
    """Words of every spelling, and of those that state a size without their endings -> bundled name; a model's own
    name goes first."""
    found: dict[tuple[str, ...], str] = {}
    for spelling, name in sorted(aliases().items()):
        words = _words(spelling)
        exact = _key(words)
        while _drops(words):
            words = words[:-1]
        if any(_SIZE.fullmatch(word) for word in words):
            found.setdefault(_key(words), name)
        found[exact] = name
    return {**found, **{_key([name]): name for name in sorted(bundled_names())}}
