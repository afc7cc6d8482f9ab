"""The command that chooses a compression."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ..core.errors import InputError
from .options import print_json, with_options
from .serve import Served


class Goal(StrEnum):
    """What is to be small."""

    cost = "cost"
    latency = "latency"
    memory = "memory"


@with_options
def compress(
    served: Served,
    candidates: Annotated[
        list[str] | None,
        typer.Option(
            "--try", help="A compression to try: w4g128, fp8, nvfp4, w8a8-int8, q4_k_m, fp8+kv8 ...; once each."
        ),
    ] = None,
    goal: Annotated[Goal, typer.Option(help="What is to be small.")] = Goal.cost,
    quality_loss_max: Annotated[
        float, typer.Option(help="Nats per token that the upper end of the 80 % interval may reach; 0 for no limit.")
    ] = 0.1,
    out_of_domain: Annotated[bool, typer.Option(help="Pick also what no published point is near.")] = False,
) -> None:
    """Compressions of a served model: what each costs in loss and gives in memory, latency and price."""
    from ..quality.compress import plan_compression
    from ..report.compression import compression_report
    from ..report.training import show

    for name, value in (("weights", served.weights), ("kv", served.kv)):
        if value is not None:
            raise InputError(name, value, "--try for each compression, such as --try w4g128+kv8", "w4g128")
    machines = served.machines()
    fields = served.fields(machines)
    load = {name: value for name, value in served.load().items() if value is not None}
    found = plan_compression(
        served.model, machines, plan={k: v for k, v in fields.items() if k not in ("weights", "kv_cache")},
        candidates=candidates or None, goal=goal.value, loss_max=quality_loss_max or None,
        out_of_domain=out_of_domain, **load,
    )  # fmt: skip
    if served.as_json:
        print_json(found.to_dict())
    else:
        show(compression_report(found))
    if found.pick is None:
        raise typer.Exit(3)
