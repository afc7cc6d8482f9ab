"""From a plan to the two halves that evaluation wants: structure that may branch, and values in columns."""

from __future__ import annotations

from dataclasses import dataclass

from ..architecture import Architecture
from ..core.data_parallel import ShardingName
from ..core.pipelines import Schedule, ScheduleName, schedule_facts
from ..hardware.cluster import Cluster
from ..plans.adapters import adapted
from ..plans.offload import NO_OFFLOAD, Offload
from ..plans.recompute import parse_recompute
from ..plans.training import TrainingPlan
from ..timing.columns import Columns
from .stages import Depths, Layout, Stage, stage_table
from .structure import TrainingStructure


@dataclass(frozen=True)
class Problem:
    """What the plans of a table have in common.

    Attributes
    ----------
    architecture, cluster, structure
        The model, the machine, and the structural half of the plans.
    sharding
        ``ddp``, ``zero1``, ``zero2``, ``zero3`` or ``hsdp``.
    schedule
        Pipeline schedule.
    optimizer
        Its name.
    layout
        Layers in each part of the model, where they are not spread evenly.
    offload
        What lives on the host.
    depths
        Layers of each stage that recompute, where stages differ in it.
    """

    architecture: Architecture
    cluster: Cluster
    structure: TrainingStructure
    sharding: ShardingName = "zero1"
    schedule: ScheduleName = "1f1b"
    optimizer: str = "adamw"
    layout: Layout = None
    offload: Offload = NO_OFFLOAD
    depths: Depths = None

    @property
    def facts(self) -> Schedule:
        """The facts about its schedule."""
        return schedule_facts(self.schedule)

    def stages(self, columns: Columns) -> tuple[Stage, ...]:
        """The stages of its pipelines in runs."""
        return stage_table(self.architecture, columns.pp, columns.chunks, self.schedule, self.layout, self.depths)

    @property
    def fully_sharded(self) -> bool:
        """Whether parameters themselves are sharded."""
        return self.sharding in ("zero3", "hsdp")


def plan_problem(architecture: Architecture, cluster: Cluster, plan: TrainingPlan) -> Problem:
    """The structural half of a plan; its architecture has the plan's adapters."""
    structure = TrainingStructure(
        plan.framework,
        plan.release,
        plan.precision,
        plan.sequence_parallel,
        plan.context_kind,
        plan.overlap,
        plan.dispatcher,
        plan.documents,
        recompute=parse_recompute(plan.recompute),
    )
    offload = Offload(plan.offload_activations, plan.offload_optimizer)
    return Problem(
        adapted(architecture, plan.adapter),
        cluster,
        structure,
        plan.sharding,
        plan.schedule_name,
        plan.optimizer,
        plan.layout,
        offload,
        plan.depths,
    )


def plan_columns(plan: TrainingPlan) -> Columns:
    """The values of a plan; what it leaves open of the routing is the software profile's."""
    whole = plan.data_parallel * plan.context_parallel
    return Columns(
        sequence=plan.sequence_length,
        micro_batch=plan.micro_batch_size,
        micro_batches=plan.micro_batches,
        tp=plan.tensor_parallel,
        cp=plan.context_parallel,
        dp=plan.data_parallel,
        pp=plan.pipeline_parallel,
        chunks=plan.virtual_pipeline,
        ulysses=plan.ulysses_parallel or 1,
        ep=plan.expert_parallel,
        etp=plan.expert_tensor_parallel,
        shard=(plan.shard_group or whole) if plan.sharding == "hsdp" else whole,
        imbalance=plan.rows_factor,
        inner=plan.pipeline_parallel if plan.rank_order == "tp-cp-pp-dp" else 1,
    )
