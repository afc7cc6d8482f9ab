"""Tracing: the operator table of any module, from running it once on fake tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.module_tracker import ModuleTracker

from ..core.arguments import listed, of_kind
from ..core.errors import InputError
from ..training.traced import TracedBlock, TracedKind, TracedModule, TracedOperator
from .counters import (
    FLOP_FORMULAS,
    _is_free,
    _refuse_silent_zero,
    _tensors,
    _traffic_bytes,
    current_phase,
)

FORMAT_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def trace(
    module: torch.nn.Module,
    example_inputs: Sequence[Any] | Mapping[str, Any] | torch.Tensor,
    *,
    loss: Callable[[Any], torch.Tensor] | None = None,
) -> TracedModule:
    """The operator table of a module: one forward and one backward pass on fake tensors, nothing is computed.

    Parameters
    ----------
    module
        Any; its parameters are not touched.
    example_inputs
        Of one micro-batch: positional, or by name.
    loss
        Scalar of the output that backward starts from; by default the sum of its floating-point tensors.

    Raises
    ------
    InputError
        For a module without floating-point parameters, or a pass that cannot run on fake tensors, with the reason.
    UncoveredOperator
        For an operator that multiplies and that no formula covers.
    """
    module = of_kind(module, torch.nn.Module, "module", "a torch.nn.Module")
    if loss is not None and not callable(loss):
        raise InputError("loss", loss, "a function of the output, or None")
    formats = {p.dtype for p in module.parameters() if p.is_floating_point()}
    if len(formats) != 1 or (own := next(iter(formats))) not in FORMAT_NAMES:
        names = ", ".join(sorted(str(f).removeprefix("torch.") for f in formats)) or "none"
        raise InputError("module", names, "parameters of one of float32, bfloat16, float16", why="mixes formats")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        state = {name: _fake(t, mode) for name, t in (*module.named_parameters(), *module.named_buffers())}
        positional, named = _inputs(example_inputs, mode)
        log = _Log(module, state)
        try:
            with log.tracker, log.saved, log:
                output = torch.func.functional_call(module, state, positional, named)
                (loss(output) if loss else _summed(output)).backward()
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            allowed = "operators whose shapes do not depend on values"
            raise InputError("module", type(module).__name__, allowed, why=f"runs {error.func}") from None
        except (TypeError, RuntimeError, ValueError, IndexError) as error:
            why = f"fails on the example inputs: {error}"
            raise InputError("module", type(module).__name__, "inputs that it runs on", why=why) from error
    return TracedModule(type(module).__name__, FORMAT_NAMES[own], tuple(log.operators), log.blocks(module))


def _fake(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    made = mode.from_tensor(tensor.detach())
    return made.requires_grad_(tensor.requires_grad) if tensor.is_floating_point() else made


def _inputs(example: Any, mode: FakeTensorMode) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def one(value: Any) -> Any:
        return mode.from_tensor(value) if isinstance(value, torch.Tensor) else value

    if isinstance(example, Mapping):
        return (), {name: one(value) for name, value in example.items()}
    values = listed(example, "example_inputs", "a tensor, several of them, or a mapping", (torch.Tensor,))
    return tuple(one(v) for v in values), {}


def _summed(output: Any) -> torch.Tensor:
    found = [t for t in _tensors(output) if t.is_floating_point() and t.requires_grad]
    if not found:
        raise InputError("module", type(output).__name__, "an output with a gradient", why="gives nothing to train on")
    return torch.stack([t.float().sum() for t in found]).sum()


class _Log(TorchDispatchMode):
    """Every operator with the block that it belongs to."""

    def __init__(self, module: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.tracker = ModuleTracker()
        self.operators: list[TracedOperator] = []
        self._root = type(module).__name__
        self._order: dict[str, int] = {}
        self._outputs: dict[str, int] = {}
        self._saved: dict[str, dict[int, torch.Tensor]] = {}
        self._weights = {t.untyped_storage()._cdata for t in state.values()}
        self.saved = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _block(self) -> str:
        """The block at work: a path up to its first number, or its first name."""
        inside = [p.removeprefix(f"{self._root}.") for p in self.tracker.parents if p not in ("Global", self._root)]
        if not inside:
            return next(reversed(self._order), "") if current_phase() == "forward" else ""
        parts = max(inside, key=len).split(".")
        numbers = [i for i, part in enumerate(parts) if part.isdecimal()]
        return ".".join(parts[: numbers[0] + 1] if numbers else parts[:1])

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        address = tensor.untyped_storage()._cdata
        if address not in self._weights and not any(address in kept for kept in self._saved.values()):
            self._saved.setdefault(self._block(), {})[address] = tensor
        return tensor

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        inputs, outputs = _tensors((args, kwargs)), _tensors(result)
        block, phase = self._block(), "forward" if current_phase() == "forward" else "backward"
        if phase == "forward":
            self._order.setdefault(block, len(self._order))
            if outputs:
                self._outputs[block] = sum(t.nbytes for t in outputs)
        formula = FLOP_FORMULAS.get(func._overloadpacket)
        if formula is None:
            _refuse_silent_zero(func, inputs)
        if outputs and not _is_free(func, inputs, outputs):
            flops = formula(*args, **kwargs, out_val=result) if formula else 0
            kind, sizes = _shape(func, inputs, outputs, flops)
            name = func._schema.name.removeprefix("aten::")
            traffic = _traffic_bytes(func, inputs, outputs)
            self.operators.append(TracedOperator(block, name, phase, kind, flops, traffic, *sizes))  # type: ignore[arg-type]
        return result

    def blocks(self, module: torch.nn.Module) -> tuple[TracedBlock, ...]:
        """The blocks in the order of their first operator, with the parameters below each path."""
        order = [b for b in self._order if b] or [""]
        first, last = order[0], order[-1]
        self.operators = [_placed(op, order, first if op.phase == "forward" else last) for op in self.operators]
        shapes: dict[str, list[tuple[int, ...]]] = {b: [] for b in order}
        for name, parameter in module.named_parameters():
            home = next((b for b in sorted(order, key=len, reverse=True) if f"{name}.".startswith(f"{b}.")), first)
            shapes[home].append(tuple(parameter.shape))
        saved = dict.fromkeys(order, 0)
        for block, kept in self._saved.items():
            saved[block if block in saved else last] += sum(t.untyped_storage().nbytes() for t in kept.values())
        return tuple(TracedBlock(b, tuple(shapes[b]), saved[b], self._outputs.get(b, 0)) for b in order)


def _placed(op: TracedOperator, order: Sequence[str], otherwise: str) -> TracedOperator:
    if op.block in order:
        return op
    return TracedOperator(otherwise, op.name, op.phase, op.kind, op.flops, op.traffic_bytes, op.rows, op.columns,
                          op.depth, op.groups)  # fmt: skip


def _shape(
    func: Any, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor], flops: int
) -> tuple[TracedKind, tuple[int, int, int, int]]:
    """Kind of an operator and its sizes (rows, columns, depth, groups)."""
    name = func._schema.name
    if not flops:
        return "memory", (0, 0, 0, 1)
    if "scaled_dot_product" in name:
        query = next(t for t in inputs if t.dim() == 4)
        return "attention", (query.shape[0] * query.shape[1] * query.shape[2], 0, query.shape[3], 1)
    written = outputs[0]
    groups = written.shape[0] if written.dim() == 3 and "mm" in name else 1
    rows, columns = (written.shape[-2], written.shape[-1]) if written.dim() >= 2 else (1, written.shape[-1])
    if "conv" in name and written.dim() > 2:  # channels are columns, all positions are rows
        rows, columns = written.numel() // written.shape[1], written.shape[1]
    depth = max(1, flops // (2 * groups * rows * columns))
    return "product", (rows, columns, depth, groups)
