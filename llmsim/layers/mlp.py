"""The dense feed-forward part, gated (Shazeer 2020, arXiv:2002.05202) or not."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.operators import LayerBuilder, Tensor


@dataclass(frozen=True)
class Mlp:
    """Two matrices and an activation, or three and a gate.

    Attributes
    ----------
    gated
        ``act(x Wg) * (x Wu)`` instead of ``act(x Wu)``.
    bias
        Biases on all of them.
    width, prefix
        Name of the inner dimension and of its operators: ``ffn`` and none, or ``shared_ffn`` and ``shared_``.
    """

    gated: bool = True
    bias: bool = False
    width: str = "ffn"
    prefix: str = ""

    def __call__(self, b: LayerBuilder, x: Tensor) -> Tensor:
        with b.tagged("mlp"):
            return self._products(b, x)

    def _products(self, b: LayerBuilder, x: Tensor) -> Tensor:
        p, inner = self.prefix, f"batch sequence {self.width}"
        gate = [b.linear(f"{p}gate", x, "hidden", self.width, bias=self.bias, tags=f"{p}gate")] if self.gated else []
        up = b.linear(f"{p}up", x, "hidden", self.width, bias=self.bias, tags=f"{p}up")
        act = b.op(
            f"{p}activate", "gate" if self.gated else "activation", [*gate, up], inner, tags="" if p else "mlp_act"
        )
        return b.linear(f"{p}down", act, self.width, "hidden", bias=self.bias, tags=f"{p}down")
