"""Small models run by torch on fake process groups: one process plays one rank, collectives move nothing.

Ranks other than the first send garbage, so only what is sent is looked at: collective, mesh axis, bytes, phase.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleDualPipeV,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleZBVZeroBubble,
    schedules,
)
from torch.distributed.pipelining.stage import InferenceMode
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    loss_parallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from ..training.orders import routes
from . import blocks
from .counters import CollectiveEvent, CommunicationLog, SavedTensors, WorkCounter
from .pairs import BlockSpec, block_module, model_module, token_batch

Events: TypeAlias = Counter[CollectiveEvent]


@contextmanager
def fake_world(rank: int = 0, **axes: int) -> Iterator[DeviceMesh]:
    """A mesh with named axes, slowest first, on process groups that exist in name only."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=math.prod(axes.values()))
    try:
        yield init_device_mesh("cpu", tuple(axes.values()), mesh_dim_names=tuple(axes))
    finally:
        dist.destroy_process_group()


def communication_log(mesh: DeviceMesh) -> CommunicationLog:
    """A log that names the axes of the mesh."""
    return CommunicationLog({name: mesh.get_group(name) for name in mesh.mesh_dim_names or ()})


# --- tensor parallelism ---------------------------------------------------------------------------------------------


def tensor_plan(model: blocks.Model, *, sequence_parallel: bool, shared_input: bool) -> dict[str, ParallelStyle]:
    """Column-parallel products in front, row-parallel behind, embedding, head and loss over the vocabulary."""
    stream = Shard(1) if sequence_parallel else Replicate()
    plan: dict[str, ParallelStyle] = {
        "embedding": RowwiseParallel(input_layouts=Replicate(), output_layouts=stream),
        "head": ColwiseParallel(input_layouts=stream, output_layouts=Shard(-1), use_local_output=False),
    }
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if last in ("q", "k", "v", "gate", "up"):
            plan[name] = ColwiseParallel(input_layouts=Replicate() if shared_input else stream)
        elif last in ("out", "down"):
            plan[name] = RowwiseParallel(output_layouts=stream)
        elif last in ("attention", "mlp") and shared_input:
            plan[name] = PrepareModuleInput(input_layouts=stream, desired_input_layouts=Replicate())
        elif isinstance(module, (blocks.RmsNorm, nn.LayerNorm)) and sequence_parallel:
            plan[name] = SequenceParallel()
    return plan


def run_tensor_parallel(
    spec: BlockSpec, layers: int, degree: int, *, sequence_parallel: bool, shared_input: bool
) -> tuple[Events, int]:
    """Collectives of one micro-batch of a whole model, and the bytes it keeps for backward on one rank."""
    with fake_world(tp=degree) as mesh:
        model = model_module(spec, layers)
        plan = tensor_plan(model, sequence_parallel=sequence_parallel, shared_input=shared_input)
        parallelize_module(model, mesh, plan)
        tokens, labels = token_batch(spec)
        saved = SavedTensors([*model.parameters(), *model.buffers()])
        with communication_log(mesh) as log, loss_parallel():
            with saved:
                loss = blocks.token_loss(model(tokens), labels)
            loss.backward()
        return log.counted(), saved.total_bytes


# --- data parallelism -----------------------------------------------------------------------------------------------


def run_fully_sharded(
    spec: BlockSpec,
    layers: int,
    *,
    shard: int,
    replicas: int = 1,
    reshard_root: bool | None = None,
    reshard_blocks: bool = True,
    microbatches: int = 1,
    sync_last: bool = False,
) -> Events:
    """A step of FSDP2: blocks are units, the rest is the root; 16-bit parameters gathered, fp32 gradients reduced."""
    axes = {"replica": replicas, "shard": shard} if replicas > 1 else {"shard": shard}
    with fake_world(**axes) as mesh:
        model = model_module(spec, layers)
        shard_units(model, mesh, reshard_root=reshard_root, reshard_blocks=reshard_blocks)
        tokens, labels = token_batch(spec)
        with communication_log(mesh) as log:
            for index in range(microbatches):
                model.set_requires_gradient_sync(not sync_last or index == microbatches - 1)
                blocks.token_loss(model(tokens), labels).backward()
        return log.counted()


