"""How many layers of each stage have to recompute so that it fits: early stages hold more micro-batches than late."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..architecture import body_kinds
from ..core.errors import InputError
from ..timing.columns import Columns
from ..timing.step_constants import StepConstants
from .build_load import kind_parameters
from .memory import memory_limit, memory_of_stage, stage_states
from .problem import Problem
from .saved_activations import model_memory
from .stages import Stage, chunk_counts


def check_depths(problem: Problem, columns: Columns) -> None:
    """Complain about a stage that recomputes more layers than it has.

    Raises
    ------
    InputError
        Naming the first such stage.
    """
    body = body_kinds(problem.architecture)
    for i, (depth, counts) in enumerate(zip(problem.depths or (), _stage_counts(problem, columns), strict=False)):
        layers = sum(counts[:body])
        if depth > layers:
            why = f"recompute_layers: {depth} of the {layers} layers of stage {i}"
            raise InputError("plan", problem.depths, f"at most {layers} there", why=f"is invalid: {why}")


def _stage_counts(problem: Problem, columns: Columns) -> list[tuple[int, ...]]:
    """Layers of each kind in each stage."""
    shape = int(columns.pp), int(columns.chunks)
    each = chunk_counts(problem.architecture, *shape, problem.schedule, problem.layout)
    return [tuple(sum(own) for own in zip(*chunks, strict=True)) for chunks in each]


def fitted_depths(problem: Problem, columns: Columns, constants: StepConstants) -> tuple[int, ...]:
    """The fewest layers of each stage that recompute under one plan's setting so that it fits; all of them where it
    fits with none."""
    problem = replace(problem, depths=None)
    limit = memory_limit(problem.cluster, problem.structure.software)
    parameters, kinds = kind_parameters(problem, columns), model_memory(problem, columns)
    body = body_kinds(problem.architecture)
    found = []
    for i, counts in enumerate(_stage_counts(problem, columns)):
        layers = sum(counts[:body])
        depths = np.arange(layers + 1)
        stage = Stage(counts, i, 1, depths / max(layers, 1))
        states = stage_states(problem, columns, stage, parameters)
        memory = memory_of_stage(problem, columns, stage, states, kinds, constants).device_bytes
        fits = np.broadcast_to(memory <= limit, depths.shape)
        found.append(int(np.argmax(fits)) if fits.any() else layers)
    return tuple(found)
