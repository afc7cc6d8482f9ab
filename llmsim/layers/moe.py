"""Mixture of experts: a router, dropless dispatch to grouped products, and shared experts beside them.

``slots`` are the rows after dispatch, tokens x top_k x imbalance over all ranks: an expected size. Dispatch and
combine are the border between the token layout (dp, cp, tp) and the expert layout (ep, edp, etp) of the same ranks.

Where routing is limited (DeepSeek-V3, arXiv:2412.19437, section 2.1.2), the experts of a token lie in
``groups_per_token`` of ``expert_groups`` groups: sizes of the kind that no tensor carries and that decide how many
scale-up domains a token travels to.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..core.operators import LayerBuilder, Read, Tensor, weight
from .base import RESIDUAL
from .mlp import Mlp


@dataclass(frozen=True)
class MixtureOfExperts:
    """Top-k routing to experts of width ``moe_ffn`` (Shazeer 2017, arXiv:1701.06538; dropless as MegaBlocks,
    arXiv:2211.15841).

    Attributes
    ----------
    gated
        Whether an expert has three matrices.
    shared, shared_gate
        Whether shared experts of total width ``shared_ffn`` see every token, and whether a sigmoid weighs their output.
    router_bias, expert_bias
        Biases.
    latent
        Experts work in a narrower space of width ``latent``, reached by projections of their own.
    clamped
        The gate is clamped and scaled before it gates (gpt-oss), which few stacks fuse.
    normed
        The router and the routed experts have norms of their own before them, and the two sides one behind each
        (Gemma 4).
    """

    gated: bool = True
    shared: bool = False
    shared_gate: bool = False
    router_bias: bool = False
    expert_bias: bool = False
    latent: bool = False
    clamped: bool = False
    normed: bool = False

    def __call__(self, b: LayerBuilder, x: Tensor) -> Tensor:
        with b.tagged("moe"):
            routed = self._routed(b, x)
            if not self.shared:
                return routed
            with b.tagged("shared_experts"):
                return self._shared(b, x, routed)

    def _shared(self, b: LayerBuilder, x: Tensor, routed: Tensor) -> Tensor:
        side = Mlp(self.gated, width="shared_ffn", prefix="shared_")(b, x)
        if self.normed:
            side = b.norm("shared_post_norm", side, "hidden")
        if self.shared_gate:
            score = b.op(
                "shared_score",
                "contract",
                [x, weight("shared_score.weight", "hidden", "one", format="weight_high")],
                "batch sequence one",
            )
            side = b.op("shared_weigh", "gate", [score, side], RESIDUAL)
        return b.op("shared_add", "add", [routed, side], RESIDUAL)

    def _routed(self, b: LayerBuilder, x: Tensor) -> Tensor:
        reads: list[Tensor | Read] = [
            b.norm("router_norm", x, "hidden") if self.normed else x,
            weight("router.weight", "hidden", "router_experts", format="weight_high"),
        ]
        if self.router_bias:
            reads.append(weight("router.bias", "router_experts"))
        logits = b.op("router", "contract", reads, "batch sequence router_experts")
        chosen = b.op("route", "route", [logits], "batch sequence top_k", over="router_experts", format="fp32")
        if self.normed:
            x = b.norm("experts_norm", x, "hidden")
        inner, width = (b.linear("latent_down", x, "hidden", "latent"), "latent") if self.latent else (x, "hidden")
        rows = b.op("dispatch", "dispatch", [inner, chosen], f"slots {width}")
        gate = [self._expert(b, "expert_gate", rows, width, "moe_ffn")] if self.gated else []
        up = self._expert(b, "expert_up", rows, width, "moe_ffn")
        kind = "activation" if not gate else "clamped_gate" if self.clamped else "gate"
        act = b.op("expert_activate", kind, [*gate, up], "slots moe_ffn", tags="moe_act")
        rows = self._expert(b, "expert_down", act, "moe_ffn", width)
        y = b.op("combine", "combine", [rows, chosen], f"batch sequence {width}")
        y = b.linear("latent_up", y, "latent", "hidden") if self.latent else y
        return b.norm("experts_post_norm", y, "hidden") if self.normed else y

    def _expert(self, b: LayerBuilder, name: str, x: Tensor, inputs: str, outputs: str) -> Tensor:
        matrix = weight(f"{name}.weight", f"experts {inputs}", outputs, leading="experts")
        y = b.op(name, "contract", [x, matrix], f"slots {outputs}")
        if self.expert_bias:  # each row adds the bias of its own expert, which no product does on its way out
            bias = weight(f"{name}.bias", f"experts {outputs}", leading="experts")
            y = b.op(f"{name}_bias", "bias", [y, bias], f"slots {outputs}")
        return y
