"""What a plan keeps in the memory of the host instead of the device's.

References
----------
Ren 2021, ZeRO-Offload, arXiv:2101.06840 (optimizer states and their update on the host). Rhu 2016, vDNN,
arXiv:1602.08124 (activations copied out in forward and back before they are needed).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.numeric import Number


@dataclass(frozen=True, slots=True)
class Offload:
    """Shares that live on the host, each in [0, 1]; of one plan, or columns of many.

    Attributes
    ----------
    activations
        Of a stage's layers, those whose kept tensors are copied out.
    optimizer
        Of the optimizer states, which are updated there too.
    """

    activations: Number = 0.0
    optimizer: Number = 0.0

    @property
    def moves_activations(self) -> bool:
        """Whether any plan sends activations."""
        return bool(np.any(self.activations))

    @property
    def moves_states(self) -> bool:
        """Whether any plan keeps optimizer states on the host."""
        return bool(np.any(self.optimizer))

    @property
    def moves(self) -> bool:
        """Whether anything is on the host at all."""
        return self.moves_activations or self.moves_states


NO_OFFLOAD = Offload()
