"""Which origin the rates behind a step have: fitted to runs, measured alone, taken from a maker's sheet, or assumed."""

from __future__ import annotations

from collections.abc import Mapping

from ..hardware.cluster import Cluster
from ..hardware.constants import CONSTANTS
from ..hardware.fitted import Fit, shipped_fit
from ..timing.intervals import unseen
from ..timing.step_constants import Place, product_class
from ..timing.structure import Structure

_STRENGTH = ("fitted", "measured", "extrapolated", "datasheet", "assumed")
"""From the strongest origin to the weakest. What was fitted on other hardware or software is ``extrapolated``."""
_LAYERS = frozenset(
    {"gemm", "grouped", "attention", "scan", "memory", "permute", "convert", "host", "recompute", "bubble"}
)
"""Parts of a step that take as long as layers do."""


def rate_origins(cluster: Cluster, structure: Structure, fit: Fit | None = None) -> dict[str, str]:
    """Part of a step -> origin of the constant that decides it (``fitted``, ``measured``, ``extrapolated``,
    ``datasheet``, ``assumed``).

    Parameters
    ----------
    fit
        By default the one that ships.
    """
    device, software = cluster.profile, structure.software
    place, known = Place(cluster, software), shipped_fit() if fit is None else fit
    origin_of_fit = "extrapolated" if unseen(cluster, software, known) else "fitted"

    def origin(name: str) -> str:
        """A profile of one's own brings what is fitted of its parent."""
        constant = CONSTANTS[name]
        stated = place.quantity(constant).provenance
        return (
            origin_of_fit if place.path(constant) in known.values else "extrapolated" if stated == "fitted" else stated
        )

    product = product_class(structure.recipe.matmul)
    found = {
        part: origin(f"generations/*/in_situ/{work}")
        for part, work in {
            "gemm": product, "grouped": "grouped", "attention": "attention", "scan": "scan", "memory": "memory",
            "permute": "permute", "convert": "convert", "recompute": product, "bubble": product, "optimizer": "memory",
        }.items()
    }  # fmt: skip
    inner, outer = origin("devices/*/scale_up/efficiency"), origin("networks/*/efficiency")
    wide = outer if cluster.n_devices > cluster.domain else inner

    def hidden(wire: str, overlap: str) -> str:
        """Of an exposed transfer: the weaker of its bandwidth and of the fraction that is hidden."""
        name = f"software/*/overlap/{overlap}"
        own = origin(name) if place.default(CONSTANTS[name]) > 0 else wire
        return max(wire, own, key=_STRENGTH.index)

    found["tp"] = hidden(inner, "tensor")
    found |= {"cp": hidden(wide, "context"), "ep": hidden(wide, "expert"), "fsdp": hidden(wide, "parameter")}
    found |= {"gradients": hidden(wide, "gradient"), "parameters": hidden(wide, "parameter")}
    found["offload"] = device.host_bandwidth.provenance
    found |= {"host": origin("software/*/host/launch_s"), "fixed": origin("software/*/host/step_s")}
    return found


def provenance_shares(
    breakdown_s: Mapping[str, float], origins: Mapping[str, str], known: float = 0.0
) -> dict[str, float]:
    """Origin -> share of the step whose deciding rate has it; the shares sum to one.

    Parameters
    ----------
    known
        Of what is fitted about layers, the part that runs with layers of such shapes settle: ``interpolated``.
    """
    step = sum(breakdown_s.values())
    shares: dict[str, float] = {}
    for part, seconds in breakdown_s.items():
        near = known if part in _LAYERS and origins[part] == "fitted" else 0.0
        for origin, share in (("interpolated", near), (origins[part], 1 - near)):
            if seconds * share > 0:
                shares[origin] = shares.get(origin, 0.0) + share * seconds / step
    return dict(sorted(shares.items(), key=lambda item: -item[1]))
