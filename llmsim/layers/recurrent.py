"""Linear-time mixers: their parameters. What a scan or a recurrence costs is not modelled; the operator kinds
(``ssm_scan``, ``selective_scan``, ``delta_rule``, ``convolution``) are refused by name by every pass that needs a
cost."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.operators import LayerBuilder, Tensor, weight


@dataclass(frozen=True)
class Mamba2:
    """State-space duality mixer (Dao 2024, arXiv:2405.21060)."""

    def __call__(self, b: LayerBuilder, x: Tensor) -> Tensor:
        z = b.linear("ssm_in", x, "hidden", "ssm_projection")
        conv = b.op(
            "ssm_conv", "convolution",
            [z, weight("ssm_conv.weight", "ssm_conv_channels conv_kernel"), weight("ssm_conv.bias",
            "ssm_conv_channels")], "batch sequence ssm_inner",
        )  # fmt: skip
        scan = b.op(
            "ssm_scan", "ssm_scan",
            [conv, weight("ssm.a", "ssm_heads"), weight("ssm.d", "ssm_heads"), weight("ssm.dt", "ssm_heads")],
            "batch sequence ssm_inner",
        )  # fmt: skip
        return b.linear("ssm_out", b.norm("ssm_norm", scan, "ssm_inner"), "ssm_inner", "hidden")


@dataclass(frozen=True)
class Mamba1:
    """Selective state-space mixer (Gu 2023, arXiv:2312.00752) with Jamba's three inner norms (arXiv:2403.19887)."""

    def __call__(self, b: LayerBuilder, x: Tensor) -> Tensor:
        z = b.linear("ssm_in", x, "hidden", "ssm_pair")
        conv = b.op(
            "ssm_conv", "convolution",
            [z, weight("ssm_conv.weight", "ssm_inner conv_kernel"), weight("ssm_conv.bias", "ssm_inner")],
            "batch sequence ssm_inner",
        )  # fmt: skip
        low = b.linear("ssm_x", conv, "ssm_inner", "ssm_low")
        gains = [
            weight("dt_norm.weight", "dt_rank"),
            weight("b_norm.weight", "ssm_state"),
            weight("c_norm.weight", "ssm_state"),
        ]
        scan = b.op(
            "ssm_scan", "selective_scan",
            [conv, low, *gains, weight("ssm_dt.weight", "dt_rank", "ssm_inner"), weight("ssm_dt.bias", "ssm_inner"),
             weight("ssm.a", "ssm_inner ssm_state"), weight("ssm.d", "ssm_inner")],
            "batch sequence ssm_inner",
        )  # fmt: skip
        return b.linear("ssm_out", scan, "ssm_inner", "hidden")


@dataclass(frozen=True)
class GatedDeltaNet:
    """Gated delta rule (Yang 2024, arXiv:2412.06464) as in Qwen3-Next: q, k of ``linear_k`` and v, z of ``linear_v``
    width."""

    def __call__(self, b: LayerBuilder, x: Tensor) -> Tensor:
        qk = b.linear("delta_qk", x, "hidden", "linear_qk")
        v = b.linear("delta_v", x, "hidden", "linear_v")
        z = b.linear("delta_z", x, "hidden", "linear_v")
        ba = b.linear("delta_ba", x, "hidden", "linear_ba")
        conv = b.op(
            "delta_conv", "convolution", [qk, v, weight("delta_conv.weight", "linear_conv_channels conv_kernel")],
            "batch sequence linear_v",
        )  # fmt: skip
        y = b.op(
            "delta_rule", "delta_rule", [conv, ba, weight("delta.a", "linear_v_heads"), weight("delta.dt",
            "linear_v_heads")], "batch sequence linear_v",
        )  # fmt: skip
        y = b.op(
            "delta_norm",
            "gate",
            [z, y, weight("delta_norm.weight", "linear_v_dim")],
            "batch sequence linear_v",
        )
        return b.linear("delta_out", y, "linear_v", "hidden")
