"""What torch itself does, counted while it does it: multiply-adds, kernels, tensors kept for backward, messages.

All counters work on fake tensors (no memory, no arithmetic) and tell the phases apart by themselves: ``forward``,
``backward`` and ``recompute``, the part of the forward that a checkpoint executes again during backward.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch.distributed import ProcessGroup
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.distributed_c10d import _resolve_process_group
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

from ..core.errors import UnsupportedError

Phase = Literal["forward", "backward", "recompute", "update"]
aten = torch.ops.aten


class UncoveredOperator(UnsupportedError):
    """An operator that no formula covers and that may not be free: without this error it would count zero."""


class _Recomputation:
    """Entered by a checkpoint while it computes again."""

    depth = 0

    def __enter__(self) -> None:
        _Recomputation.depth += 1

    def __exit__(self, *_: object) -> None:
        _Recomputation.depth -= 1


def marked_recomputation() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The ``context_fn`` of checkpoints whose recomputation is to be told from the rest of backward."""
    return nullcontext(), _Recomputation()


def selective_recomputation(
    kept: Collection[Any],
) -> tuple[AbstractContextManager[Any], AbstractContextManager[None]]:
    """The ``context_fn`` of checkpoints that keep the results of some operators (overloads) all the same.

    Torch holds those results beside autograd; they are reported to the active :class:`SavedTensors`.
    """

    def policy(context: Any, func: Any, *_: Any, **__: Any) -> CheckpointPolicy:
        if func not in kept:
            return CheckpointPolicy.PREFER_RECOMPUTE
        if not context.is_recompute:
            SavedTensors.note(_tensors(context.op_output))
        return CheckpointPolicy.MUST_SAVE

    @contextmanager
    def marked(mode: AbstractContextManager[Any]) -> Iterator[None]:
        with mode, _Recomputation():
            yield

    first, again = create_selective_checkpoint_contexts(policy)
    return first, marked(again)


def current_phase() -> Phase:
    """Where autograd is."""
    if torch._C._current_graph_task_id() == -1:
        return "forward"
    return "recompute" if _Recomputation.depth else "backward"


def _grouped_mm(rows: torch.Tensor, other: torch.Tensor, *_: Any, **__: Any) -> int:
    """Multiply-adds x 2 of a product by groups: each row meets one group (2-D x 3-D, and 2-D x 2-D in the weights'
    gradient, where the rows are what is summed over)."""
    if rows.dim() == 2:
        return 2 * rows.shape[0] * rows.shape[1] * other.shape[-1]
    return 2 * rows.shape[-2] * rows.shape[-1] * other.shape[-1] * (rows.shape[0] if other.dim() == 3 else 1)


def _convolution_backward(gradient: torch.Tensor, x: torch.Tensor, kernel: torch.Tensor, *args: Any, **_: Any) -> int:
    """Multiply-adds x 2 of the gradients of a convolution: each of the two has the pairs of the forward pass, an output
    with the taps of its own group. Torch's formula takes a depthwise kernel for a dense one."""
    return 2 * gradient.numel() * math.prod(kernel.shape[1:]) * sum(args[-1][:2])


def _triangular_solve(matrix: torch.Tensor, right: torch.Tensor, **_: Any) -> int:
    """Multiply-adds x 2 of a substitution: half of those of a product."""
    return matrix.numel() * right.shape[-1]


FLOP_FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
    aten._grouped_mm: _grouped_mm,
    aten.linalg_solve_triangular: _triangular_solve,
    aten.convolution_backward: _convolution_backward,
}
"""Torch's own registry, and the operators that it leaves at zero without a word or counts too high (torch 2.13)."""

MULTIPLIES_NOTHING = frozenset(
    {
        aten.cat, aten.embedding, aten.embedding_dense_backward, aten.gather, aten.index, aten.index_add,
        aten.index_put, aten.index_put_, aten._index_put_impl_, aten.index_select, aten.index_select_backward,
        aten.scatter, aten.scatter_add, aten.slice_backward, aten.select_backward, aten.nll_loss_forward,
        aten.nll_loss_backward, aten.copy_, aten.split_with_sizes_copy, aten._foreach_copy_, aten._chunk_cat,
    }
)  # fmt: skip
"""Operators of several tensors whose shapes do not broadcast and which move or select without multiplying."""


