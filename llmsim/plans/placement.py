"""Where each rank of a plan runs, and which groups it belongs to."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from ..core.files import write_whole
from .training import TrainingPlan


@dataclass(frozen=True, slots=True)
class Place:
    """One rank.

    Attributes
    ----------
    rank
        Global number.
    node, device
        Machine, and device in it.
    domain
        Scale-up domain (a node, or a rack that NVLink joins).
    pipeline, data, context, tensor
        Coordinates on the mesh: ranks that differ in one of them only form a group of that axis.
    expert_data, expert, expert_tensor
        The same of the mesh of experts, whose pipeline is the other's.
    """

    rank: int
    node: int
    device: int
    domain: int
    pipeline: int
    data: int
    context: int
    tensor: int
    expert_data: int
    expert: int
    expert_tensor: int


def placement(plan: TrainingPlan, devices_per_node: int, domain: int) -> Iterator[Place]:
    """Every rank of a plan in order: consecutive ranks fill a node, and the plan's order of ranks says which axis
    consecutive ranks run along.

    Parameters
    ----------
    domain
        Devices of a scale-up domain.
    """
    p, near = plan.pipeline_parallel, plan.tensor_parallel * plan.context_parallel
    for rank in range(plan.n_devices):
        block, inside = divmod(rank, near)
        if plan.rank_order == "tp-cp-pp-dp":
            data, pipeline = divmod(block, p)
        else:
            pipeline, data = divmod(block, plan.data_parallel)
        context, tensor = divmod(inside, plan.tensor_parallel)
        of_stage = data * near + inside
        rest, expert_tensor = divmod(of_stage, plan.expert_tensor_parallel)
        expert_data, expert = divmod(rest, plan.expert_parallel)
        node, device = divmod(rank, devices_per_node)
        coordinates = (pipeline, data, context, tensor, expert_data, expert, expert_tensor)
        yield Place(rank, node, device, rank // domain, *coordinates)


def write_placement(path: Path, plan: TrainingPlan, devices_per_node: int, domain: int) -> None:
    """A CSV file with one line a rank, whole or not at all."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(f.name for f in fields(Place))
    table.writerows(map(astuple, placement(plan, devices_per_node, domain)))
    write_whole(path, text.getvalue(), "placement")
