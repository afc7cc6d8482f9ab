"""Devices: what the maker states and what was measured or fitted, each number with its provenance."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..core.errors import InputError, nearest_names
from ..core.provenance import Quantity
from .constants import Kind
from .kernel_rates import fitted_rates
from .profile_constants import Profile, gathered, nested
from .profiles import build, names_file, profile_names, read_profile

_STRICT = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class GenerationRates(Profile):
    """How kernels of one generation of hardware behave: constants of the forms in :mod:`llmsim.hardware.kernels`, those
    of ``generations/*`` in the registry.

    Attributes
    ----------
    name, typical_device
        The generation, and the device that stands for one of it whose file leaves something out.
    """

    profile_kind: ClassVar[Kind] = "generations"

    name: str
    typical_device: str


class ScaleUp(BaseModel):
    """The fast domain that devices share directly (NVLink, Infinity Fabric, ICI, PCIe).

    Attributes
    ----------
    name
        What it is.
    domain
        Devices in one domain.
    bandwidth
        One way, per device, bytes/s.
    efficiency
        Fraction of it that a large collective reaches.
    latency_s
        Per step of a ring.
    half_bytes
        Payload at which a collective reaches half of its bandwidth (protocol switching).
    in_switch_traffic
        Bytes on the wire per byte of an all-reduce that the switch adds up (NVLS); None where it does not add.
    """

    model_config = _STRICT

    name: str
    domain: int = Field(ge=1)
    bandwidth: Quantity
    efficiency: Quantity
    latency_s: Quantity
    half_bytes: Quantity
    in_switch_traffic: Quantity | None = None


class Device(BaseModel):
    """One accelerator (or CPU), as placed in a node.

    Attributes
    ----------
    name, vendor, generation
        The generation names a profile of kernel rates.
    aliases
        Other names it is known by.
    devices_per_node, largest_node
        Of the usual machine, and of the largest that there is (None: no larger one).
    compute_units
        Streaming multiprocessors, compute units or cores.
    peak
        Format (fp32, tf32, bf16, fp16, fp8, fp4) -> dense FLOP/s.
    block_scaling
        Formats with a scale for each block of elements that the matrix units apply themselves.
    memory_bytes, memory_bandwidth
        As the driver reports it, bytes; bytes/s.
    scale_up, network
        The fast domain; the name of the fabric profile taken unless the user names one.
    host_bandwidth
        To host memory, one way, bytes/s.
    host_memory_bandwidth, host_memory_bytes
        The device's share of the host's memory, bytes/s and bytes.
    power_w
        Board power limit, W.
    price
        USD per device and hour, dated.
    in_situ
        In-step rate over that of the generation: a power cap, a slower memory.
    rates
        Overrides of the generation's rates for this device.
    file, inherits, taken
        Of a device of one's own: its file, the profile that it inherits, and field -> whence the value of what the file
        does not state (see :mod:`llmsim.hardware.own_profiles`).
    same_as
        The profile that it equals in all that step times rest on, so that its measured runs hold; empty for none.
    """

    model_config = _STRICT

    name: str
    vendor: str
    generation: str
    aliases: tuple[str, ...] = ()
    devices_per_node: int = Field(ge=1)
    largest_node: int | None = Field(default=None, ge=1)
    compute_units: int = Field(ge=1)
    peak: dict[Literal["fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "fp4"], Quantity]
    block_scaling: tuple[Literal["mxfp8", "mxfp4", "nvfp4"], ...] = ()
    memory_bytes: Quantity
    memory_bandwidth: Quantity
    scale_up: ScaleUp
    network: str
    host_bandwidth: Quantity
    host_memory_bandwidth: Quantity
    host_memory_bytes: Quantity
    power_w: Quantity
    price: Quantity
    in_situ: Quantity
    rates: dict[str, Any] = Field(default_factory=dict)
    notes: str = ""
    file: str = ""
    inherits: str = ""
    taken: dict[str, str] = Field(default_factory=dict)
    same_as: str = ""

    @property
    def fitted_as(self) -> str:
        """The name under which fits know it."""
        return self.same_as or self.name

    def kernel_rates(self) -> GenerationRates:
        """The generation's rates with this device's overrides."""
        return self._kernel_rates

    @cached_property
    def _kernel_rates(self) -> GenerationRates:
        known, fitted = generation_rates(self.generation), fitted_rates("devices", self.inherits or self.name)
        if not self.rates and not fitted:
            return known
        before = nested({**known.constants, **fitted})
        own, _ = gathered("generations", {**before, **_over(before, self.rates)})
        return known.model_copy(update={"constants": own})

    def assumed(self) -> dict[str, str]:
        """Of a device of one's own: what its file leaves open, for an answer to list."""
        return {} if not self.file else _assumed_of(self)

    def peak_of(self, format: str) -> float:
        """Dense FLOP/s in a matrix format; 8- and 4-bit formats that the device lacks run at its 16-bit rate.

        Raises
        ------
        InputError
            When the device has no rate at all for the format.
        """
        for name in _PEAK_FALLBACK.get(format, (format,)):
            if name in self.peak:
                return self.peak[name].value
        raise InputError("precision", format, ", ".join(self.peak), why=f"has no peak rate on {self.name}")

    def supports(self, format: str) -> bool:
        """Whether the device multiplies matrices in that format natively."""
        return format in self.peak


def _over(sections: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Some constants in place of others, section by section."""
    return {
        key: {**sections[key], **value} if isinstance(sections.get(key), dict) else value
        for key, value in changes.items()
    }


_PEAK_FALLBACK = {
    "bf16": ("bf16", "fp16", "fp32"),
    "fp16": ("fp16", "bf16", "fp32"),
    "tf32": ("tf32", "fp32"),
    "fp8": ("fp8", "bf16", "fp16", "fp32"),
    "fp4": ("fp4", "fp8", "bf16", "fp16", "fp32"),
}


def _assumed_of(device: Device) -> dict[str, str]:
    said = f"{device.name} ({Path(device.file).name})"
    if device.same_as:
        return {"device": f"{said}, as {device.same_as} in all that step times rest on"}
    typical = generation_rates(device.generation).typical_device
    groups = {
        "peak": [f"peak.{name}" for name in device.peak],
        "scale_up": [f"scale_up.{k}" for k, own in device.scale_up if k != "name" and own is not None],
    }
    return {
        "device": f"{said}: no measured runs",
        **taken_in_words(device.taken, groups, device.inherits, typical),
        "kernel rates": f"those of generation {device.generation}, fitted on other devices",
    }


def taken_in_words(
    taken: Mapping[str, str], groups: Mapping[str, Sequence[str]], inherits: str, typical: str
) -> dict[str, str]:
    """What a file of one's own does not state, by whence it is; fields that are all from there by their common name."""
    wording = {
        "inherited": f"as {inherits}",
        "typical": f"as {typical}, which is typical",
        "scaled": f"as {inherits}, scaled with the 16-bit peak",
        "left out": "none",
    }
    found: dict[str, str] = {}
    for whence in dict.fromkeys(taken.values()):
        names = [name for name, own in taken.items() if own == whence]
        for group, members in groups.items():
            if set(members) <= set(names):
                names = [group, *(name for name in names if name not in members)]
        found[whence] = f"{', '.join(names)} ({wording[whence]})"
    return found


@lru_cache(maxsize=32)
def generation_rates(name: str) -> GenerationRates:
    """The kernel rates of a generation, with what fits of kernels say in place of what its profile does.

    Raises
    ------
    InputError
        For an unknown one, with the nearest names.
    """
    data = read_profile("generations", name, "generation")
    stated = build(GenerationRates, {**data, "name": name}, f"generation {name}")
    return stated.model_copy(update={"constants": {**stated.constants, **fitted_rates("generations", name)}})


def _canonical(name: str) -> str:
    return re.sub(r"[\s_]+", "-", name.strip().lower())


_MAKER = re.compile(r"^(nvidia|amd|intel|apple|huawei|google)?-?(geforce|tesla|instinct|cloud)?-?")
"""What vendors and drivers put before a name (``NVIDIA GeForce RTX 4090``)."""


def is_abbreviated(name: str) -> bool:
    """Whether a name is an alias of a bundled device and not its own."""
    return not names_file(name) and _canonical(str(name)) not in profile_names("devices")


@lru_cache(maxsize=128)
def bundled_device(name: str) -> Device:
    """The bundled device of that name or alias.

    Raises
    ------
    InputError
        For an unknown one, with the nearest names.
    """
    wanted = _canonical(name)
    names = profile_names("devices")
    if wanted not in names:
        wanted = _aliases().get(wanted, wanted)
    if wanted not in names:
        plain = _MAKER.sub("", wanted)
        wanted = plain if plain in names else _aliases().get(plain, wanted)
    if wanted not in names:
        near = nearest_names(wanted, [*names, *_aliases()])
        near = list(dict.fromkeys(_aliases().get(n, n) for n in near))
        allowed = f"{', '.join(names)}, or the path of a YAML file"
        raise InputError("device", name, allowed, ", ".join(near), why="is unknown")
    data = read_profile("devices", wanted, "device")
    return build(Device, {**data, "name": wanted}, f"device profile {wanted}")


@lru_cache(maxsize=1)
def _aliases() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in profile_names("devices"):
        for alias in read_profile("devices", name, "device").get("aliases", ()):
            found[_canonical(alias)] = name
    return found


def device_names() -> list[str]:
    """All bundled devices."""
    return profile_names("devices")
