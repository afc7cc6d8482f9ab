"""What a plan keeps in the memory of the host instead of the device's.

References
----------
Ren 2021, ZeRO-Offload, arXiv:2101.06840 (optimizer states and their update on the host). Rhu 2016, vDNN,
arXiv:1602.08124 (activations copied out in forward and back before they are needed).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Offload:
    """Shares that live on the host, each in [0, 1].

    Attributes
    ----------
    activations
        Of a stage's layers, those whose kept tensors are copied out.
    optimizer
        Of the optimizer states, which are updated there too.
    """

    activations: float = 0.0
    optimizer: float = 0.0


NO_OFFLOAD = Offload()