MULTIPLIES_VECTORS = frozenset({aten.mv, aten.addmv, aten.addmv_, aten.dot, aten.vdot, aten.addr})
"""Products that their shapes do not give away: a vector has no second dimension to disagree in."""


def _tensors(values: Any) -> list[torch.Tensor]:
    return [v for v in tree_leaves(values) if isinstance(v, torch.Tensor)]


def _refuse_silent_zero(func: Any, inputs: list[torch.Tensor]) -> None:
    """An elementwise operator or a reduction has inputs that broadcast; anything else must be known."""
    if func._overloadpacket in MULTIPLIES_VECTORS:
        raise UncoveredOperator(f"{func} has no FLOP formula")
    matrices = [t for t in inputs if t.is_floating_point() and t.dim() >= 2]
    if len(matrices) < 2 or func._overloadpacket in MULTIPLIES_NOTHING:
        return
    try:
        torch.broadcast_shapes(*(t.shape for t in matrices))
    except RuntimeError:
        shapes = ", ".join(str(tuple(t.shape)) for t in matrices)
        raise UncoveredOperator(f"{func} of {shapes} has no FLOP formula") from None


class WorkCounter(TorchDispatchMode):
    """FLOPs, kernels and memory traffic by phase.

    Attributes
    ----------
    flops
        Phase -> multiply-adds x 2.
    kernels
        Phase -> operators that touch memory: all but views and allocations.
    traffic_bytes
        Phase -> bytes of their inputs and outputs, each once an operator.

    Raises
    ------
    UncoveredOperator
        Inside the counted code, for an operator that multiplies and that no formula covers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops: Counter[Phase] = Counter()
        self.kernels: Counter[Phase] = Counter()
        self.traffic_bytes: Counter[Phase] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        inputs, outputs, phase = _tensors((args, kwargs)), _tensors(result), current_phase()
        formula = FLOP_FORMULAS.get(func._overloadpacket)
        if formula is not None:
            self.flops[phase] += formula(*args, **kwargs, out_val=result)
        else:
            _refuse_silent_zero(func, inputs)
        if outputs and not _is_free(func, inputs, outputs):
            self.kernels[phase] += 1
            self.traffic_bytes[phase] += _traffic_bytes(func, inputs, outputs)
        return result


_GATHERS = frozenset({aten.embedding, aten.gather, aten.index, aten.index_select})


def _traffic_bytes(func: Any, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> int:
    """Inputs and outputs once each; of what is gathered from, only as much as is written."""
    read, written = sum(t.nbytes for t in inputs), sum(t.nbytes for t in outputs)
    if func._overloadpacket in _GATHERS:
        return 2 * written + sum(t.nbytes for t in inputs if not t.is_floating_point())
    if func._overloadpacket is aten.nll_loss_forward:
        return 2 * sum(t.nbytes for t in inputs if not t.is_floating_point())
    if func._overloadpacket is aten.nll_loss_backward:
        return written
    return read + written


def _is_free(func: Any, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> bool:
    """Views share the storage of an input without writing to it; allocations read nothing and write nothing."""
    if func._schema.is_mutable:
        return False
    if func._schema.name.startswith(("aten::empty", "aten::new_empty")):
        return True
    known = {t.untyped_storage()._cdata for t in inputs}
    return bool(known) and all(t.untyped_storage()._cdata in known for t in outputs)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """The plain tensor behind torch's distributed wrappers."""
    while True:
        if isinstance(tensor, DTensor):
            tensor = tensor._local_tensor
        elif isinstance(tensor, AsyncCollectiveTensor):
            tensor = tensor.elem
        else:
            return tensor


