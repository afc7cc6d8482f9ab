"""Memory of one rank under FSDP2, followed by torch's tracker on fake tensors and a fake process group."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch._subclasses import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed.tensor import DTensor

from . import blocks
from .pairs import model_module, token_batch
from .parallel import fake_world, shard_units
from .step_memory import OPTIMIZERS, MemorySpec, StepMemory, storage_bytes

TOLERANCE = 0.03
"""Of a peak, relative."""


def executed(spec: MemorySpec) -> StepMemory:
    """The second of two steps of the first rank: 32-bit shards, 16-bit products, gradients reduced in 32 bits.

    Constants that are no part of a model (rotary tables) are left out of the peak.
    """
    block = spec.block
    kind, options = OPTIMIZERS[spec.update]
    with fake_world(shard=spec.shard) as mesh, FakeTensorMode(allow_non_fake_inputs=True):
        model = model_module(block, spec.layers)
        for parameter in model.parameters():
            parameter.data = parameter.data.float()
        shard_units(model, mesh)
        optimizer = kind(model.parameters(), lr=1e-3, **options)
        tokens, labels = token_batch(block)
        tracker = FSDPMemTracker(model, optimizer)
        tracker.track_inputs((tokens, labels))
        gradients = 0
        for step in range(2):
            with tracker:
                blocks.token_loss(model(tokens), labels).backward()
                gradients = _local_bytes(p.grad for p in model.parameters())
                optimizer.step()
                optimizer.zero_grad()
            if step == 0:
                tracker.reset_mod_stats()
        (peak,) = tracker.get_tracker_snapshot("peak").values()
        moments = (v for state in optimizer.state.values() for v in state.values())
        return StepMemory(
            _local_bytes(model.parameters()),
            gradients,
            _local_bytes(t for t in moments if t.dim() > 0),
            int(peak["Total"]) - storage_bytes(model.buffers()),
        )


def _local_bytes(tensors: Iterable[Any]) -> int:
    """Bytes of the distinct storages behind distributed tensors."""
    return storage_bytes(t.to_local() if isinstance(t, DTensor) else t for t in tensors if isinstance(t, torch.Tensor))
