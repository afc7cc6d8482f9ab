"""The feed-forward part of each layer: dense, or a mixture of experts in some layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..layers.mlp import Mlp
from ..layers.moe import MixtureOfExperts
from .blueprint import Part
from .options import Rule, answer
from .reader import Reader

Width = Callable[[Reader, int], int]
"""Reader and hidden width -> inner width."""


@dataclass(frozen=True)
class ExpertsRule:
    """How a family's experts follow from its configuration.

    Attributes
    ----------
    width
        The field of an expert's inner width.
    sparse
        Which layers have experts.
    shared
        Total inner width of the shared experts, 0 for none; takes an expert's width.
    shared_gate, router_bias, expert_bias, clamped, normed
        As of :class:`~llmsim.layers.moe.MixtureOfExperts`.
    optional
        Whether a file without an expert count means that all layers are dense.
    """

    width: str = "moe_intermediate_size"
    sparse: Callable[[Reader, int], list[bool]] = lambda r, layers: [True] * layers
    shared: Width = lambda r, width: 0
    shared_gate: bool = False
    router_bias: Rule[bool] = False
    expert_bias: Rule[bool] = False
    clamped: bool = False
    normed: Rule[bool] = False
    optional: bool = False


@dataclass(frozen=True)
class FeedForwardRule:
    """How a family's feed-forward part follows from its configuration.

    Attributes
    ----------
    gated
        Whether there is a third matrix that gates.
    bias
        Biases of a dense MLP.
    width
        The field of a dense MLP's inner width.
    default_width
        The width where the file does not say, None where it must.
    experts
        The mixture of experts, if any.
    """

    gated: bool = True
    bias: Rule[bool] = False
    width: str = "intermediate_size"
    default_width: Width | None = None
    experts: ExpertsRule | None = None


EXPERT_FIELDS = (
    "num_experts", "num_experts_per_tok", "n_shared_experts", "moe_intermediate_size", "first_k_dense_replace",
    "moe_layer_freq", "shared_expert_intermediate_size",
)  # fmt: skip


def read_feed_forward(r: Reader, rule: FeedForwardRule, layers: int, hidden: int) -> list[Part]:
    """The feed-forward part of each layer."""
    gated = r.flag("gated_mlp", rule.gated)
    experts = rule.experts
    sparse = [False] * layers
    if experts is not None and (r.has("num_experts") or not experts.optional):
        sparse = experts.sparse(r, layers)
    moe = _experts(r, experts, gated) if experts is not None and any(sparse) else None
    dense = None if all(sparse) else dense_mlp(r, rule, hidden, gated)
    if experts is not None:  # what only the other kind of layer would use
        r.unused(rule.width, *EXPERT_FIELDS)
    return [part for is_moe in sparse if (part := moe if is_moe else dense) is not None]


def dense_mlp(r: Reader, rule: FeedForwardRule, hidden: int, gated: bool) -> Part:
    """A dense MLP."""
    default = rule.default_width(r, hidden) if rule.default_width else None
    width = r.integer(rule.width, default)
    return Part("mlp", "mlp", Mlp(gated, answer(rule.bias, r)), (("ffn", width),))


def _experts(r: Reader, rule: ExpertsRule, gated: bool) -> Part:
    width = r.integer(rule.width)
    shared = rule.shared(r, width)
    mixer = MixtureOfExperts(
        gated,
        shared=shared > 0,
        shared_gate=rule.shared_gate and shared > 0,
        router_bias=answer(rule.router_bias, r),
        expert_bias=answer(rule.expert_bias, r),
        clamped=rule.clamped,
        normed=answer(rule.normed, r),
    )
    return Part(
        "moe", "mlp", mixer, (*expert_sizes(r, width), *((("shared_ffn", shared), ("one", 1)) if shared else ()))
    )


def expert_sizes(r: Reader, width: int) -> tuple[tuple[str, int], ...]:
    """Sizes of the routed experts."""
    experts, top_k = r.integer("num_experts"), r.integer("num_experts_per_tok")
    if top_k > experts:
        key, _ = r.find("num_experts_per_tok") or ("num_experts_per_tok", None)
        r.refuse(key, top_k, "is more than there are experts", f"a whole number from 1 to {experts}", experts)
    sizes = (("experts", experts), ("router_experts", experts), ("top_k", top_k), ("moe_ffn", width))
    groups = r.integer("n_group", 1)
    limit = r.integer("topk_group", groups)
    if limit > groups:
        r.refuse("topk_group", limit, "is more than there are groups", f"a whole number from 1 to {groups}", groups)
    return (*sizes, ("expert_groups", groups), ("groups_per_token", limit)) if limit < groups else sizes
