"""Memory of a training step: from the memory walk of plans, and from the allocator of torch while it runs real steps.

``derived`` builds a model and a plan from a block's specification and asks ``memory_of_stage`` of
:mod:`llmsim.training.memory`; ``executed`` runs the same model as a training loop would (forward, backward, update,
gradients set to None) and follows every allocation. Model states are to be equal, peaks to agree within
:data:`TOLERANCE`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from ..architecture import Architecture
from ..core.data_parallel import ShardingName
from ..core.numeric import Number
from ..hardware.cluster import Cluster
from ..hardware.software import Software, get_software
from ..layers.base import LayerKind
from ..plans.recompute import parse_recompute
from ..timing.columns import Columns
from ..timing.step_constants import step_constants
from ..training.build_load import kind_parameters
from ..training.memory import MEMORY_PARTS, memory_of_stage, stage_states
from ..training.problem import Problem
from ..training.saved_activations import model_memory
from ..training.structure import TrainingStructure
from . import blocks
from .allocator import allocator_peak
from .pairs import BlockSpec, kernel_choices, layer_operators, model_module, model_parts, token_batch

TOLERANCE = 0.02
"""Of a peak, relative."""

Update = Literal["loop", "foreach", "fused", "momentum"]
"""AdamW tensor by tensor, on lists, in one kernel; stochastic gradient descent with momentum, tensor by tensor."""

OPTIMIZERS: Mapping[Update, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "loop": (torch.optim.AdamW, {"foreach": False}),
    "foreach": (torch.optim.AdamW, {"foreach": True}),
    "fused": (torch.optim.AdamW, {"fused": True}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9, "foreach": False}),
}


STATES = ("parameters", "gradients", "optimizer")


class StepMemory(NamedTuple):
    """Bytes of one rank: model states, and the most that is allocated in a step, all of them included."""

    parameters: int
    gradients: int
    optimizer: int
    peak: int

    @property
    def states(self) -> tuple[int, int, int]:
        """What is compared with ``==``."""
        return self[:3]


@dataclass(frozen=True)
class MemorySpec:
    """One training step.

    Attributes
    ----------
    block, layers
        The model.
    update
        The optimizer and how it runs.
    shard
        Ranks that FSDP2 spreads the state over, in 32 bits (products and activations in 16); 1: none of it.
    """

    block: BlockSpec
    layers: int
    update: Update = "loop"
    shard: int = 1


# --- the walk -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VariantStructure(TrainingStructure):
    """The structure of a plan on eager torch with other kernels, formats and updates.

    Attributes
    ----------
    spec
        Whose choices they are.
    """

    spec: MemorySpec | None = None

    @property
    def software(self) -> Software:
        """The changed profile."""
        assert self.spec is not None
        return _software(
            self.framework, self.spec.block.precision, self.spec.shard > 1, self.spec.update, _kernels(self.spec.block)
        )

    def __hash__(self) -> int:
        return hash((self.framework, self.precision, self.recompute))


def _kernels(spec: BlockSpec) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(kernel_choices(spec, loss="native").items()))


@cache
def _software(
    framework: str, precision: str, sharded: bool, update: Update, kernels: tuple[tuple[str, str], ...]
) -> Software:
    own = get_software(framework)
    wide = ["parameter", "gradient", "reduce", "moments"] if sharded or precision == "autocast" else []
    wide += ["residual"] if precision == "autocast" else []
    formats = own.training.formats.model_copy(update=dict.fromkeys(wide, "fp32"))
    how = "loop" if update == "momentum" else update
    stack = own.stack.model_copy(update={"kernels": {**own.stack.kernels, **dict(kernels)}})
    training = own.training.model_copy(update={"formats": formats, "update": how})
    return own.model_copy(update={"stack": stack, "training": training})


_ARCHITECTURES: dict[str, Architecture] = {}


def architecture(spec: BlockSpec, layers: int) -> Architecture:
    """The model of a block's specification, one object for equal ones."""
    key = f"{replace(spec, recompute='none')} {layers}"
    if key not in _ARCHITECTURES:
        (ends, _, _), (_, _, _), (head, _, _) = model_parts(spec, layers)
        sizes = {k: v for k, v in spec.dims().items() if k not in ("batch", "sequence", "context", "slots")}
        _ARCHITECTURES[key] = Architecture(
            "cell",
            "cell",
            ("block",) * layers,
            {"block": LayerKind("block", layer_operators(spec), sizes, window=None, causal=True)},
            LayerKind("embedding", tuple(ends), sizes, window=None, causal=True),
            LayerKind("head", tuple(head), sizes, window=None, causal=True),
            tied=False,
            hidden=sizes["hidden"],
            vocab=sizes["vocab"],
        )
    return _ARCHITECTURES[key]


