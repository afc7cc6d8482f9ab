"""Published losses of compressed models: what was done, to which model, and what it cost."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..core.errors import InputError
from .weight_error import CHANNEL, pruning_error, rounding_error

COLUMNS = ("family", "model", "method", "method_class", "bits_w", "delta_loss_nats")
"""What a table of compression losses must have."""
CLASSES = {
    "weight": "weight quantization",
    "gguf": "gguf",
    "activations": "quantization (rotation/smoothing or activations)",
    "pruning": "pruning",
    "low-rank": "low-rank",
}
"""Class of methods -> as tables call it."""
TOKENS = {
    "llama-1": 1.4e12, "llama-2": 2e12, "llama-3": 15e12, "llama-3.1": 15e12, "llama-3.2": 9e12, "mistral": 8e12,
    "qwen2": 7e12, "qwen2.5": 18e12, "qwen3": 36e12, "gemma-2": 8e12, "opt": 1.8e11, "bloom": 3.66e11, "phi-3": 3.3e12,
    "pythia": 3e11, "smollm2": 2e12, "falcon": 1e12, "mixtral": 8e12, "deepseek-v2": 8.1e12, "deepseek-v3": 14.8e12,
}  # fmt: skip
"""Family -> tokens that its models were trained on, as reports say (of Mistral and Mixtral none does: assumed)."""
USUAL_TOKENS = 5e12


@dataclass(frozen=True)
class Point:
    """A compressed model.

    Attributes
    ----------
    family, model, parameters, tokens
        Which one, how large, and how long trained.
    kind, method, fine
        Class of the method, the method, and whether weights share scales in groups of at most 128.
    activations
        Whether activations are narrower than 16 bits.
    error
        Relative squared error of weights, activations and cache together; of low rank the share that is gone.
    bits, group
        Of the weights, scales not counted; 0 for no groups.
    data, protocol
        Text, and how it was read.
    delta
        Loss in nats per token, compressed less original; NaN where unknown.
    noise
        Standard deviation of ``delta`` from the digits in which losses are printed.
    """

    family: str
    model: str
    parameters: float
    tokens: float
    kind: str
    method: str
    fine: bool
    activations: bool
    error: float
    bits: float
    group: int
    data: str
    protocol: str
    delta: float = math.nan
    noise: float = 0.003

    @property
    def key(self) -> tuple[object, ...]:
        """What two measurements of one thing share."""
        return (self.model, self.kind, self.method, self.bits, self.group, round(self.error, 9), self.activations,
                self.data, self.protocol)  # fmt: skip


def point_of(row: Mapping[str, str]) -> Point:
    """A row of a table.

    Raises
    ------
    InputError
        With the reason why nothing can be said of it.
    """
    method, model = (row.get("method") or "").strip(), (row.get("model") or "").strip()
    kinds = {text: kind for kind, text in CLASSES.items()}
    named = (row.get("method_class") or "").strip().lower()
    if named not in kinds:
        raise InputError("method_class", named, ", ".join(kinds), "weight quantization")
    kind = kinds[named]
    bits_w, bits_a, bits_kv = (_bits(row, name) for name in ("bits_w", "bits_a", "bits_kv"))
    group = _group(row.get("group_size") or "")
    family = (row.get("family") or "").strip().lower()
    base = _number(row.get("ppl_base") or "")
    return Point(
        family=family,
        model=model.lower(),
        parameters=parameters_in(model),
        tokens=TOKENS.get(family, USUAL_TOKENS),
        kind=kind,
        method=method.lower() if kind != "gguf" else "gguf",
        fine=0 < group <= 128,
        activations=bits_a < 16,
        error=_error(kind, row, bits_w, bits_a, bits_kv, group),
        bits=bits_w,
        group=group,
        data=(row.get("dataset") or "").strip().lower(),
        protocol=(row.get("protocol") or "").strip(),
        delta=_number(row.get("delta_loss_nats") or "", math.nan),
        noise=_noise(row, base),
    )


def _error(kind: str, row: Mapping[str, str], weights: float, activations: float, cache: float, group: int) -> float:
    if kind == "pruning":
        return _pruned((row.get("sparsity") or "").strip())
    if kind == "low-rank":
        share = abs(_number(re.sub(r"[^0-9.]", "", row.get("sparsity") or ""), 0.0))
        if not 0 < share < 1:
            raise InputError("sparsity", row.get("sparsity"), "the share of the parameters that is gone, e.g. -0.2")
        return share
    if kind == "gguf":
        return float(4.0 ** (2 - weights) * rounding_error(2, 32))
    found = rounding_error(weights, group or CHANNEL) if weights < 16 else 0.0
    found += rounding_error(activations, CHANNEL) if activations < 16 else 0.0
    found += rounding_error(cache, 128) if cache < 16 else 0.0
    if not found:
        raise InputError("bits_w", weights, "less than 16 bits of weights, activations or cache", 4)
    return found


def _pruned(text: str) -> float:
    if match := re.fullmatch(r"([0-9]+):([0-9]+)", text):
        kept, block = int(match[1]), int(match[2])
        return pruning_error(1 - kept / block, block)
    return pruning_error(_number(text, -1.0))


def _number(text: str, default: float = 0.0) -> float:
    try:
        return float(text.strip().lstrip("~"))
    except ValueError:
        return default


def _bits(row: Mapping[str, str], name: str) -> float:
    return _number(row.get(name) or "16", 16.0)


def _group(text: str) -> int:
    own = text.strip().lower()
    return CHANNEL if own.startswith("per") else int(_number(own))


def _noise(row: Mapping[str, str], base: float) -> float:
    """From the last digit of a perplexity: uniform rounding of both."""
    text = (row.get("ppl_base") or "").strip()
    digits = len(text.partition(".")[2])
    return float(0.41 * 10.0**-digits / base) if base > 0 else 0.003


def parameters_in(model: str) -> float:
    """How many parameters a model's name says that it has.

    Raises
    ------
    InputError
        For a name without a number.
    """
    match = re.search(r"([0-9]+(?:\.[0-9]+)?)\s*([bm])\b", model.lower().replace("_", "-"))
    if match is None:
        raise InputError("model", model, "a name with its size, such as Llama-2-7B", "Llama-2-7B")
    return float(match[1]) * (1e9 if match[2] == "b" else 1e6)


def is_quality(path: Path) -> bool:
    """Whether a table holds losses of compressed models, by its columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return set(COLUMNS) <= set(next(csv.reader(file), ()))
    except (OSError, ValueError, csv.Error):
        return False


@lru_cache(maxsize=1)
def published_points() -> tuple[Point, ...]:
    """The points that come with the package."""
    from ..hardware.profiles import profiles_root

    path = profiles_root() / "quality" / "published.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(point_of(row) for row in csv.DictReader(file))
