"""The question of a search: a job and options as objects, or as keywords in the forms that people write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, TypedDict

from ..architecture import Architecture
from ..core.arguments import known_arguments, listed, of_kind, text
from ..core.errors import InputError
from ..hardware.fitted import Fit
from ..hardware.profiles import build
from ..plans.job import TrainingJob
from .options import SearchOptions
from .space import SearchSpace


class FurtherKeywords(TypedDict, total=False):
    """Fields of a :class:`TrainingJob` and of :class:`SearchOptions` that several clusters share, said one by one."""

    sequence: int | str
    tokens: float | str | None
    epochs: float
    precision: str | Sequence[str] | None
    framework: str | None
    release: str
    optimizer: str | None
    adapter: str
    document_length: int | str | tuple[int, ...] | None
    capacity_factor: float | None
    pad_to_capacity: bool
    imbalance: float | None
    network: str | None
    price: float | None
    headroom: float | None
    oom_risk: float | None
    percentile: float | None
    simpler_within: float | None
    fit: Fit | None
    cores: int | None
    progress: bool


class Keywords(FurtherKeywords, total=False):
    """All fields of a :class:`TrainingJob` and of :class:`SearchOptions`, said one by one."""

    global_batch: int | str
    top: int


OF_THE_JOB = tuple(f.name for f in fields(TrainingJob) if f.name != "model")
OF_THE_OPTIONS = tuple(f.name for f in fields(SearchOptions))


def read_question(
    job: TrainingJob | Architecture | str | Path,
    options: SearchOptions | None,
    named: Mapping[str, Any],
    verb: str = "plan_training",
) -> tuple[TrainingJob, SearchOptions]:
    """A job and options from objects and keywords: a job's fields beside a model, options' beside or instead of them.

    Parameters
    ----------
    verb
        Whose arguments they are.

    Raises
    ------
    InputError
        For an unknown name, a missing one, or a job's field beside a job.
    """
    known_arguments(named, (*OF_THE_JOB, *OF_THE_OPTIONS, "space", "options"), verb)
    own = {name: value for name, value in named.items() if name in OF_THE_OPTIONS}
    given = of_kind(options, (SearchOptions, type(None)), "options", "SearchOptions")
    chosen = SearchOptions(**own) if given is None else replace(given, **own)
    said = {name: value for name, value in named.items() if name in OF_THE_JOB}
    if isinstance(job, TrainingJob):
        for name, value in said.items():
            raise InputError(name, value, "in the job, not beside it")
        return job, chosen
    for field in fields(TrainingJob):
        if field.default is MISSING and field.name not in ("model", *said):
            raise InputError(field.name, None, "this argument is required", why="is missing")
    return TrainingJob(model=job, **said), chosen


def chosen_space(space: Any, precision: str | Sequence[str] | None) -> tuple[SearchSpace, str | None]:
    """What may be chosen, and the recipe that a plan starts with: of several, all may be chosen."""
    found = build(SearchSpace, dict(space), "space") if isinstance(space, Mapping) else space
    found = SearchSpace() if found is None else of_kind(found, SearchSpace, "space", "a SearchSpace, or its fields")
    if precision is None:
        return found, None
    recipes = listed(precision, "precision", "a recipe, or several")
    if isinstance(precision, str):
        recipes = [part.strip() for part in precision.split(";" if ";" in precision else ",")]
    if not recipes:
        raise InputError("precision", precision, "a recipe, or several", "bf16")
    if len(recipes) == 1:
        return found, text(recipes[0], "precision", "a recipe such as bf16")
    if found.precision is not None:
        raise InputError("precision", precision, "several of them here or in the space, not in both")
    found = build(SearchSpace, {**found.model_dump(), "precision": recipes}, "")
    return found, (found.precision or ())[0]
