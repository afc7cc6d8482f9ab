"""The training plan: one way to run one training step on a cluster, and what makes it invalid."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import ConfigDict, Field, field_validator, model_validator

from ..core.arguments import of_kind
from ..core.data_parallel import ShardingName
from ..core.errors import InputError, unknown_name
from ..core.pipelines import SCHEDULES, ScheduleName, schedule_facts
from ..core.sharding import ContextKind, RankOrder
from ..core.units import parse_batch, parse_length
from ..core.versions import without_schema
from ..hardware.profiles import Checked, Real, Whole, build, read_yaml
from ..hardware.software import Software, framework_name, get_software
from .adapters import parse_adapter
from .optimizer import get_optimizer
from .precision import get_precision
from .recompute import parse_recompute

SCHEMA = "llmsim.training-plan/1"

Degree = Annotated[Whole, Field(ge=1, le=1_000_000)]
Count = Annotated[Whole, Field(ge=1, le=1_000_000_000)]
Share = Annotated[Real, Field(ge=0, le=1, allow_inf_nan=False)]
Layers = Annotated[Whole, Field(ge=0, le=1_000_000)]


Overlap: TypeAlias = Literal["profile", "none", "tensor", "expert"]
Dispatcher: TypeAlias = Literal["profile", "deepep", "hybridep"]


class TrainingPlan(Checked):
    """How a training step runs.

    Degrees multiply to the number of devices: ``tensor_parallel x context_parallel x data_parallel x
    pipeline_parallel``. Expert parallelism lies inside the first three.

    Attributes
    ----------
    sequence_length, global_batch_size, micro_batch_size
        Tokens of a sequence; sequences per step; sequences per data-parallel rank and micro-step.
    document_length
        Tokens of the documents that a sequence packs and that attention does not cross: one number for equal ones, of
        which the last may be cut short, or all of them; None where a sequence is one document.
    tensor_parallel, context_parallel, data_parallel, pipeline_parallel, virtual_pipeline
        Ranks that share the matrices of each layer; ranks that share a sequence; ranks that share the batch; ranks that
        share the layers; model chunks per pipeline stage.
    expert_parallel
        Ranks of one pipeline stage that share the experts.
    expert_tensor_parallel
        Ranks that share the matrices of each expert; unless it is set, what the framework does: in Megatron the
        tensor-parallel degree.
    sequence_parallel
        Shard the sequence over tensor-parallel ranks where tensors have no heads.
    context_kind, ulysses_parallel
        How attention crosses context-parallel ranks; for ``ulysses+ring`` the ranks of a group that spreads heads, a
        divisor of ``context_parallel`` (a ring joins the groups).
    rank_order
        Which ranks are neighbours, from the nearest axis to the farthest (Megatron's two orders); expert ranks take the
        place of context-parallel ones in it.
    sharding, shard_group
        What data-parallel ranks share out; for ``hsdp`` over groups of ``shard_group`` ranks.
    schedule
        Of the pipeline; interleaved where there are several chunks.
    layers_per_stage
        Layers of each part of the pipeline in model order (part ``c * pipeline_parallel + i`` is chunk c of stage i;
        in V-shaped schedules chunk 1 comes back from the last stage to the first), ``even``, or ``balanced``: so that
        the slowest stage is as fast as can be, and every stage fits where that is possible.
    recompute
        ``none``, ``full``, ``selective``, ``selective:layernorm,moe_act`` ...; see
        :func:`llmsim.plans.recompute.parse_recompute`.
    recompute_layers
        Layers of each stage that recompute, ``uniform`` (the share that ``recompute`` says), or ``fitted``: in every
        stage the fewest under which it fits.
    precision
        Recipe of number formats; unless it is set, bf16 where the devices multiply it, else fp16 or fp32.
    optimizer
        By name.
    adapter
        ``none`` trains every parameter; ``lora:16`` or ``lora:16:q,v`` trains low-rank adapters of a frozen model, see
        :func:`llmsim.plans.adapters.parse_adapter`.
    offload_activations, offload_optimizer
        Share of each stage's layers whose kept tensors go to the host's memory and come back for backward; share of the
        optimizer states that live there and are updated there.
    overlap
        ``profile`` (what the stack hides by default), ``none``, or besides ``tensor`` or ``expert`` transfers.
    dispatcher
        How tokens reach their experts: ``deepep``, whose host waits for the sizes, or ``hybridep``, whose host hardly
        does; ``profile``: the latter in racks, the former elsewhere.
    imbalance
        Tokens of the busiest expert rank over the mean; None takes the software profile's.
    capacity_factor, pad_to_capacity
        An expert takes at most this many times the mean and drops the rest, None drops nothing (Fedus 2022,
        arXiv:2101.03961); whether it is filled up to that.
    framework
        Software profile; unless it is set, the usual one of the devices.
    release
        Of the framework, blank for the newest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    schema_version: Literal["llmsim.training-plan/1"] = "llmsim.training-plan/1"
    sequence_length: Count
    global_batch_size: Count
    micro_batch_size: Count = 1
    document_length: Count | Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    tensor_parallel: Degree = 1
    context_parallel: Degree = 1
    data_parallel: Degree = 1
    pipeline_parallel: Degree = 1
    virtual_pipeline: Degree = 1
    expert_parallel: Degree = 1
    expert_tensor_parallel: Degree = 1
    sequence_parallel: bool = True
    context_kind: ContextKind = "ring"
    ulysses_parallel: Degree | None = None
    rank_order: RankOrder = "tp-cp-dp-pp"
    sharding: ShardingName = "zero1"
    shard_group: Degree | None = None
    schedule: ScheduleName | None = None
    layers_per_stage: Literal["even", "balanced"] | tuple[Layers, ...] = "even"
    recompute: str = "none"
    recompute_layers: Literal["uniform", "fitted"] | tuple[Layers, ...] = "uniform"
    precision: str = "bf16"
    optimizer: str = "adamw"
    adapter: str = "none"
    offload_activations: Share = 0.0
    offload_optimizer: Share = 0.0
    overlap: Overlap = "profile"
    dispatcher: Dispatcher = "profile"
    imbalance: Real | None = Field(default=None, ge=1, le=1e6, allow_inf_nan=False)
    capacity_factor: Real | None = Field(default=None, gt=0, le=1e6, allow_inf_nan=False)
    pad_to_capacity: bool = False
    framework: str = "megatron-core"
    release: str = ""

    @field_validator("sequence_length", "document_length", mode="before")
    @classmethod
    def _length(cls, value: Any) -> Any:
        """``8k``, as a command line has it."""
        return _own_error(parse_length, value, "length") if isinstance(value, str) and "," not in value else value

    @field_validator("global_batch_size", mode="before")
    @classmethod
    def _batch(cls, value: Any) -> Any:
        return _own_error(parse_batch, value, "global_batch_size") if isinstance(value, str) else value

    @field_validator("layers_per_stage", "recompute_layers", "document_length", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        """Numbers joined by commas, as a command line has them."""
        if isinstance(value, str) and re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)+", value):
            return tuple(int(part) for part in value.split(","))
        return value

    @field_validator("schedule", mode="before")
    @classmethod
    def _schedule(cls, value: Any) -> Any:
        return value if value is None else _own_error(schedule_name, value)

    @field_validator("recompute")
    @classmethod
    def _recompute(cls, value: str) -> str:
        return str(_own_error(parse_recompute, value))

    @field_validator("precision")
    @classmethod
    def _precision(cls, value: str) -> str:
        return str(_own_error(get_precision, value).name)

    @field_validator("optimizer")
    @classmethod
    def _optimizer(cls, value: str) -> str:
        return str(_own_error(get_optimizer, value).name)

    @field_validator("adapter")
    @classmethod
    def _adapter(cls, value: str) -> str:
        return str(_own_error(parse_adapter, value) or "none")

    @field_validator("framework")
    @classmethod
    def _framework(cls, value: str) -> str:
        return str(_own_error(framework_name, value))

    @model_validator(mode="after")
    def _consistent(self) -> TrainingPlan:
        error = _chunk_error(self) or _document_error(self) or _depth_error(self)
        if self.shard_group is not None and self.sharding != "hsdp":
            error = InputError(
                "shard_group", self.shard_group, f"nothing with sharding {self.sharding}, only with hsdp"
            )
        if self.pad_to_capacity and self.capacity_factor is None:
            error = InputError("pad_to_capacity", True, "false without a capacity_factor", False)
        combined = self.context_kind == "ulysses+ring"
        if combined != (self.ulysses_parallel is not None):
            allowed = "a degree with context_kind ulysses+ring" if combined else "only with context_kind ulysses+ring"
            error = InputError("ulysses_parallel", self.ulysses_parallel, allowed, 2 if combined else None)
        if error is not None:
            raise ValueError(str(error)) from error
        return self

    @property
    def documents(self) -> tuple[tuple[int, int], ...]:
        """(length, how many) of the documents packed into a sequence; none where it is one."""
        if self.document_length is None:
            return ()
        if isinstance(self.document_length, int):
            whole, rest = divmod(self.sequence_length, self.document_length)
            return ((self.document_length, whole), *([(rest, 1)] if rest else []))
        return tuple(sorted(Counter(self.document_length).items()))

    @property
    def n_devices(self) -> int:
        """Devices that the plan uses."""
        return self.tensor_parallel * self.context_parallel * self.data_parallel * self.pipeline_parallel

    @property
    def micro_batches(self) -> int:
        """Micro-steps per step, rounded up where they do not divide."""
        return -(-self.global_batch_size // (self.micro_batch_size * self.data_parallel))

    @property
    def schedule_name(self) -> ScheduleName:
        """The schedule that runs: interleaved where there are chunks, else 1F1B, unless one was named."""
        return self.schedule or ("interleaved" if self.virtual_pipeline > 1 else "1f1b")

    @property
    def layout(self) -> tuple[int, ...] | None:
        """Layers of each part, where the plan lists them."""
        return None if isinstance(self.layers_per_stage, str) else self.layers_per_stage

    @property
    def depths(self) -> tuple[int, ...] | None:
        """Layers of each stage that recompute, where the plan lists them."""
        return None if isinstance(self.recompute_layers, str) else self.recompute_layers

    @property
    def spreads_evenly(self) -> bool:
        """Whether stages have as many layers each as divides evenly, and recompute the same share of them."""
        return self.layers_per_stage == "even" and self.recompute_layers == "uniform"

    @property
    def rows_factor(self) -> float:
        """Rows of the busiest expert rank over the mean, after dropping and padding."""
        spread = self.software.training.defaults.imbalance if self.imbalance is None else float(self.imbalance)
        if self.capacity_factor is None:
            return spread
        return float(self.capacity_factor if self.pad_to_capacity else min(spread, self.capacity_factor))

    @property
    def software(self) -> Software:
        """The profile of its framework."""
        return get_software(self.framework, self.release)

    @classmethod
    def parse(cls, plan: TrainingPlan | Mapping[str, Any] | str | Path) -> TrainingPlan:
        """A plan from itself, from a mapping of its fields, or from the path of a YAML or JSON file.

        Raises
        ------
        InputError
            For anything else, naming the field that is wrong or unknown.
        """
        if isinstance(plan, Mapping):
            return build(cls, dict(plan), "plan")
        if isinstance(plan, TrainingPlan):
            return plan
        if not isinstance(plan, (str, Path)):
            raise InputError("plan", plan, "a TrainingPlan, a mapping of its fields, or the path of a file")
        return cls.from_file(plan)

    @classmethod
    def from_file(cls, path: str | Path) -> TrainingPlan:
        """A plan from a YAML or JSON file.

        Raises
        ------
        InputError
            Naming the field that is wrong or unknown.
        """
        return build(cls, read_plan(path), f"plan {path}")

    def __str__(self) -> str:
        across = "" if self.context_kind in ("ring", "ulysses+ring") else f"{self.context_kind}-"
        degrees = [("TP", self.tensor_parallel), (f"{across}CP", self.context_parallel), ("PP", self.pipeline_parallel)]
        degrees += [("ulysses", self.ulysses_parallel or 1)]
        degrees += [("EP", self.expert_parallel), ("ETP", self.expert_tensor_parallel), ("DP", self.data_parallel)]
        said = ("ETP",) if self.expert_parallel > 1 and self.tensor_parallel > 1 else ()
        text = " ".join(f"{name}{n}" for name, n in degrees if n > 1 or name in said) or "one device"
        chunks = f" x{self.virtual_pipeline} chunks" if self.virtual_pipeline > 1 else ""
        if schedule_facts(self.schedule_name).split:
            chunks = f" {self.schedule_name}{chunks}"
        if self.layers_per_stage != "even":
            own = self.layers_per_stage
            chunks += f" layers {_listed(own)}"
        if self.rank_order != "tp-cp-dp-pp":
            chunks += f" order {self.rank_order}"
        sp = " SP" if self.sequence_parallel and self.tensor_parallel > 1 else ""
        tail = f" {self.adapter}" if self.adapter != "none" else ""
        tail += f" {self.dispatcher}" if self.dispatcher != "profile" else ""
        tail += f" overlap {self.overlap}" if self.overlap != "profile" else ""
        for name in ("activations", "optimizer"):
            share = getattr(self, f"offload_{name}")
            tail += f" offload {name} {share:.0%}" if share else ""
        size = self.micro_batch_size
        again = self.recompute
        if self.recompute_layers != "uniform":
            again += f" layers {_listed(self.recompute_layers)}"
        return f"{text}{sp}{chunks} {self.sharding} {self.precision} micro-batch {size} recompute {again}{tail}"


def _listed(layers: str | tuple[int, ...]) -> str:
    return layers if isinstance(layers, str) else "/".join(map(str, layers))


def _chunk_error(plan: TrainingPlan) -> InputError | None:
    """Where the schedule that was named does not run with the plan's chunks."""
    if plan.schedule is None:
        return None
    chunks, own = schedule_facts(plan.schedule).chunks, plan.virtual_pipeline
    if chunks == "several" and own == 1:
        return InputError("virtual_pipeline", own, f"2 or more: {plan.schedule} runs several chunks per stage", 2)
    if chunks == "two" and own != 2:
        return InputError("virtual_pipeline", own, f"2: schedule {plan.schedule} runs two chunks per stage", 2)
    if chunks == "one" and own > 1:
        return InputError("virtual_pipeline", own, f"1: schedule {plan.schedule} runs one chunk per stage", 1)
    return None


def _document_error(plan: TrainingPlan) -> InputError | None:
    """Where documents do not fill the sequence."""
    own, length = plan.document_length, plan.sequence_length
    if isinstance(own, tuple) and sum(own) != length:
        return InputError("document_length", own, f"lengths that sum to the sequence's {length}", why="is not valid")
    if isinstance(own, int) and own > length:
        return InputError("document_length", own, f"at most the sequence's {length}", length)
    return None


def _depth_error(plan: TrainingPlan) -> InputError | None:
    """Where stages of their own say what the recompute setting says otherwise."""
    own, setting = plan.recompute_layers, parse_recompute(plan.recompute)
    if own == "uniform":
        return None
    if setting.mode == "none":
        return InputError("recompute_layers", own, "uniform with recompute none; or a setting such as full", "uniform")
    if setting.layers != 1:
        return InputError("recompute_layers", own, f"uniform with a share of the layers ({plan.recompute})", "uniform")
    if schedule_facts(plan.schedule_name).shape == "both":
        return InputError("recompute_layers", own, f"uniform with schedule {plan.schedule_name}", "uniform")
    return None


def schedule_name(name: object) -> ScheduleName:
    """A schedule by name.

    Raises
    ------
    InputError
        For an unknown one, with the nearest names.
    """
    for known in SCHEDULES:
        if known == str(name).strip().lower():
            return known
    raise unknown_name("schedule", name, SCHEDULES)


def read_plan(path: str | Path) -> dict[str, Any]:
    """The fields in a plan file: at its top, or all of them under ``plan``.

    Raises
    ------
    InputError
        For a file of another form.
    """
    where, instead = f"plan {path}", "`llmsim settings` lists what a plan says now"
    data = read_yaml(Path(of_kind(path, (str, Path), "plan", "the path of a file")), "plan")
    data = without_schema(data, SCHEMA, where, instead)
    if "plan" not in data:
        return data
    for key in data:
        if key != "plan":
            raise unknown_name("plan: key", key, ["plan"])
    fields = data["plan"]
    if not isinstance(fields, dict):
        raise InputError("plan", fields, "a mapping of fields", why=f"in {path} is no mapping")
    return without_schema(fields, SCHEMA, where, instead)


def _own_error(check: Any, value: Any, *more: Any) -> Any:
    try:
        return check(value, *more)
    except InputError as error:
        raise ValueError(str(error)) from error
