"""Low-rank adapters in plain torch: a frozen module, and two trained linear layers beside each of its own."""

from __future__ import annotations

from torch import Tensor, nn

from ..plans.adapters import Adapters

_OPERATORS = {"attention.out": "attention_out", "attention.q_up": "q"}
"""Path of a layer in the blocks -> its name among the operators, where the two differ."""


class AdaptedLinear(nn.Module):
    """``x W + (x A) B alpha / rank`` (Hu 2021, arXiv:2106.09685), with alpha twice the rank."""

    def __init__(self, linear: nn.Linear, rank: int):
        super().__init__()
        self.linear, self.scaling = linear, 2.0
        dtype = linear.weight.dtype
        self.a = nn.Linear(linear.in_features, rank, bias=False, dtype=dtype)
        self.b = nn.Linear(rank, linear.out_features, bias=False, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.b(self.a(x)) * self.scaling


def adapt(module: nn.Module, adapters: Adapters, known: frozenset[str]) -> nn.Module:
    """Freeze a block and put adapters beside the layers that are asked for.

    Parameters
    ----------
    known
        Names of the products that the same adapters take among the operators.
    """
    module.requires_grad_(False)
    linears = {path: m for path, m in module.named_modules() if isinstance(m, nn.Linear)}
    chosen = {path: m for path, m in linears.items() if _OPERATORS.get(path, path.rpartition(".")[2]) in known}
    assert len(chosen) == len(known), (sorted(linears), sorted(known))
    for path, linear in chosen.items():
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, AdaptedLinear(linear, adapters.rank))
    return module
