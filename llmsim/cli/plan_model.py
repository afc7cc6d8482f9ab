"""The command that chooses a model to train."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import ClusterText, Json, print_json


def plan_model(
    cluster: ClusterText,
    days: Annotated[float, typer.Option(help="How long the cluster trains.")],
    inference_tokens: Annotated[
        str | None, typer.Option(help="Tokens that the model will read and write once it serves, 1e12 or 1T.")
    ] = None,
    unique_tokens: Annotated[str | None, typer.Option(help="Different tokens that there are.")] = None,
    mfu: Annotated[
        float | None, typer.Option(help="Share of the 16-bit peak that training reaches; by default searched for.")
    ] = None,
    as_json: Json = False,
) -> None:
    """How large a dense model to train, and on how many tokens, with a cluster and a number of days."""
    from ..core.units import parse_count
    from ..quality.model_plan import plan_model as planned
    from ..report.model_plan import model_plan_report
    from ..report.training import show

    found = planned(
        cluster, days,
        inference_tokens=0.0 if inference_tokens is None else float(parse_count(inference_tokens, "inference_tokens")),
        unique_tokens=None if unique_tokens is None else float(parse_count(unique_tokens, "unique_tokens")),
        mfu=mfu,
    )  # fmt: skip
    if as_json:
        print_json(found.to_dict())
    else:
        show(model_plan_report(found))
