"""The loss of a compressed model as an estimate: how large, how sure, and on what it rests."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from ..core.errors import InputError
from .field import FLOOR, QualityField
from .published import TOKENS, USUAL_TOKENS, Point, parameters_in, published_points
from .weight_error import CHANNEL, float_error, pruning_error, rounding_error

Evidence = Literal["measured", "table", "transfer", "law", "unknown"]
"""Points of the user, the same thing in a published table, the same model and method in one, a law with what related
points leave over, nothing."""
Z80 = 1.2816
LAW = "relative error x size^-0.34 x tokens^0.51 (Kumar 2024), with deviations from published points"
PROTOCOL = ("wikitext2", "2048-token windows")
"""Text and windows that an estimate is for, unless it rests on others."""
GGUF_BITS = {
    "q2_k": 3.4, "q3_k_s": 3.47, "q3_k_m": 3.84, "q3_k_l": 4.19, "q4_0": 4.51, "q4_k_s": 4.53, "q4_k_m": 4.8,
    "q4_k": 4.8, "q5_0": 5.5, "q5_k_s": 5.5, "q5_k_m": 5.66, "q5_k": 5.66, "q6_k": 6.56, "q8_0": 8.5,
}  # fmt: skip
"""Stored bits of a weight, scales included (llama.cpp, file size over parameters of Llama-2-70B)."""
LARGEST = 7.2e10
"""Parameters of the largest model of the published points."""


@dataclass(frozen=True)
class QualityEstimate:
    """A loss.

    Attributes
    ----------
    delta_nats, low, high
        Nats per token more than the original, and the 80 % interval; infinite where nothing is known.
    evidence, law
        On what it rests.
    in_domain
        Whether published points are near: a planner leaves others out unless it is asked for them.
    protocol
        Text and windows.
    parts
        Of what it is composed, where of several.
    """

    delta_nats: float
    low: float
    high: float
    evidence: Evidence
    law: str
    in_domain: bool
    protocol: str
    parts: tuple[str, ...] = ()

    @property
    def is_noise(self) -> bool:
        """Whether it is below what unpaired perplexities tell apart."""
        return self.delta_nats < 0.01


NONE = QualityEstimate(0.0, 0.0, 0.0, "table", "stored as trained", True, "any")
"""Of an original in 16 bits."""


@lru_cache(maxsize=4)
def _field(points: tuple[Point, ...]) -> QualityField:
    return QualityField(points)


def estimate(point: Point, known: Sequence[Point] | None = None) -> QualityEstimate:
    """The loss of one compressed model.

    Parameters
    ----------
    known
        Points that it may rest on; by default those that come with the package.
    """
    points = published_points() if known is None else tuple(known)
    same = [own for own in points if own.key == point.key and math.isfinite(own.delta)]
    protocol = f"{point.data}, {point.protocol}"
    if same:
        delta = sum(own.delta for own in same) / len(same)
        spread = Z80 * max(point.noise, *(own.noise for own in same), *(abs(own.delta - delta) for own in same))
        return QualityEstimate(delta, delta - spread, delta + spread, "table", "published", True, protocol)
    own = _field(points).at(point)
    near = [p for p in points if (p.model, p.kind, p.method) == (point.model, point.kind, point.method)]
    inside = _in_domain(point) and any(p.kind == point.kind for p in points)
    evidence: Evidence = "transfer" if near else "law"
    low, high = math.exp(own.mean - Z80 * own.sd), math.exp(own.mean + Z80 * own.sd)
    floor = low if low > FLOOR else 0.0
    return QualityEstimate(math.exp(own.mean), floor, high, evidence, LAW, inside, protocol)


def _in_domain(point: Point) -> bool:
    """Not below 3 bits, activations only after rotation, sizes and shares as published."""
    if point.parameters > LARGEST or point.parameters < 1e9:
        return False
    if point.kind in ("weight", "activations") and point.bits < 3:
        return False
    if point.activations and point.method not in ("quarot", "spinquant") and point.error > 0.01:
        return False
    return not (point.kind == "low-rank" and point.error > 0.4)


def compressed(
    model: str, text: str, *, family: str = "", method: str = "", parameters: float | None = None
) -> list[Point]:
    """Points whose losses add up to that of a compression.

    Parameters
    ----------
    model
        A name, with its size unless ``parameters`` are given.
    text
        Parts joined by ``+``: ``w4g128``, ``w4`` (a scale of a channel), ``w8a8-int8``, ``fp8``, ``nvfp4``, ``mxfp4``,
        ``q4_k_m``, ``kv8``, ``kv4``, ``2:4``, ``prune:0.5``, ``svd:0.8``; ``bf16`` for none.
    method
        Of quantization (``gptq`` by default), or of pruning (``wanda``), low rank (``svd-llm``).

    Raises
    ------
    InputError
        For another text.
    """
    parts = [part.strip() for part in text.lower().split("+")]
    size = parameters_in(model) if parameters is None else float(parameters)
    stored = [part for part in parts if part not in ("bf16", "fp16", "none")]
    return [_part(model, part, family, method.lower(), size) for part in stored]


_SHAPES = "w4g128, w4, w8a8-int8, fp8, nvfp4, mxfp4, q4_k_m, kv8, 2:4, prune:0.5, svd:0.8, joined by +"


def _part(model: str, text: str, family: str, method: str, size: float) -> Point:
    base = Point(
        family=family or family_of(model), model=model.lower(), parameters=size,
        tokens=TOKENS.get(family or family_of(model), USUAL_TOKENS), kind="weight", method=method or "gptq", fine=True,
        activations=False, error=0.0, bits=16.0, group=0, data=PROTOCOL[0], protocol=PROTOCOL[1],
    )  # fmt: skip
    if match := re.fullmatch(r"w([2-8])(?:g([0-9]+))?(a16)?", text):
        bits, group = int(match[1]), int(match[2] or CHANNEL)
        return replace(base, bits=float(bits), group=group, fine=group <= 128, error=rounding_error(bits, group))
    if text in ("w8a8", "w8a8-int8", "int8"):
        error = 2 * rounding_error(8)
        return replace(base, kind="activations", method=method or "int8dq", bits=8.0, fine=False, activations=True,
                       group=CHANNEL, error=error)  # fmt: skip
    if text in ("fp8", "w8a8-fp8", "mxfp8"):
        return replace(base, bits=8.0, fine=False, group=CHANNEL, error=float_error("fp8"), method=method or "rtn")
    if text in ("nvfp4", "mxfp4"):
        return replace(
            base, bits=4.0, group=16 if text == "nvfp4" else 32, error=float_error(text), method=method or "rtn"
        )
    if text in GGUF_BITS:
        stored = GGUF_BITS[text]
        return replace(base, kind="gguf", method="gguf", bits=stored, fine=False, group=0,
                       error=4.0 ** (2 - stored) * rounding_error(2, 32))  # fmt: skip
    if match := re.fullmatch(r"kv-?([348])(?:bit)?|kv-?fp(8)", text):
        cache = int(match[1] or match[2])
        return replace(base, kind="activations", method=method or "quarot", activations=False, bits=16.0, group=CHANNEL,
                       fine=False, error=rounding_error(cache, 128))  # fmt: skip
    return _pruned_part(base, text, method)


def _pruned_part(base: Point, text: str, method: str) -> Point:
    if match := re.fullmatch(r"([0-9]+):([0-9]+)", text):
        kept, block = int(match[1]), int(match[2])
        if 0 < kept < block:
            return replace(
                base, kind="pruning", method=method or "wanda", fine=False, error=pruning_error(1 - kept / block, block)
            )
    if match := re.fullmatch(r"prune:(0?\.[0-9]+)", text):
        return replace(base, kind="pruning", method=method or "wanda", fine=False, error=pruning_error(float(match[1])))
    if match := re.fullmatch(r"svd:(0?\.[0-9]+)", text):
        return replace(base, kind="low-rank", method=method or "svd-llm", fine=False, error=1 - float(match[1]))
    raise InputError("compression", text, _SHAPES, "w4g128")


def family_of(model: str) -> str:
    """The family that a model's name says."""
    name = model.lower().replace("_", "-")
    found = [family for family in TOKENS if name.startswith(family)]
    if found:
        return max(found, key=len)
    return "llama-1" if re.match(r"llama-[0-9.]+b", name) else name.split("-")[0]


def estimate_quality(
    model: str,
    compression: str,
    *,
    family: str = "",
    method: str = "",
    parameters: float | None = None,
    known: Sequence[Point] | None = None,
) -> QualityEstimate:
    """What a compression costs a model in loss; parts add up, and so do their intervals.

    Parameters
    ----------
    model, compression, family, method, parameters
        See :func:`compressed`.
    known
        See :func:`estimate`.

    Raises
    ------
    InputError
        For a compression or a model that is not understood.
    """
    points = compressed(model, compression, family=family, method=method, parameters=parameters)
    if not points:
        return NONE
    parts = [estimate(point, known) for point in points]
    if len(parts) == 1:
        return parts[0]
    ladder: tuple[Evidence, ...] = ("measured", "table", "transfer", "law", "unknown")
    weakest = max((own.evidence for own in parts), key=ladder.index)
    return QualityEstimate(
        sum(own.delta_nats for own in parts),
        sum(own.low for own in parts),
        sum(own.high for own in parts),
        weakest,
        LAW,
        all(own.in_domain for own in parts),
        parts[0].protocol,
        tuple(compression.lower().split("+")),
    )
