"""One operator at a time: what an implementation keeps, how many kernels it launches, how much memory it touches.

Each case pairs an operator with the torch code that a row of ``kernels.yaml`` describes, in bf16. Kept bytes and
launches are to be equal; memory traffic, written in the rows as passes over the least possible, agrees within rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.profiler import ProfilerActivity, profile, record_function

from ..core.formats import get_format
from ..core.inventory import Inventory
from ..core.liveness import derive_moments
from ..core.operators import LayerBuilder, activation, index, weight
from ..core.saved import derive_saved, saved_terms
from ..core.sharding import mesh_sharding
from ..core.terms import Sizes
from ..core.work import derive_work
from ..hardware.software import kernel_rows
from ..layers.recurrent import convolution
from . import blocks, mixers
from .allocator import allocator_peak
from .counters import SavedTensors, WorkCounter
from .pairs import CLASSES, DROPOUT

SIZES: Mapping[str, int] = {
    "batch": 2, "sequence": 64, "hidden": 256, "hidden_pair": 512, "heads": 4, "head_dim": 64, "half_dim": 32,
    "one": 1, "steps": 64, "conv_kernel": 4, "conv_span": 67, "ffn": 512, "vocab": 1024, "experts": 8,
    "router_experts": 8, "top_k": 2, "slots": 256,
}  # fmt: skip
WALK, CHANNELS = "batch steps heads head_dim", "batch steps ffn"
STREAM, HEADS, INNER = "batch sequence hidden", "batch sequence heads head_dim", "batch sequence ffn"


class RowCounts(NamedTuple):
    """Of one operator, forward and backward."""

    kept_bytes: int
    forward_launches: int
    backward_launches: int
    forward_bytes: float
    backward_bytes: float


@dataclass(frozen=True)
class RowCase:
    """A row, an operator of its kind, and torch code that does the same.

    Attributes
    ----------
    kind, implementation
        The row.
    build
        Appends the operator to a builder.
    run
        Computes it from tensors of the dimensions in ``inputs``.
    inputs
        Dimension names; ``weight`` in front marks a parameter, ``index`` integers, ``table`` a constant.
    elsewhere
        Fields of :class:`RowCounts` that torch spends in a neighbouring operator, and that a row alone cannot match.
    """

    kind: str
    implementation: str
    build: Callable[[LayerBuilder], object]
    run: Callable[..., Tensor]
    inputs: tuple[str, ...]
    elsewhere: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.kind}-{self.implementation}"


def derived_row(case: RowCase) -> RowCounts:
    """What the row says."""
    builder = LayerBuilder()
    case.build(builder)
    inventory = Inventory({case.kind: kernel_rows()[case.kind][case.implementation]})
    sharding = mesh_sharding(sequence_parallel=False)
    values = Sizes(SIZES, {}, {name: get_format(format) for name, format in CLASSES["bf16"].items()})
    kept = derive_saved(builder.operators, sharding, inventory, formats=CLASSES["bf16"]).kept
    work = derive_work(builder.operators, sharding, inventory)
    forward = [w for w in work if w.phase == "forward"]
    backward = [w for w in work if w.phase != "forward"]
    return RowCounts(
        values.size(saved_terms(kept)),
        sum(w.launches for w in forward),
        sum(w.launches for w in backward),
        sum(w.passes * values.size(w.bytes) for w in forward),
        sum(w.passes * values.size(w.bytes) for w in backward),
    )


def executed_row(case: RowCase) -> RowCounts:
    """What torch does, on fake tensors."""
    with FakeTensorMode():
        tensors = [_make(text) for text in case.inputs]
        uncounted = [t for t, text in zip(tensors, case.inputs, strict=True) if text.startswith(("weight", "table"))]
        saved, counter = SavedTensors(uncounted), WorkCounter()
        with counter, saved:
            y = case.run(*tensors)
        gradient = torch.zeros_like(y)
        with counter:
            torch.autograd.grad(y, [t for t in tensors if t.requires_grad], gradient)
    launches, traffic = counter.kernels, counter.traffic_bytes
    return RowCounts(
        saved.total_bytes, launches["forward"], launches["backward"], traffic["forward"], traffic["backward"]
    )


def _make(text: str) -> Tensor:
    mark, _, dims = text.partition(" ") if text.startswith(("weight", "index", "table")) else ("", "", text)
    shape = [SIZES[d] for d in dims.split()]
    if mark == "index":
        return torch.zeros(shape, dtype=torch.long)
    return torch.zeros(shape, dtype=torch.bfloat16, requires_grad=mark != "table")


def _rms_norm(product: blocks.NormProduct) -> Callable[[Tensor, Tensor], Tensor]:
    def run(x: Tensor, gain: Tensor) -> Tensor:
        return blocks.rms_norm(x, gain, product)

    return run


def _combine(rows: Tensor, shares: Tensor, order: Tensor, source: Tensor) -> Tensor:
    return blocks.combine(rows, shares.flatten(0, 1), blocks.Sorting(order, source, source))


def _gated(norm_first: bool) -> RowCase:
    reads = [activation("y", WALK), activation("z", WALK), weight("gain", "head_dim")]
    return RowCase(
        "gated_norm", "eager_norm_first" if norm_first else "eager",
        lambda b: b.op("n", "gated_norm", reads, WALK, over="head_dim", format="normed"),
        lambda y, z, gain: mixers.gated_norm(y, z, gain, 1, norm_first=norm_first),
        (WALK, WALK, "weight head_dim"),
    )  # fmt: skip


_x, _inner = activation("x", STREAM), activation("up", INNER)
_norm_inputs = (STREAM, "weight hidden")

CASES: tuple[RowCase, ...] = (
    RowCase("norm", "eager", lambda b: b.norm("n", _x, "hidden"), _rms_norm("activation"), _norm_inputs),
    RowCase("norm", "eager_fp32", lambda b: b.norm("n", _x, "hidden"), _rms_norm("fp32"), _norm_inputs),
    RowCase(
        "layer_norm", "native_cpu",
        lambda b: b.norm("n", _x, "hidden", kind="layer_norm", bias=True),
        lambda x, gain, bias: F.layer_norm(x, gain.shape, gain, bias),
        (STREAM, "weight hidden", "weight hidden"),
    ),
    _gated(norm_first=False),
    _gated(norm_first=True),
    RowCase(
        "convolution", "eager",
        lambda b: convolution(b, "c", activation("x", "batch sequence ffn"), bias=True),
        mixers.short_convolution,
        (CHANNELS, "weight ffn one conv_kernel", "weight ffn"),
    ),
    RowCase(
        "rotary", "eager",
        lambda b: b.op("r", "rotary", [activation("q", HEADS)], HEADS),
        blocks.rotate,
        (HEADS, "table sequence one half_dim", "table sequence one half_dim"),
    ),
    RowCase(
        "gate", "eager",
        lambda b: b.op("a", "gate", [activation("gate", INNER), _inner], INNER),
        lambda gate, up: F.silu(gate) * up,
        (INNER, INNER),
    ),
    RowCase(
        "clamped_gate", "eager",
        lambda b: b.op("a", "clamped_gate", [activation("gate", INNER), _inner], INNER),
        blocks.clamped_gate,
        (INNER, INNER),
    ),
    RowCase("activation", "plain", lambda b: b.op("a", "activation", [_inner], INNER), F.gelu, (INNER,)),
    RowCase(
        "dropout", "plain",
        lambda b: b.dropout("d", _x),
        lambda x: torch.native_dropout(x, DROPOUT, True)[0],
        (STREAM,),
    ),
    RowCase(
        "add", "plain",
        lambda b: b.op("s", "add", [_x, activation("y", STREAM)], STREAM),
        lambda x: x + x.view_as(x),
        (STREAM,),
    ),
    RowCase(
        "concat", "plain",
        lambda b: b.op("c", "concat", [_x, activation("y", STREAM)], "batch sequence hidden_pair"),
        lambda x, y: torch.cat((x, y), -1),
        (STREAM, STREAM),
        # Backward makes views, which the operators behind copy.
        frozenset({"backward_launches", "backward_bytes"}),
    ),
    RowCase(
        "embedding", "plain",
        lambda b: b.op("e", "embedding", [index("tokens", "batch sequence"), weight("t", "vocab", "hidden")], STREAM),
        F.embedding,
        ("index batch sequence", "weight vocab hidden"),
        # Torch's operator reads the gradient and writes the table; that rows are read before they are added to is
        # inside.
        frozenset({"backward_bytes"}),
    ),
    RowCase(
        "loss", "eager",
        lambda b: b.op(
            "l", "loss", [activation("logits", "batch sequence vocab"), index("labels", "batch sequence")],
            "batch sequence", over="vocab", format="fp32",
        ),
        blocks.token_loss,
        ("batch sequence vocab", "index batch sequence"),
    ),
    RowCase(
        "route", "eager",
        lambda b: b.op(
            "r", "route", [activation("logits", "batch sequence router_experts")], "batch sequence top_k",
            over="router_experts", format="fp32",
        ),
        lambda logits: blocks.route(logits.flatten(0, 1), SIZES["top_k"], logits.dtype)[0],
        ("batch sequence router_experts",),
    ),
    RowCase(
        "dispatch", "eager",
        lambda b: b.op("d", "dispatch", [_x, activation("chosen", "batch sequence top_k", "fp32")], "slots hidden"),
        lambda x, chosen: blocks.dispatch(x.flatten(0, 1), chosen.flatten(0, 1), SIZES["experts"])[0],
        (STREAM, "index batch sequence top_k"),
        # The ends of the experts are kept by the grouped products, for which dispatch makes them.
        frozenset({"kept_bytes"}),
    ),
    RowCase(
        "combine", "eager",
        lambda b: b.op(
            "c", "combine", [activation("rows", "slots hidden"), activation("chosen", "batch sequence top_k", "fp32")],
            STREAM,
        ),
        _combine,
        ("slots hidden", "batch sequence top_k", "index slots", "index slots"),
        # The source tokens are kept by dispatch already.
        frozenset({"kept_bytes"}),
    ),
)  # fmt: skip
"""Every row of a memory-bound kind that can be checked on a CPU one operator at a time."""

BACKWARD_CASES = tuple(case for case in CASES if case.kind not in ("add", "concat"))
"""Those whose backward pass is one of its own: sums and concatenations hand views on."""

SCORES: tuple[tuple[blocks.AttentionKernel, bool], ...] = (("math", False), ("eager", False), ("eager", True))
"""Attention kernels that write their scores, with dropout or without."""


def executed_scores(kernel: blocks.AttentionKernel, *, dropout: bool = False) -> tuple[int, int, float, float]:
    """(forward launches, backward launches, forward passes, backward passes) of attention that writes its scores.

    A pass is the traffic that grows with the square of the length, over one score matrix in the kernel's own format
    (fp32 for ``math``).
    """
    batch, heads, width = 2, 8, 64
    element = 4 if kernel == "math" else 2
    traffic: dict[int, tuple[float, float]] = {}
    for length in (1024, 2048):
        with FakeTensorMode():
            q, k, v = (
                torch.zeros(batch, length, heads, width, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)
            )
            with WorkCounter() as counter:
                y = blocks.attend(q, k, v, kernel, DROPOUT * dropout)
            gradient = torch.zeros_like(y)
            with counter:
                torch.autograd.grad(y, (q, k, v), gradient)
        traffic[length] = (counter.traffic_bytes["forward"], counter.traffic_bytes["backward"])
    square = batch * heads * 1024**2 * element

    def passes(phase: int) -> float:
        return (traffic[2048][phase] - 2 * traffic[1024][phase]) / (2 * square)

    return counter.kernels["forward"], counter.kernels["backward"], passes(0), passes(1)


def derived_backward_peak(case: RowCase) -> int:
    """The most beside what there was while the operator runs backward, its own gradient included, bytes."""
    builder = LayerBuilder()
    case.build(builder)
    inventory = Inventory({case.kind: kernel_rows()[case.kind][case.implementation]})
    sharding, formats = mesh_sharding(sequence_parallel=False), CLASSES["bf16"]
    values = Sizes(SIZES, {}, {name: get_format(format) for name, format in formats.items()})
    savings = derive_saved(builder.operators, sharding, inventory, formats=formats)
    moments = derive_moments(builder.operators, sharding, inventory, savings, formats=formats)
    return max(values.size((*moment.flowing, *moment.gradients)) for moment in moments)


def executed_backward_peak(case: RowCase) -> int:
    """The same of the allocator, on real tensors."""
    tensors = [_make(text) for text in case.inputs]
    leaves = [t for t in tensors if t.requires_grad]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        # The operator behind makes the gradient, so that it is freed as in a model.
        y = case.run(*tensors) * 1.0
        gradient = torch.ones_like(y)
        with record_function("backward"):
            torch.autograd.grad(y, leaves, gradient)
    return allocator_peak(profiled, since="backward")
