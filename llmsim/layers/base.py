"""What a layer kind is, and the residual arrangements that its parts are put together in."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

from ..core.operators import LayerBuilder, Operator, Tensor, activation
from ..core.state import over_cache, selects

RESIDUAL = "batch sequence hidden"

Mixer: TypeAlias = Callable[[LayerBuilder, Tensor], Tensor]
"""Appends its operators to the builder; takes the normed residual, returns what is added to it."""

Arrangement = Literal["pre", "post", "sandwich", "after"]


@dataclass(frozen=True)
class Norm:
    """The norm of a model: ``norm`` (root mean square) or ``layer_norm``, with or without a bias."""

    kind: Literal["norm", "layer_norm"] = "norm"
    bias: bool = False

    def __call__(self, b: LayerBuilder, name: str, x: Tensor, over: str = "hidden") -> Tensor:
        return b.norm(name, x, over, kind=self.kind, bias=self.bias)


@dataclass(frozen=True, eq=False)
class LayerKind:
    """A kind of layer: its operators and the sizes of its dimensions.

    Attributes
    ----------
    name
        Says what it is (``gqa+mlp``, ``mla+moe`` ...).
    operators
        In forward order. Compared by identity: a kind is derived once per structure.
    sizes
        Dimension -> global size, of the dimensions that belong to the model.
    window
        Positions that sliding-window attention sees, None for all.
    causal
        Whether positions see only those before them.
    """

    name: str
    operators: tuple[Operator, ...]
    sizes: Mapping[str, int]
    window: int | None
    causal: bool

    @cached_property
    def derived(self) -> dict[Hashable, Any]:
        """What has been derived from its operators, for as long as it lives: key -> terms."""
        return {}

    def parameter_counts(self, *, active: bool = False, trained: bool = False) -> dict[str, int]:
        """Elements of each distinct parameter, by name; with ``active``, of ``top_k`` experts instead of all; with
        ``trained``, of those that are not frozen."""
        sizes = {**self.sizes, "experts": self.sizes["top_k"]} if active and self.is_moe else self.sizes
        return {
            read.tensor.name: math.prod(sizes[dim] for dim in read.tensor.dims)
            for op in self.operators
            for read in (op.trained if trained else op.weights)
        }

    @cached_property
    def over_cache(self) -> LayerKind:
        """The layer as it runs where it keeps a state, of :func:`~llmsim.core.state.over_cache`."""
        operators = over_cache(self.operators)
        return self if operators == self.operators else replace(self, operators=operators)

    @cached_property
    def kept_window(self) -> int | None:
        """Positions whose keys and values are kept, None for all: those in the window, unless an indexer selects the
        window among all of them."""
        return None if any(map(selects, self.operators)) else self.window

    @property
    def parameters(self) -> int:
        """Elements of its distinct parameters."""
        return sum(self.parameter_counts().values())

    @property
    def is_moe(self) -> bool:
        """Whether tokens are dispatched to experts."""
        return any(op.kind == "dispatch" for op in self.operators)


def residual(
    b: LayerBuilder,
    x: Tensor,
    name: str,
    mixer: Mixer,
    norm: Norm,
    arrangement: Arrangement = "pre",
    *,
    dropout: bool = False,
) -> Tensor:
    """One residual branch: ``x + mixer(norm(x))``, ``x + norm(mixer(x))`` (post), both norms (sandwich), or
    ``norm(x + mixer(x))`` (after: the original Transformer, arXiv:1706.03762); with dropout behind the mixer where
    asked for."""
    inner = norm(b, f"{name}_norm", x) if arrangement in ("pre", "sandwich") else x
    y = mixer(b, inner)
    if dropout:
        y = b.dropout(f"dropout_{name}", y)
    if arrangement in ("post", "sandwich"):
        y = norm(b, f"{name}_post_norm", y)
    y = b.op(f"{name}_residual", "add", [x, y], RESIDUAL, format="residual")
    return norm(b, f"{name}_post_norm", y) if arrangement == "after" else y


def parallel_residual(b: LayerBuilder, x: Tensor, mixers: Mapping[str, Mixer], norm: Norm, shared: bool) -> Tensor:
    """``x + sum of mixer(norm(x))``: attention and MLP side by side, with one norm between them or one each."""
    common = norm(b, "input_norm", x) if shared else None
    y = x
    for name, mixer in mixers.items():
        inner = common if common is not None else norm(b, f"{name}_norm", x)
        y = b.op(f"{name}_residual", "add", [y, mixer(b, inner)], RESIDUAL, format="residual")
    return y


def layer_input() -> Tensor:
    """The residual stream that enters a layer."""
    return activation("x", RESIDUAL, "residual")