def problem_of(spec: MemorySpec) -> Problem:
    """The plan's structural half."""
    block = spec.block
    sharding: ShardingName = "zero3" if spec.shard > 1 else "ddp"
    named = {"none": "none", "block": "full"}[block.recompute]
    precision = "fp32" if block.precision == "fp32" else "bf16"
    structure = VariantStructure("torch-eager", precision=precision, recompute=parse_recompute(named), spec=spec)
    optimizer = "sgd-momentum" if spec.update == "momentum" else "adamw"
    cluster = Cluster.parse("1x1xcpu-avx512-2core")
    return Problem(architecture(block, spec.layers), cluster, structure, sharding, optimizer=optimizer)


def derived_parts(spec: MemorySpec) -> dict[str, Number]:
    """The parts of memory at the peak, kernel workspaces left out: a CPU has none that a plan could know."""
    problem = problem_of(spec)
    table = Columns(spec.block.sizes["sequence"], spec.block.sizes["batch"], 1, dp=spec.shard, shard=spec.shard)
    (stage,) = problem.stages(table)
    states = stage_states(problem, table, stage, kind_parameters(problem, table))
    constants = step_constants(problem.cluster, problem.structure)
    found = memory_of_stage(problem, table, stage, states, model_memory(problem, table), constants)
    parts = {name: found.parts[name] for name in MEMORY_PARTS if name != "workspace"}
    return {**parts, **{f"all {name}": states[name] for name in STATES}}


def derived(spec: MemorySpec) -> StepMemory:
    """The step as the memory walk has it."""
    return step_memory(derived_parts(spec))


def step_memory(parts: dict[str, Number]) -> StepMemory:
    """The sum of parts beside the model states."""
    parameters, gradients, optimizer = (int(parts.pop(f"all {name}")) for name in STATES)
    return StepMemory(parameters, gradients, optimizer, int(sum(parts.values())))


# --- the allocator --------------------------------------------------------------------------------------------------


def storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of distinct storages."""
    found = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(found.values())


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of moments; the counter of steps, one number a tensor, is none of them."""
    states = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    return storage_bytes(t for t in states if t.dim() > 0)


def training_loop(
    spec: MemorySpec, device: str
) -> tuple[blocks.Model, torch.optim.Optimizer, Callable[[Callable[[], object] | None], None]]:
    """The model, its optimizer, and a step as a training loop runs it; what is passed to the step is called between
    backward and update."""
    torch.manual_seed(0)
    block = spec.block
    with torch.device(device):
        model = model_module(block, spec.layers)
        tokens, labels = (torch.randint_like(t, block.sizes["vocab"]) for t in token_batch(block))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.02)  # routes tokens to all experts
    kind, options = OPTIMIZERS[spec.update]
    optimizer = kind(model.parameters(), lr=1e-3, **options)

    def step(before_update: Callable[[], object] | None = None) -> None:
        with torch.autocast(device, torch.bfloat16, enabled=block.precision == "autocast"):
            loss = blocks.token_loss(model(tokens), labels)
        loss.backward()
        if before_update is not None:
            before_update()
        optimizer.step()
        optimizer.zero_grad()

    return model, optimizer, step


def executed(spec: MemorySpec) -> StepMemory:
    """The second of two real steps, as the CPU's allocator saw it."""
    model, optimizer, step = training_loop(spec, "cpu")
    step(None)
    states = storage_bytes(model.parameters()), optimizer_bytes(optimizer)
    gradients: list[int] = []
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step(lambda: gradients.append(storage_bytes(p.grad for p in model.parameters() if p.grad is not None)))
    return StepMemory(states[0], gradients[0], states[1], sum(states) + allocator_peak(profiled))
