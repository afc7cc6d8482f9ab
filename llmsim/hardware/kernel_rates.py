"""What fits of kernels say of the constants of generations and devices, laid over their profiles."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ..core.provenance import Quantity
from ..core.versions import without_schema
from .profiles import REINSTALL, build, profiles_root, read_yaml

SCHEMA = "llmsim.kernel-rates/1"


class KernelRates(BaseModel):
    """Constants of generations and devices from fits of kernels.

    Attributes
    ----------
    values
        Path (``generations/ampere/tile_half_area``, ``devices/b200-sxm-180gb/gemm_efficiency/16bit``) -> quantity,
        whose source names the fit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    values: dict[str, Quantity]


def rates_path() -> Path:
    """Where they lie."""
    return profiles_root() / "kernels" / "rates.yaml"


@lru_cache(maxsize=1)
def _kernel_rates() -> dict[str, Quantity]:
    path = rates_path()
    return read_rates(path).values if path.is_file() else {}


def read_rates(path: Path) -> KernelRates:
    """The constants that a file holds.

    Raises
    ------
    InputError
        For a broken file, with the field that is wrong.
    """
    where = f"rates of kernels {path}"
    return build(KernelRates, without_schema(read_yaml(path, "rates of kernels"), SCHEMA, where, REINSTALL), where)


def fitted_rates(kind: str, name: str) -> dict[str, Quantity]:
    """Key of a constant -> what fits say of it, for a generation or a device.

    Parameters
    ----------
    kind
        ``generations`` or ``devices``.
    """
    head = f"{kind}/{name}/"
    return {path.removeprefix(head): quantity for path, quantity in _kernel_rates().items() if path.startswith(head)}
