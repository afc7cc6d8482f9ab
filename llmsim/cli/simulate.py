"""Commands that simulate one given plan."""

from __future__ import annotations

import typer

from ..core.errors import InputError
from .options import ClusterText, Job, print_json, with_options
from .resolve_plan import Batch, PlanFile, Sequence, Setting, given_plan
from .serve import simulate_serve

app = typer.Typer(no_args_is_help=True, help="Simulate one given plan.")


@app.command("train")
@with_options
def simulate_train(
    job: Job,
    cluster: ClusterText,
    plan: PlanFile = None,
    setting: Setting = None,
    sequence: Sequence = None,
    global_batch: Batch = None,
) -> None:
    """One training step of a given plan: time, memory, FLOPs."""
    from ..report.training import result_report, show
    from ..training.simulate import simulate_training

    given = given_plan(job, plan, setting, sequence, global_batch)
    if given is None:
        raise InputError("plan", None, "--plan FILE, or --set FIELD=VALUE once for each field", why="is missing")
    result = simulate_training(given, job.architecture(), job.machine(cluster), fit=job.fit())
    if job.as_json:
        print_json(result.to_dict())
    else:
        show(result_report(result))


app.command("serve")(simulate_serve)
