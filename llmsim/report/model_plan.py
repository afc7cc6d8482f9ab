"""A model to train as text for a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table

from ..core.units import large, money
from ..quality.model_plan import ModelPlan
from .training import grid, section


def model_plan_report(found: ModelPlan) -> RenderableType:
    """The whole answer."""
    lines = [
        ("model", f"{large(found.parameters)} parameters on {large(found.tokens)} tokens, "
                  f"{found.tokens / found.parameters:,.1f} a parameter"),
        ("training", f"{found.days:,.1f} days, {found.flops:.3g} FLOPs in the days that were given"),
        ("share of the peak", f"{100 * found.mfu:.1f} % ({found.mfu_source})"),
        ("agreement", f"{found.agree} of {len(found.laws)} laws lose at most 0.01 nats with this size"),
        ("half the compute", f"{found.nats_at_half[0]:.3f} to {found.nats_at_half[1]:.3f} nats more"),
        ("batch", f"up to {large(found.batch_tokens)} tokens; beyond, more devices hardly save steps"),
    ]  # fmt: skip
    for name, (low, high) in found.optimizers.items():
        if high:
            lines.append((name, f"{low:.3f} to {high:.3f} nats less than AdamW on the same tokens"))
    if found.epochs > 1:
        lines.append(("epochs", f"{found.epochs:,.1f} over the unique tokens"))
    if found.usd is not None:
        lines.append(("cost", money(found.usd)))
    return Group(
        grid(lines),
        section("What each law says (losses compare within a law only)", _laws(found)),
        section("Assumed", grid(list(found.assumed.items()))),
    )


def _laws(found: ModelPlan) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("law", "parameters", "tokens", "loss", "this size costs", ""):
        table.add_column(name, justify="left" if name in ("law", "") else "right")
    for own in found.laws:
        table.add_row(
            f"{own.law} ({own.source})", large(own.parameters), large(own.tokens), f"{own.loss:.3f}",
            f"{own.regret:.3f}", "larger than its models" if own.extrapolated else "",
        )  # fmt: skip
    return table
