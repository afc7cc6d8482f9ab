"""Models beside each other over sequence lengths: tables for a terminal, a page of curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..core.errors import InputError
from ..core.files import write_whole
from ..core.units import large
from ..serving.compare import METRICS, Comparison, ModelCurve

_SCALES = {
    "train_flops_per_token": 1e9,
    "train_s_per_token": 1e-6,
    "decode_flops_per_token": 1e9,
    "cache_bytes": 2**20,
    "decode_s_per_token": 1e-3,
}
"""What one printed unit is worth."""


def length(tokens: int) -> str:
    """A sequence length as text: 4k, 1M, 3000."""
    for factor, unit in ((2**20, "M"), (2**10, "k")):
        if tokens % factor == 0:
            return f"{tokens // factor}{unit}"
    return f"{tokens:,}"


def comparison_report(found: Comparison) -> RenderableType:
    """The whole comparison."""
    parts: list[RenderableType] = [_models(found)]
    for metric, title in METRICS.items():
        parts += [Text(f"\n{title}", style="bold"), _metric(found, metric)]
    if found.crossovers:
        parts += [Text("\nWhere the order changes", style="bold"), _crossovers(found)]
    parts += [Text("\nDefaults taken from profiles", style="bold"), grid(list(found.assumed.items()))]
    return Group(*parts)


def grid(rows: list[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for row in rows:
        table.add_row(*row)
    return table


def _models(found: Comparison) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("model", "parameters", "active", "cache per token", "per sequence", "longest context", "made for"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for m in found.models:
        made = "-" if m.max_positions is None else f"{m.max_positions:,}"
        per_sequence = f"{m.cache_per_sequence / 2**20:,.1f} MiB" if m.cache_per_sequence else "-"
        table.add_row(m.name, large(m.parameters), large(m.active_parameters), f"{m.cache_per_token:,} B", per_sequence,
                      _longest(m), made)  # fmt: skip
    where = f"{found.devices} x {found.device}, batch {found.batch}"
    table.caption = f"longest context: tokens of a sequence whose cache fits beside the weights on {where}"
    table.caption_justify = "left"
    return table


def _longest(model: ModelCurve) -> str:
    if model.longest_context is None:
        return "no limit"
    return f"{model.longest_context:,}" if model.longest_context else "weights do not fit"


def _metric(found: Comparison, metric: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("model")
    for tokens in found.sequences:
        table.add_column(length(tokens), justify="right")
    for model in found.models:
        values = [v / _SCALES[metric] for v in getattr(model, metric)]
        table.add_row(model.name, *(_figure(v) for v in values))
    return table


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _crossovers(found: Comparison) -> Table:
    rows = [
        (
            METRICS[c.metric].partition(", G")[0].partition(", M")[0],
            f"from {c.sequence:,} tokens on {c.second} is below {c.first}",
        )
        for c in found.crossovers
    ]
    return grid(rows)


def write_figure(found: Comparison, path: Path) -> None:
    """Write the curves as a page that needs no network (HTML).

    Raises
    ------
    InputError
        For another kind of file, without plotly, or where it cannot be written.
    """
    if path.suffix.lower() != ".html":
        raise InputError("figure", str(path), "a file that ends in .html", f"{path.stem or 'curves'}.html")
    write_whole(
        path,
        _figure_page(found).to_html(include_plotlyjs=True, full_html=True, config={"displaylogo": False}),
        "figure",
    )


def _figure_page(found: Comparison) -> Any:
    try:
        from plotly.colors import qualitative
        from plotly.subplots import make_subplots
    except ImportError:
        why = "needs plotly, which is not installed"
        raise InputError("figure", "", "pip install llmsim[reports]", why=why) from None
    shown = ("train_flops_per_token", "cache_bytes", "decode_s_per_token")
    figure = make_subplots(rows=1, cols=len(shown), subplot_titles=[METRICS[m] for m in shown])
    for column, metric in enumerate(shown, 1):
        for n, model in enumerate(found.models):
            figure.add_scatter(
                x=found.sequences,
                y=[v / _SCALES[metric] for v in getattr(model, metric)],
                name=model.name,
                legendgroup=model.name,
                showlegend=column == 1,
                line={"color": qualitative.Safe[n % len(qualitative.Safe)]},
                row=1,
                col=column,
            )
    figure.update_xaxes(type="log", title_text="tokens", tickvals=found.sequences,
                        ticktext=[length(s) for s in found.sequences])  # fmt: skip
    figure.update_yaxes(type="log", dtick=1)
    where = f"{found.devices} x {found.device}, batch {found.batch}"
    figure.update_layout(template="simple_white", width=1500, height=480, title=f"What long contexts cost ({where})")
    return figure
