"""Linear-time mixers: their parameters. What a scan or a recurrence costs is not modelled; the operator kinds
(``ssm_scan``, ``selective_scan``, ``delta_rule``, ``convolution``) are refused by name by every pass that needs a
cost."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.operators import LayerBuilder, Tensor, weight


@dataclass(frozen=True)
class Mamba2:
    """State-space duality mixer (Dao 2024, arXiv:2405.21060).

    Attributes
    ----------
    bias, conv_bias
        Biases of the two projections and of the convolution.
    """

    bias: bool = False
    conv_bias: bool = True

    def __call__(self, b: LayerBuilder, x: Tensor) -> Tensor:
        z = b.linear("ssm_in", x, "hidden", "ssm_projection", bias=self.bias)
        conv = _convolution(b, "ssm_conv", [z], "ssm_conv_channels", "ssm_inner", bias=self.conv_bias)
        scan = b.op(
            "ssm_scan", "ssm_scan",
            [conv, weight("ssm.a", "ssm_heads"), weight("ssm.d", "ssm_heads"), weight("ssm.dt", "ssm_heads")],
            "batch sequence ssm_inner",
        )  # fmt: skip
        return b.linear("ssm_out", b.norm("ssm_norm", scan, "ssm_inner"), "ssm_inner", "hidden", bias=self.bias)


@dataclass(frozen=True)
class Mamba1:
    """Selective state-space mixer (Gu 2023, arXiv:2312.00752) with Jamba's three inner norms (arXiv:2403.19887).

    Attributes
    ----------
    bias, conv_bias
        Biases of the in and out projections and of the convolution.
    """

    bias: bool = False
    conv_bias: bool = True

    def __call__(self, b: LayerBuilder, x: Tensor) -> Tensor:
        z = b.linear("ssm_in", x, "hidden", "ssm_pair", bias=self.bias)
        conv = _convolution(b, "ssm_conv", [z], "ssm_inner", "ssm_inner", bias=self.conv_bias)
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
        return b.linear("ssm_out", scan, "ssm_inner", "hidden", bias=self.bias)


@dataclass(frozen=True)
class GatedDeltaNet:
    """Gated delta rule (Yang 2024, arXiv:2412.06464) as in Qwen3-Next: q, k of ``linear_k`` and v, z of ``linear_v``
    width."""

    def __call__(self, b: LayerBuilder, x: Tensor) -> Tensor:
        qk = b.linear("delta_qk", x, "hidden", "linear_qk")
        v = b.linear("delta_v", x, "hidden", "linear_v")
        z = b.linear("delta_z", x, "hidden", "linear_v")
        ba = b.linear("delta_ba", x, "hidden", "linear_ba")
        conv = _convolution(b, "delta_conv", [qk, v], "linear_conv_channels", "linear_v", bias=False)
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


def _convolution(b: LayerBuilder, name: str, reads: list[Tensor], channels: str, written: str, *, bias: bool) -> Tensor:
    """A causal depthwise convolution over the sequence."""
    kernel = weight(f"{name}.weight", f"{channels} conv_kernel")
    extra = [weight(f"{name}.bias", channels)] if bias else []
    return b.op(name, "convolution", [*reads, kernel, *extra], f"batch sequence {written}")