def shard_units(
    model: blocks.Model, mesh: DeviceMesh, *, reshard_root: bool | None = None, reshard_blocks: bool = True
) -> None:
    """Apply FSDP2 to each block and to the rest."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard_blocks)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard_root)


def run_fully_sharded_tensor_parallel(spec: BlockSpec, layers: int, *, shard: int, degree: int) -> Events:
    """FSDP2 over one axis, tensor and sequence parallelism over the other."""
    with fake_world(shard=shard, tp=degree) as mesh:
        return _fully_sharded_tensor_parallel(spec, layers, mesh)


def run_large_fully_sharded_tensor_parallel(spec: BlockSpec, layers: int, *, shard: int, degree: int) -> Events:
    """The same on fake tensors, for models that fit no machine."""
    with fake_world(shard=shard, tp=degree) as mesh, _real_meshes(), FakeTensorMode(allow_non_fake_inputs=True):
        return _fully_sharded_tensor_parallel(spec, layers, mesh)


def _fully_sharded_tensor_parallel(spec: BlockSpec, layers: int, mesh: DeviceMesh) -> Events:
    model = model_module(spec, layers)
    parallelize_module(model, mesh["tp"], tensor_plan(model, sequence_parallel=True, shared_input=True))
    shard_units(model, mesh["shard"])
    tokens, labels = token_batch(spec)
    with communication_log(mesh) as log, loss_parallel():
        blocks.token_loss(model(tokens), labels).backward()
    return log.counted()


@contextmanager
def _real_meshes() -> Iterator[None]:
    """A mesh computes with the numbers of its ranks, which fake tensors do not have."""
    names = ("__init__", "__getitem__", "_compute_coordinates_from_mesh", "_concatenate", "_flatten", "_unflatten")
    originals = {name: DeviceMesh.__dict__[name] for name in names if name in DeviceMesh.__dict__}

    def real(function: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            with unset_fake_temporarily():
                return function(*args, **kwargs)

        return run

    for name, original in originals.items():
        static = isinstance(original, staticmethod)
        setattr(DeviceMesh, name, staticmethod(real(original.__func__)) if static else real(original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(DeviceMesh, name, original)


def run_distributed_data_parallel(spec: BlockSpec, layers: int, *, degree: int, bucket_mib: float | None) -> list[int]:
    """Bytes of each gradient bucket of DDP, in the order of reduction.

    The second step counts: in the first one torch learns in which order gradients become ready. A communication hook
    stands in for the all-reduce, which fake groups cannot run.
    """
    sizes: list[int] = []

    def note(bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        sizes.append(bucket.buffer().nbytes)
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    with fake_world(dp=degree):
        model = DistributedDataParallel(model_module(spec, layers), bucket_cap_mb=bucket_mib)
        model.register_comm_hook(None, lambda _, bucket: note(bucket))
        tokens, labels = token_batch(spec)
        for _ in range(2):
            sizes.clear()
            blocks.token_loss(model(tokens), labels).backward()
    return sizes


def run_zero_redundancy_update(spec: BlockSpec, layers: int, *, degree: int) -> Events:
    """The collectives of one step of torch's ``ZeroRedundancyOptimizer``."""
    with fake_world(replica=degree) as mesh:
        model = model_module(spec, layers)
        optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=1e-3)
        tokens, labels = token_batch(spec)
        blocks.token_loss(model(tokens), labels).backward()
        with communication_log(mesh) as log:
            optimizer.step()
        return Counter(event._replace(phase="update") for event in log.events)


# --- expert and pipeline parallelism --------------------------------------------------------------------------------


def run_expert_parallel(spec: BlockSpec, degree: int) -> tuple[Events, int, int, int]:
    """One block whose experts are spread over ``degree`` ranks: collectives, forward and backward FLOPs and saved bytes
    of a rank."""
    s = spec.sizes
    with fake_world(ep=degree) as mesh, FakeTensorMode(allow_non_fake_inputs=True):
        block = block_module(spec, mesh.get_group("ep"))
        x = torch.zeros(s["batch"], s["sequence"], s["hidden"], dtype=spec.dtype, requires_grad=True)
        saved, work = SavedTensors([*block.parameters(), *block.buffers()]), WorkCounter()
        with communication_log(mesh) as log, work:
            with saved, torch.autocast("cpu", torch.bfloat16, enabled=spec.precision == "autocast"):
                y = block(x)
            y.backward(torch.zeros_like(y))
        return log.counted(), work.flops["forward"], work.flops["backward"], saved.total_bytes


PipelineSchedule: TypeAlias = Literal["gpipe", "1f1b", "interleaved", "interleaved-zb", "zb-v", "dualpipe-v"]
_SCHEDULES = {
    "gpipe": ScheduleGPipe,
    "1f1b": Schedule1F1B,
    "interleaved": ScheduleInterleaved1F1B,
    "interleaved-zb": ScheduleInterleavedZeroBubble,
    "zb-v": ScheduleZBVZeroBubble,
    "dualpipe-v": ScheduleDualPipeV,
}


@contextmanager
def _static_shapes() -> Iterator[None]:
    """Torch's stages vote on shapes by messages before the first step; on fake groups they would read garbage."""
    original = schedules._PipelineSchedule._warmup_p2p

    def decided(self: Any, stages: Any, has_backward: bool, p2p_done: bool) -> None:
        for stage in stages:
            stage._inference_mode = InferenceMode.STATIC

    schedules._PipelineSchedule._warmup_p2p = decided
    try:
        yield
    finally:
        schedules._PipelineSchedule._warmup_p2p = original


def run_pipeline(
    spec: BlockSpec, schedule: PipelineSchedule, *, ranks: int, rank: int, microbatches: int, chunks: int = 1
) -> Counter[tuple[str, int]]:
    """(send or receive, bytes) of one rank in one step; every stage is one block."""
    s = spec.sizes
    shape = (s["batch"], s["sequence"], s["hidden"])
    places = [device for device, _ in routes(schedule, ranks, chunks)[0]]
    mine = [stage for stage, device in enumerate(places) if device == rank]
    first, last = mine[0] == 0, mine[-1] == len(places) - 1
    with _static_shapes(), fake_world(rank, pp=ranks) as mesh:
        boundary = torch.zeros(shape, dtype=spec.dtype, requires_grad=True)
        stages = [
            PipelineStage(
                block_module(spec),
                stage,
                len(places),
                torch.device("cpu"),
                input_args=(boundary,),
                output_args=(boundary,),
                group=mesh.get_group("pp"),
            )
            for stage in mine
        ]
        runner = _SCHEDULES[schedule](
            stages if chunks > 1 else stages[0], microbatches, loss_fn=lambda y, _: y.float().sum()
        )
        x = torch.zeros(shape[0] * microbatches, *shape[1:], dtype=spec.dtype)
        with communication_log(mesh) as log:
            runner.step(*((x,) if first else ()), target=x if last else None, losses=[] if last else None)
        return Counter((event.collective, event.payload_bytes) for event in log.events)
