"""The command that chooses a cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from ..core.errors import InputError
from .options import Epochs, Job, SequenceText, Tokens, print_json, with_options


@with_options
def cluster(
    job: Job,
    clusters: Annotated[
        str,
        typer.Option(help="Joined by commas; 8:64x8xh100-sxm-80gb doubles the nodes from 8 to 64, 8:64:8x... adds 8."),
    ],
    sequence: SequenceText,
    global_batch: Annotated[
        str, typer.Option("--global-batch", "-b", help="Sequences of a step, or several numbers joined by commas.")
    ],
    tokens: Annotated[str, Tokens],
    epochs: Epochs = 1.0,
    objective: Annotated[str, typer.Option(help="What is made small: cost, days, devices or energy.")] = "cost",
    deadline_days: Annotated[float | None, typer.Option(help="Days that the job may take.")] = None,
    budget_usd: Annotated[str | None, typer.Option(help="USD that it may cost, such as 2M.")] = None,
) -> None:
    """The cluster that meets a deadline and a budget best, and the best plan on it."""
    from ..report.clusters import cluster_report
    from ..report.training import show
    from ..search.clusters import plan_cluster

    answer = plan_cluster(
        job.architecture(),
        [name for part in clusters.split(",") for name in _spread(part.strip())],
        sequence=sequence,
        global_batch=global_batch,
        tokens=tokens,
        epochs=epochs,
        objective=objective,  # type: ignore[arg-type]  # checked there
        deadline_days=deadline_days,
        budget_usd=budget_usd,
        network=job.network,
        headroom=job.headroom,
        fit=job.fit(),
        progress=not job.as_json,
        **job.said(),
    )
    if job.as_json:
        print_json(answer.to_dict())
    else:
        show(cluster_report(answer))


def _spread(text: str) -> list[str]:
    """``8:64x8xh100`` as 8, 16, 32 and 64 nodes; ``8:64:8x8xh100`` as 8, 16, 24 ... 64; other text as it is."""
    nodes, mark, rest = text.partition("x")
    numbers = nodes.split(":")
    if len(numbers) == 1 or not mark:
        return [text]
    try:
        first, last, *steps = map(int, numbers)
        step = steps[0] if steps else None
    except ValueError:
        raise InputError("clusters", text, "NODES:NODESxDEVICESxDEVICE with whole numbers", f"8:64x{rest}") from None
    if not 1 <= first <= last <= 10_000_000 or len(steps) > 1 or (step is not None and step < 1):
        raise InputError("clusters", text, "from fewer nodes to more, 1 or more", f"8:64x{rest}")
    found = [first]
    while (following := found[-1] * 2 if step is None else found[-1] + step) <= last:
        found.append(following)
    if len(found) > MOST_NODES:
        raise InputError("clusters", text, f"at most {MOST_NODES} numbers of nodes", f"{first}:{last}x{rest}")
    return [f"{n}x{rest}" for n in found]


MOST_NODES = 1000
