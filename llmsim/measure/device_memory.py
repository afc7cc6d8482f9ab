"""Counts and peaks on a machine with an accelerator: ``python -m llmsim.measure.device_memory``.

Real training steps of dense and mixture-of-experts models run on the device, with flash attention, in bf16, with and
without checkpointing. FLOPs, bytes kept for backward and model states are to be equal to ours, the peak that the
allocator reports within 2 %. ``--device cpu`` runs smaller models through the same comparison. Status 0: everything
agrees; 1: something does not; 3: there is no such device.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from . import blocks, conformance
from .allocator import allocator_peak
from .cells import WHOLE, describe
from .counters import Phase, SavedTensors, WorkCounter
from .memory_cells import STEP
from .pairs import BlockSpec, Family, token_batch
from .step_memory import (
    TOLERANCE,
    MemorySpec,
    StepMemory,
    Update,
    derived,
    optimizer_bytes,
    storage_bytes,
    training_loop,
)

AGREES, DIFFERS, NO_DEVICE = 0, 1, 3

LARGE: dict[Family, tuple[int, dict[str, int]]] = {
    "llama": (
        4,
        {
            "batch": 2, "sequence": 2048, "hidden": 2048, "heads": 16, "kv_heads": 4, "head_dim": 128, "ffn": 5632,
            "vocab": 32000,
        },
    ),
    "mixtral": (
        3,
        {
            "batch": 2, "sequence": 2048, "hidden": 1024, "heads": 8, "kv_heads": 2, "head_dim": 128, "moe_ffn": 1792,
            "experts": 8, "top_k": 2, "vocab": 8000,
        },
    ),
}  # fmt: skip
"""Models for a device of 16 GiB or more."""


@dataclass(frozen=True)
class Comparison:
    """One number of one model.

    Attributes
    ----------
    model, quantity
        Which.
    ours, measured
        FLOPs or bytes.
    tolerance
        Relative; 0 for ``==``.
    """

    model: str
    quantity: str
    ours: int
    measured: int
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether the two do."""
        return abs(self.ours - self.measured) <= self.tolerance * self.measured


def specs(device: str) -> Iterator[MemorySpec]:
    """What runs: small models on a CPU."""
    updates: tuple[Update, ...] = ("fused", "foreach")
    for family in ("llama", "mixtral"):
        if device == "cpu":
            layers, sizes = STEP[family][0], {**STEP[family][1], "vocab": 4096}
        else:
            layers, sizes = LARGE[family]
        for recompute in WHOLE:
            for update in updates:
                yield MemorySpec(BlockSpec(family, "flash", "bf16", sizes, recompute), layers, update)


def compare(spec: MemorySpec, device: str) -> list[Comparison]:
    """All numbers of one model."""
    name = f"{describe(spec.block)}-{spec.layers}layers-{spec.update}"
    counts, memory = conformance.derived(spec.block, spec.layers), derived(spec)
    flops, saved = measured_counts(spec, device)
    states = measured_memory(spec, device)
    exact = [
        ("forward FLOPs", counts.forward_flops, flops["forward"]),
        ("backward FLOPs", counts.backward_flops, flops["backward"]),
        ("recomputed FLOPs", counts.recomputed_flops, flops["recompute"]),
        ("saved bytes", counts.saved_bytes, saved),
        ("parameter bytes", memory.parameters, states.parameters),
        ("gradient bytes", memory.gradients, states.gradients),
        ("optimizer bytes", memory.optimizer, states.optimizer),
    ]
    found = [Comparison(name, quantity, ours, theirs, 0.0) for quantity, ours, theirs in exact]
    return [*found, Comparison(name, "peak bytes", memory.peak, states.peak, TOLERANCE)]


def measured_counts(spec: MemorySpec, device: str) -> tuple[Counter[Phase], int]:
    """FLOPs by phase and bytes kept for backward."""
    model, _, _ = training_loop(spec, device)
    tokens, labels = (t.to(device) for t in token_batch(spec.block))
    counter, saved = WorkCounter(), SavedTensors([*model.parameters(), *model.buffers()])
    with counter:
        with saved:
            loss = blocks.token_loss(model(tokens), labels)
        loss.backward()
    return counter.flops, saved.total_bytes


def measured_memory(spec: MemorySpec, device: str) -> StepMemory:
    """Model states, and the peak of the second step without workspaces that outlive it."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated() if device == "cuda" else 0
    model, optimizer, step = training_loop(spec, device)
    step(None)
    parameters, moments = storage_bytes(model.parameters()), optimizer_bytes(optimizer)
    gradients: list[int] = []

    def note() -> None:
        gradients.append(storage_bytes(p.grad for p in model.parameters() if p.grad is not None))

    if device == "cuda":
        resting = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(note)
        grown = torch.cuda.max_memory_allocated() - max(resting, before)
    else:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            step(note)
        grown = allocator_peak(profiled)
    return StepMemory(parameters, gradients[0], moments, parameters + moments + grown)


def report(found: Sequence[Comparison]) -> str:
    """A table for people."""
    lines = [f"{'':8}{'ours':>18}{'measured':>18}{'difference':>12}  quantity"]
    model = ""
    for c in found:
        if c.model != model:
            model = c.model
            lines.append(model)
        share = (c.ours - c.measured) / c.measured if c.measured else float(c.ours != c.measured)
        mark = "ok" if c.agrees else "DIFFERS"
        lines.append(f"{mark:8}{c.ours:>18,}{c.measured:>18,}{share:>12.3%}  {c.quantity}")
    wrong = sum(not c.agrees for c in found)
    lines.append(f"{len(found)} numbers, of which {wrong} do not agree")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and print; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m llmsim.measure.device_memory", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: nothing was measured (--device cpu runs the comparison on the CPU)", file=sys.stderr)
        return NO_DEVICE
    found = [c for spec in specs(options.device) for c in compare(spec, options.device)]
    print(report(found))
    if options.json is not None:
        device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
        rows = [{**asdict(c), "agrees": c.agrees} for c in found]
        options.json.write_text(json.dumps({"device": device, "torch": torch.__version__, "numbers": rows}, indent=1))
    return AGREES if all(c.agrees for c in found) else DIFFERS


if __name__ == "__main__":
    sys.exit(main())
