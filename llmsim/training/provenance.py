"""Which origin the rates behind a step have: measured on runs, taken from a maker's sheet, or assumed."""

from __future__ import annotations

from collections.abc import Mapping

from ..hardware.cluster import Cluster
from ..hardware.fitted import Fit, shipped_fit
from .constants import product_class
from .structure import Structure


def rate_origins(cluster: Cluster, structure: Structure, fit: Fit | None = None) -> dict[str, str]:
    """Part of a step -> origin of the constant that decides it (``fitted``, ``measured``, ``datasheet``,
    ``assumed``).

    Parameters
    ----------
    fit
        By default the one that ships.
    """
    device, software = cluster.profile, structure.software
    rates, fitted = device.kernel_rates(), (shipped_fit() if fit is None else fit).values
    generation, stack = f"generations/{device.generation}/in_situ", f"software/{software.name}"

    def origin(path: str, otherwise: str) -> str:
        return "fitted" if path in fitted else otherwise

    product = product_class(structure.recipe.matmul)
    found = {
        part: origin(f"{generation}/{work}", rates.in_situ[work].provenance)  # type: ignore[index]
        for part, work in {
            "gemm": product, "grouped": "grouped", "attention": "attention", "scan": "scan", "memory": "memory",
            "permute": "permute", "convert": "convert", "recompute": product, "bubble": product, "optimizer": "memory",
        }.items()
    }  # fmt: skip
    inner = origin(f"devices/{device.name}/scale_up/efficiency", device.scale_up.efficiency.provenance)
    outer = origin(f"networks/{cluster.fabric.name}/efficiency", cluster.fabric.efficiency.provenance)
    found["tp"] = inner
    for part in ("cp", "ep", "fsdp", "gradients", "parameters"):
        found[part] = outer if cluster.n_devices > cluster.domain else inner
    found["offload"] = device.host_bandwidth.provenance
    found["host"] = origin(f"{stack}/host/launch_s", software.host.launch_s.provenance)
    found["fixed"] = origin(f"{stack}/host/step_s", software.host.step_s.provenance)
    return found


def provenance_shares(breakdown_s: Mapping[str, float], origins: Mapping[str, str]) -> dict[str, float]:
    """Origin -> share of the step whose deciding rate has it; the shares sum to one."""
    step = sum(breakdown_s.values())
    shares: dict[str, float] = {}
    for part, seconds in breakdown_s.items():
        if seconds > 0:
            shares[origins[part]] = shares.get(origins[part], 0.0) + seconds / step
    return dict(sorted(shares.items(), key=lambda item: -item[1]))
