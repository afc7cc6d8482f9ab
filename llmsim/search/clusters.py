"""Which cluster to take: the best plan on each of several, and the one that meets a deadline and a budget best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, Unpack, get_args

from .._version import __version__
from ..architecture import Architecture
from ..core.arguments import known_arguments, listed, real
from ..core.errors import InfeasibleError, InputError, LlmsimError, unknown_name
from ..core.progress import Bar
from ..core.units import counted, days, money, parse_batch, parse_count
from ..economics.job import JobCost
from ..hardware.cluster import Cluster
from ..plans.job import TrainingJob
from .answer import PlannedJob, TrainingPlanning
from .options import SearchOptions
from .plan import plan_training
from .question import OF_THE_JOB, OF_THE_OPTIONS, FurtherKeywords, read_question
from .space import SearchSpace

SCHEMA = "llmsim.cluster-choice/1"

Objective: TypeAlias = Literal["cost", "days", "devices", "energy"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
"""What is made small: USD, days, the number of devices, or energy of the whole job."""


@dataclass(frozen=True)
class ClusterOption:
    """One cluster with one batch size.

    Attributes
    ----------
    cluster, n_devices, global_batch
        What it is.
    best
        Its best plan, None where there is none.
    proven
        Whether no other plan of the space is faster there.
    broken
        Why it is not taken: what it breaks and by how much, or why it has no plan.
    dominated
        Whether another option is at least as good in days and in cost, and better in one.
    """

    cluster: str
    n_devices: int
    global_batch: int
    best: PlannedJob | None
    proven: bool
    broken: list[str] = field(default_factory=list)
    dominated: bool = False

    @property
    def job(self) -> JobCost | None:
        """What the whole job takes there."""
        return self.best.job if self.best else None


@dataclass(frozen=True)
class Mix:
    """A job that runs on one cluster and then on another, so that it ends with the deadline.

    Attributes
    ----------
    first, second
        Numbers of the options.
    share
        Of the tokens, those that the first trains on.
    days, cost_usd
        Of the whole job; moving a checkpoint is not counted.
    """

    first: int
    second: int
    share: float
    days: float
    cost_usd: float


@dataclass(frozen=True)
class ClusterChoice:
    """The answer to "which cluster".

    Attributes
    ----------
    model, tokens, objective, deadline_days, budget_usd
        The question.
    options
        Those that meet it first, each group from the best to the worst by the objective; those without a plan last.
    assumed
        Cluster -> what was not said there and was taken from profiles.
    mix
        Two clusters one after the other, where that is cheaper than any alone under a deadline.
    """

    model: str
    tokens: float
    objective: Objective
    deadline_days: float | None
    budget_usd: float | None
    options: list[ClusterOption]
    assumed: dict[str, dict[str, str]]
    mix: Mix | None = None

    @property
    def chosen(self) -> ClusterOption:
        """The best that meets the question."""
        return self.options[0]

    def to_dict(self) -> dict[str, Any]:
        """As JSON wants it, with schema and version."""
        data = asdict(replace(self, options=[replace(o, best=None) for o in self.options]))
        for own, option in zip(data["options"], self.options, strict=True):
            if option.best is not None:
                own["best"] = {
                    "result": option.best.result.to_dict(),
                    "job": asdict(option.job) if option.job else None,
                }
        return {"schema": SCHEMA, "version": __version__, **data}


def plan_cluster(
    model: TrainingJob | Architecture | str | Path,
    clusters: Sequence[Cluster | Mapping[str, Any] | str | Path] | Cluster | str | Path,
    *,
    objective: Objective = "cost",
    deadline_days: float | None = None,
    budget_usd: float | str | None = None,
    global_batch: int | str | Sequence[int | str] | None = None,
    space: SearchSpace | Mapping[str, Any] | None = None,
    options: SearchOptions | None = None,
    **named: Unpack[FurtherKeywords],
) -> ClusterChoice:
    """The cluster, of several, on which a job meets a deadline and a budget best; each runs its best plan.

    Parameters
    ----------
    model
        A :class:`~llmsim.plans.job.TrainingJob` that says its tokens; or its model, with the other fields as keywords
        (``sequence=8192, global_batch=512, tokens="15T"``).
    clusters
        Clusters, or texts such as ``64x8xh100-sxm-80gb``; each is of one kind of device.
    objective
        What is made small.
    deadline_days, budget_usd
        What the job may take; None for no limit.
    global_batch
        Of the job, where it is given by keywords: sequences of a step, or several numbers of them to choose from (all
        are taken to reach the same loss after the same tokens).
    space
        What may be chosen on each cluster, as for :func:`~llmsim.search.plan.plan_training`.
    options
        :class:`~llmsim.search.options.SearchOptions`, the same for all clusters; keywords of their names do as well.
        Of each cluster there is one plan, whatever ``top`` says.

    Raises
    ------
    InputError
        For a value that cannot be used.
    InfeasibleError
        Where no cluster meets the question: what the nearest one breaks, and by how much.
    """
    known_arguments(named, _FURTHER, "plan_cluster")
    each = listed(clusters, "clusters", "clusters, or texts such as 64x8xh100-sxm-80gb", (str, Path, Cluster))
    machines = [Cluster.parse(c) for c in each]
    jobs, chosen = _question(model, options, dict(named), global_batch)
    job = jobs[0]
    budget_usd = None if budget_usd is None else parse_count(budget_usd, "budget_usd", "2M")
    if deadline_days is not None:
        real(deadline_days, "deadline_days")
    _check(machines, objective, deadline_days, budget_usd)
    found: list[ClusterOption] = []
    assumed: dict[str, dict[str, str]] = {}
    search = partial(plan_training, space=space, options=replace(chosen, top=1, progress=False))
    with Bar(chosen.progress) as bar:
        advance = bar.stage("clusters", len(machines) * len(jobs))
        for machine in machines:
            for own in jobs:
                option, taken = _option(own, machine, search, deadline_days, budget_usd)
                found.append(option)
                assumed[option.cluster] = taken or assumed.get(option.cluster, {})
                advance()
    ordered = sorted(_marked(found), key=lambda option: _order(option, objective))
    if ordered[0].broken:
        raise _nothing_meets(job.architecture, ordered[0], objective)
    mix = cheapest_mix(ordered, deadline_days) if objective == "cost" and deadline_days is not None else None
    tokens = job.training_tokens * job.epochs
    return ClusterChoice(job.architecture.name, tokens, objective, deadline_days, budget_usd, ordered, assumed, mix)


def _question(
    model: TrainingJob | Architecture | str | Path,
    options: SearchOptions | None,
    named: dict[str, Any],
    global_batch: int | str | Sequence[int | str] | None,
) -> tuple[list[TrainingJob], SearchOptions]:
    """The job with each number of sequences, and options."""
    batches = [] if global_batch is None else _batches(global_batch)
    if batches:
        named["global_batch"] = batches[0]
    job, chosen = read_question(model, options, named, "plan_cluster")
    if job.tokens is None:
        raise InputError("tokens", None, "this argument is required", why="is missing")
    return [job, *(replace(job, global_batch=batch) for batch in batches[1:])], chosen


def _batches(given: int | str | Sequence[int | str]) -> list[int]:
    """Each number of sequences once."""
    parts = given.split(",") if isinstance(given, str) else listed(given, "global_batch", "whole numbers", (int, float))
    found = list(dict.fromkeys(parse_batch(part, "global_batch") for part in parts))
    if not found:
        raise InputError("global_batch", [], "at least one number of sequences", 256)
    return found


def cheapest_mix(options: Sequence[ClusterOption], deadline_days: float) -> Mix | None:
    """The cheapest way to meet a deadline on two clusters one after the other, where none alone is as cheap.

    Days and cost are linear in the share of the tokens, so that the best mix has one option that meets the deadline
    and one that is cheaper and does not, and ends with the deadline.

    Parameters
    ----------
    options
        The first is the cheapest that meets it.
    """
    jobs = {i: option.job for i, option in enumerate(options) if option.job is not None}
    best: Mix | None = None
    for i, fast in jobs.items():
        for k, cheap in jobs.items():
            if fast.days > deadline_days or cheap.days <= deadline_days or cheap.cost_usd >= fast.cost_usd:
                continue
            share = (cheap.days - deadline_days) / (cheap.days - fast.days)
            cost = share * fast.cost_usd + (1 - share) * cheap.cost_usd
            least = jobs[0].cost_usd if best is None else best.cost_usd
            if cost < least:
                best = Mix(i, k, share, deadline_days, cost)
    return best


def _check(machines: Sequence[Cluster], objective: str, deadline: float | None, budget: float | None) -> None:
    if not machines:
        raise InputError("clusters", [], "at least one", "8x8xh100-sxm-80gb")
    if not isinstance(objective, str) or objective not in OBJECTIVES:
        raise unknown_name("objective", objective, OBJECTIVES)
    for name, value in (("deadline_days", deadline), ("budget_usd", budget)):
        if value is not None and not 0 < value < float("inf"):
            raise InputError(name, value, "a number above 0")


def _option(
    job: TrainingJob,
    machine: Cluster,
    search: Callable[[TrainingJob, Cluster], TrainingPlanning],
    deadline: float | None,
    budget: float | None,
) -> tuple[ClusterOption, dict[str, str]]:
    name = f"{machine.nodes}x{machine.devices_per_node}x{machine.profile.name}"
    shape = name, machine.n_devices, job.shape[1]
    try:
        answer = search(job, machine)
    except LlmsimError as error:
        if isinstance(error, InputError) and error.field not in _OF_THE_CLUSTER:
            raise  # wrong for every cluster
        return ClusterOption(*shape, None, False, [str(error)]), {}
    best = answer.best[0]
    assert best.job is not None
    limits = (("days", best.job.days, deadline, days), ("cost", best.job.cost_usd, budget, money))
    broken = [
        f"{what}: {form(value)}, {100 * (value / most - 1):.0f} % above {form(most)}"
        for what, value, most, form in limits
        if most is not None and value > most
    ]
    return ClusterOption(*shape, best, answer.counts.proven, broken), answer.assumed


_OF_THE_CLUSTER = frozenset(
    {"global_batch", "pipeline_parallel", "tensor_parallel", "context_parallel", "expert_parallel", "micro_batch_size",
     "virtual_pipeline", "sharding", "precision"}
)  # fmt: skip
"""Fields that may be wrong on one cluster and right on another."""


_FURTHER = frozenset((*OF_THE_JOB, *OF_THE_OPTIONS)) - {"global_batch", "top"}
"""Fields of a job and of options that are the same for all clusters."""


def _marked(options: Sequence[ClusterOption]) -> list[ClusterOption]:
    """With those marked that another one beats in days and cost."""

    def beats(other: JobCost, own: JobCost) -> bool:
        one, two = (other.days, other.cost_usd), (own.days, own.cost_usd)
        return one != two and one[0] <= two[0] and one[1] <= two[1]

    jobs = [option.job for option in options if option.job]
    return [replace(o, dominated=o.job is not None and any(beats(j, o.job) for j in jobs)) for o in options]


_VALUE: dict[Objective, Callable[[ClusterOption, JobCost], float]] = {
    "cost": lambda option, job: job.cost_usd,
    "days": lambda option, job: job.days,
    "devices": lambda option, job: option.n_devices,
    "energy": lambda option, job: job.energy_kwh,
}


def _order(option: ClusterOption, objective: Objective) -> tuple[float, ...]:
    job = option.job
    if job is None:
        return (2.0, float(option.n_devices), 0.0, 0.0)
    return (1.0 if option.broken else 0.0, _VALUE[objective](option, job), job.days, float(option.n_devices))


def _nothing_meets(architecture: Architecture, nearest: ClusterOption, objective: Objective) -> InfeasibleError:
    where = f"{architecture.name} on {nearest.cluster} with {counted(nearest.global_batch, 'sequence')} a step"
    return InfeasibleError(
        f"no cluster meets the question. The nearest by {objective} is {where}: {'; '.join(nearest.broken)}",
        where,
    )