class SavedTensors(torch.autograd.graph.saved_tensors_hooks):
    """Storages that autograd keeps from forward to backward, each counted once however many nodes keep a view of it.

    Parameters
    ----------
    excluded
        Tensors whose storages do not count: parameters, rotary tables.
    """

    _active: ClassVar[list[SavedTensors]] = []

    def __init__(self, excluded: Iterable[torch.Tensor] = ()) -> None:
        self._excluded = [_local(t) for t in excluded]
        self._skip = {t.untyped_storage()._cdata for t in self._excluded}
        # The tensors are held, since a freed storage's address would be given to the next one.
        self._kept: dict[int, torch.Tensor] = {}
        super().__init__(self._pack, lambda tensor: tensor)

    def __enter__(self) -> None:
        self._active.append(self)
        super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._active.remove(self)

    @classmethod
    def note(cls, tensors: Iterable[torch.Tensor]) -> None:
        """Count tensors that are kept for backward by something else than autograd."""
        for tracker in cls._active:
            for tensor in tensors:
                tracker._pack(tensor)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        local = _local(tensor)
        address = local.untyped_storage()._cdata
        if address not in self._skip:
            self._kept.setdefault(address, local)
        return tensor

    @property
    def total_bytes(self) -> int:
        """Bytes of the distinct storages."""
        return sum(t.untyped_storage().nbytes() for t in self._kept.values())

    def table(self) -> list[tuple[tuple[int, ...], str, int]]:
        """(shape, element type, bytes) of each storage, in the order of first use: where a difference comes from."""
        return [
            (tuple(t.shape), str(t.dtype).removeprefix("torch."), t.untyped_storage().nbytes())
            for t in self._kept.values()
        ]


class CollectiveEvent(NamedTuple):
    """One collective call of this rank: name, mesh axis (or group size), payload and phase."""

    collective: str
    group: str | int
    payload_bytes: int
    phase: Phase


def _first(args: Any, result: Any) -> Any:
    return args[0]


def _second(args: Any, result: Any) -> Any:
    return args[1]


def _result(args: Any, result: Any) -> Any:
    return result


_c10d, _functional = torch.ops.c10d, torch.ops._c10d_functional
_PAYLOADS: dict[Any, tuple[str, Callable[[Any, Any], Any]]] = {
    _functional.all_gather_into_tensor.default: ("all_gather", _result),
    _functional.reduce_scatter_tensor.default: ("reduce_scatter", _first),
    _functional.all_reduce.default: ("all_reduce", _first),
    _functional.all_reduce_.default: ("all_reduce", _first),
    _functional.all_to_all_single.default: ("all_to_all", _first),
    _c10d._allgather_base_.default: ("all_gather", _first),
    _c10d._reduce_scatter_base_.default: ("reduce_scatter", _second),
    _c10d.allreduce_.default: ("all_reduce", _first),
    _c10d.broadcast_.default: ("broadcast", _first),
    _c10d.send.default: ("send", _first),
    _c10d.recv_.default: ("receive", _first),
}
_SILENT = frozenset({"wait_tensor", "_wrap_tensor_autograd", "barrier", "monitored_barrier_"})


class CommunicationLog(TorchDispatchMode):
    """Every collective that this rank takes part in.

    Payloads: the output of an all-gather, the input of a reduce-scatter, the tensor of an all-reduce, a broadcast or a
    transfer, the send buffer of an all-to-all.

    Parameters
    ----------
    groups
        Name -> process group, to report mesh axes by name; other groups are reported by size.
    """

    def __init__(self, groups: Mapping[str, ProcessGroup] | None = None) -> None:
        super().__init__()
        self._names = {group.group_name: name for name, group in (groups or {}).items()}
        self.events: list[CollectiveEvent] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # A DTensor operator must first be turned into local ones, or the collectives inside it would not be seen.
        if any(issubclass(t, DTensor) for t in types):
            return NotImplemented
        result = func(*args, **(kwargs or {}))
        namespace, _, name = func._schema.name.partition("::")
        if namespace in ("c10d", "_c10d_functional") and name not in _SILENT:
            self._record(func, args, result)
        return result

    def _record(self, func: Any, args: Any, result: Any) -> None:
        if func not in _PAYLOADS:
            raise UncoveredOperator(f"{func} is not a known collective")
        collective, payload = _PAYLOADS[func]
        size = sum(t.nbytes for t in _tensors(payload(args, result)))
        group = _group_of(func, args)
        name = self._names.get(group.group_name, group.size())
        self.events.append(CollectiveEvent(collective, name, size, current_phase()))

    def counted(self) -> Counter[CollectiveEvent]:
        """The events as a multiset."""
        return Counter(self.events)


def _group_of(func: Any, args: Any) -> ProcessGroup:
    for position, argument in enumerate(func._schema.arguments):
        if argument.name == "group_name":
            return _resolve_process_group(args[position])
        if argument.name == "process_group":
            return ProcessGroup.unbox(args[position])
    raise UncoveredOperator(f"{func} names no process group")
