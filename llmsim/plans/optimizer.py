"""Optimizers: state per parameter, and the FLOPs and bytes of a step.

References
----------
AdamW: Loshchilov, Hutter 2019, arXiv:1711.05101. Sharded states: Rajbhandari 2019, arXiv:1910.02054.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..core.errors import unknown_name
from ..core.formats import get_format
from ..hardware.software import Formats


@dataclass(frozen=True, slots=True)
class Optimizer:
    """One optimizer.

    Attributes
    ----------
    name
        As in plans.
    moments
        Tensors of state per parameter, besides a master copy.
    flops
        Operations per parameter and step.
    """

    name: str
    moments: int
    flops: int

    def state_bytes(self, formats: Formats, compute: str) -> int:
        """Bytes of master copy and moments per parameter."""
        moment = compute if formats.moments == "compute" else formats.moments
        master = get_format(formats.master).bits // 8 if formats.master else 0
        return master + self.moments * (get_format(moment).bits // 8)

    def traffic_bytes(self, formats: Formats, compute: str) -> int:
        """Device traffic per updated parameter: gradient read, state read and written, parameter written.

        Besides, the gradient is read once for its norm and read and written once for clipping.
        """
        gradient = get_format(compute if formats.gradient == "compute" else formats.gradient).bits // 8
        parameter = get_format(compute if formats.parameter == "compute" else formats.parameter).bits // 8
        own = 0 if formats.master else parameter
        return gradient + 2 * self.state_bytes(formats, compute) + own + parameter + 3 * gradient


OPTIMIZERS = {o.name: o for o in (Optimizer("adamw", moments=2, flops=14),)}
_ALIASES = {"adam": "adamw"}


def get_optimizer(name: str) -> Optimizer:
    """The optimizer of that name.

    Raises
    ------
    InputError
        For an unknown one, with the nearest names.
    """
    wanted = str(name).strip().lower()
    try:
        return OPTIMIZERS[_ALIASES.get(wanted, wanted)]
    except KeyError:
        raise unknown_name("optimizer", name, [*OPTIMIZERS, *_ALIASES]) from None
