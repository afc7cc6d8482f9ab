"""Free text of run tables (interconnect, recompute, overlap, source) turned into names of profiles and settings."""

from __future__ import annotations

import re

from ..core.errors import UnsupportedError
from ..hardware.devices import Device
from ..hardware.network import fabric_names, get_fabric
from ..plans.recompute import parse_recompute

_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:x\s*(\d+(?:\.\d+)?)\s*)?(?:gb/s|gbps|gbit/s|gb)\b")
_LINKS = re.compile(r"(\d+)\s*x\s*(?:hdr|ndr|edr|xdr)?\s*(\d+)\s*(?:gb|gbps|gb/s)?\b")


def network_of(text: str, device: Device, per_node: int) -> tuple[str, bool]:
    """Fabric profile for an interconnect as a source describes it, and whether the source said so.

    A stated rate picks the profile whose bandwidth per device is nearest; without one it is the device's usual fabric.
    """
    said = text.lower()
    rate = _bytes_per_s_per_device(said, per_node)
    if rate is None:
        return device.network, False
    names = [n for n in fabric_names() if not n.startswith("tpu")]
    return min(names, key=lambda n: _distance(get_fabric(n).bandwidth.value, rate, n, said)), True


_SLICE = re.compile(r"slice \((\d+) chips\)|(\d+) slice\(s\) [a-z0-9]+-(\d+)")


def domain_of(text: str) -> int | None:
    """Devices in one scale-up domain where the interconnect is a torus slice of stated size."""
    found = _SLICE.search(text.lower())
    return int(found[1] or found[3]) if found else None


def _bytes_per_s_per_device(said: str, per_node: int) -> float | None:
    if "dcn" in said or "ici" in said:
        return None
    if "omni-path" in said:
        links = re.search(r"(\d+)\s*x\s*omni-path", said)
        return int(links[1]) * 100e9 / 8 / per_node if links else None
    links = _LINKS.search(said)
    if links and "per gpu" not in said:
        return int(links[1]) * int(links[2]) * 1e9 / 8 / per_node
    rate = _RATE.search(said)
    if rate is None or "nvlink" in said[: rate.start()][-12:]:
        return None
    value = float(rate[1]) * 1e9 / 8
    return value if "per gpu" in said or "per device" in said else value / per_node


def _distance(bandwidth: float, rate: float, name: str, said: str) -> tuple[float, int]:
    kind = name.split("-", maxsplit=1)[0]
    words = {"infiniband": ("ib", "infiniband", "hdr", "ndr", "edr"), "ethernet": ("roce", "ethernet", "rdma", "tcp")}
    named = any(w in said for w in words.get(kind, (kind,)))
    return round(abs(bandwidth / rate - 1), 2), 0 if named else 1


_ERA = re.compile(r"arxiv:?\s*(\d{2})(\d{2})\.\d+", re.IGNORECASE)


def release_of(release: str, source: str) -> str:
    """The release of a run; where it is blank, the month of the paper that reports it, which dates the software."""
    if release:
        return release
    era = _ERA.search(source)
    return f"20{era[1]}-{era[2]}" if era else ""


_RECOMPUTE = (
    # pattern of the source's wording -> setting
    (r"selective \(op-level\)", "selective:alternate"),
    (r"selective \(every layer\)", "full"),
    (r"selective \(layer\)", "full@1/2"),
    (r"minimal_with_context.*", "selective:matmuls+attention"),
    (r"minimal.*", "selective:matmuls"),
    (r"(custom|qkv_proj).*", "selective:projections"),
)


def recompute_of(text: str, default: str, assumed: dict[str, str]) -> str:
    """The recompute setting of a run; a blank one is taken from the software profile and listed.

    Raises
    ------
    UnsupportedError
        For a wording that is not understood.
    """
    if not text:
        assumed["recompute"] = f"{default} (software profile)"
        return default
    for pattern, setting in _RECOMPUTE:
        if re.fullmatch(pattern, text.strip().lower()):
            return setting
    try:
        return str(parse_recompute(text.replace(" ", "")))
    except Exception:
        raise UnsupportedError(f"recompute setting {text!r} is not modelled") from None


def overlap_of(text: str) -> str:
    """The overlap setting of a run: what its source says beside the profile's usual."""
    said = text.lower()
    if said.startswith("none") or "overlap off" in said:
        return "none" if said.startswith("none") else "profile"
    if "async tp" in said:
        return "tensor"
    if "all-to-all overlap on" in said:
        return "expert"
    return "profile"
