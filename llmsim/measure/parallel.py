"""Small models run by torch on fake process groups: one process plays one rank, collectives move nothing.

Ranks other than the first send garbage, so only what is sent is looked at: collective, mesh axis, bytes, phase.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
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

from . import blocks
from .counters import CollectiveEvent, CommunicationLog, SavedTensors
from .pairs import BlockSpec, block_module, norm_module

Events = Counter[CollectiveEvent]


@contextmanager
def fake_world(**axes: int) -> Iterator[DeviceMesh]:
    """A mesh with named axes, slowest first, on process groups that exist in name only."""
    size = 1
    for degree in axes.values():
        size *= degree
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=size)
    try:
        yield init_device_mesh("cpu", tuple(axes.values()), mesh_dim_names=tuple(axes))
    finally:
        dist.destroy_process_group()


def communication_log(mesh: DeviceMesh) -> CommunicationLog:
    """A log that names the axes of the mesh."""
    return CommunicationLog({name: mesh.get_group(name) for name in mesh.mesh_dim_names or ()})


def model_module(spec: BlockSpec, layers: int) -> blocks.Model:
    """Embedding, blocks and head."""
    s = spec.dims()
    stack = [block_module(spec) for _ in range(layers)]
    return blocks.Model(s["vocab"], s["hidden"], stack, norm_module(spec, s["hidden"]), spec.dtype)


def token_batch(spec: BlockSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels."""
    shape = (spec.sizes["batch"], spec.sizes["sequence"])
    return torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)


# --- tensor parallelism ---------------------------------------------------------------------------------------------


def tensor_plan(
    model: blocks.Model, *, sequence_parallel: bool, shared_input: bool, loss: bool = True
) -> dict[str, ParallelStyle]:
    """Column-parallel products in front, row-parallel behind, embedding and head over the vocabulary."""
    stream = Shard(1) if sequence_parallel else Replicate()
    plan: dict[str, ParallelStyle] = {
        "embedding": RowwiseParallel(input_layouts=Replicate(), output_layouts=stream),
        "head": ColwiseParallel(
            input_layouts=stream, output_layouts=Shard(-1) if loss else Replicate(), use_local_output=not loss
        ),
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
        model = model_module(spec, layers)
        parallelize_module(model, mesh["tp"], tensor_plan(model, sequence_parallel=True, shared_input=True))
        shard_units(model, mesh["shard"])
        tokens, labels = token_batch(spec)
        with communication_log(mesh) as log, loss_parallel():
            blocks.token_loss(model(tokens), labels).backward()
        return log.counted()
