"""Compressions of a served model as text for a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table

from ..core.units import gib, seconds
from ..quality.compress import Compressed, CompressionAnswer
from .training import grid, section


def compression_report(found: CompressionAnswer) -> RenderableType:
    """The whole answer."""
    lines = [("model", f"{found.model} on {found.cluster}"), ("load", found.load)]
    limit = "no limit" if found.loss_max is None else f"at most {found.loss_max:g} nats at the upper end"
    lines.append(("pick", _pick(found, limit)))
    if found.quantizer:
        lines.append(("made by", found.quantizer))
    parts: list[RenderableType] = [
        grid(lines),
        section("Compressions, by what they cost in loss (nats per token)", _table(found)),
    ]
    if refused := [(own.text, own.reason) for own in found.candidates if own.reason]:
        parts.append(section("What does not run", grid(refused)))
    return Group(*parts, section("Assumed", grid(list(found.assumed.items()))))


def _pick(found: CompressionAnswer, limit: str) -> str:
    if found.pick is None:
        return f"none runs and keeps the limit ({limit})"
    own = found.pick
    said = f"{own.text}, least {found.goal} with {limit}"
    return f"{said}; loss {own.quality.delta_nats:.3f} ({own.quality.evidence})"


def _table(found: CompressionAnswer) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    names = ("", "loss", "80 %", "evidence", "weights", "first token", "per token", "tokens/s per device",
             "USD per million", "")  # fmt: skip
    for name in names:
        table.add_column(name, justify="left" if name in ("", "evidence") else "right")
    for own in found.candidates:
        if own.reason is None:
            table.add_row(*_row(own, found))
    return table


def _row(own: Compressed, found: CompressionAnswer) -> list[str]:
    quality = own.quality
    price = own.usd_per_million_output_tokens
    marks = [word for word, holds in (("efficient", own.efficient), ("pick", own == found.pick),
                                      ("far from published points", not quality.in_domain)) if holds]  # fmt: skip
    return [
        own.text,
        f"{quality.delta_nats:.3f}",
        f"{quality.low:.3f} to {quality.high:.3f}",
        quality.evidence,
        gib(own.weight_bytes or 0.0),
        seconds(own.ttft_s or 0.0),
        seconds(own.tpot_s or 0.0),
        f"{own.output_tokens_per_s_per_device or 0:,.0f}",
        "-" if price is None else f"{price:,.2f}",
        ", ".join(marks),
    ]
