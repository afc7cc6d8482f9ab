"""A cluster: how many nodes of which device, and the fabric between them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from ..core.arguments import of_kind
from ..core.errors import InputError
from ..core.units import counted
from ..core.versions import without_schema
from .devices import Device, is_abbreviated
from .named import get_device, get_fabric
from .network import Fabric, Tier, compile_tiers
from .profiles import Checked, Real, Whole, as_input_error, build, names_file, read_yaml

SCHEMA = "llmsim.cluster/1"

_SPELLING = re.compile(r"^\s*(?:([0-9]{1,30})\s*[xX]\s*)?([0-9]{1,30})\s*[xX]\s*(\S.*?)\s*$")
_NODES, _PER_NODE = 10_000_000, 100_000


class Cluster(Checked):
    """Nodes of one kind of device, joined by a fabric.

    Attributes
    ----------
    device
        Name of a device profile, or the path of a YAML file with one of your own.
    nodes, devices_per_node
        At least 1 each.
    network
        Name of a fabric profile, or the path of a file with one; None takes the device's usual one (an answer lists it
        under ``assumed``).
    scale_up_domain
        Devices in one scale-up domain; None takes the device's (no more than there are).
    price_usd_per_device_hour
        What a device costs you; None takes the dated price of its profile.
    memory_headroom
        Share of a device's memory that a plan leaves free; None takes the software profile's.
    schema_version
        Of this form.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    schema_version: Literal["llmsim.cluster/1"] = "llmsim.cluster/1"
    device: str
    nodes: Whole = Field(ge=1, le=_NODES)
    devices_per_node: Whole = Field(ge=1, le=_PER_NODE)
    network: str | None = None
    scale_up_domain: Whole | None = Field(default=None, ge=1)
    price_usd_per_device_hour: Real | None = Field(default=None, ge=0, le=1e6, allow_inf_nan=False)
    memory_headroom: Real | None = Field(default=None, ge=0, lt=1, allow_inf_nan=False)

    _files: dict[str, Device | Fabric] = PrivateAttr(default_factory=dict)
    _abbreviation: str = PrivateAttr(default="")

    @model_validator(mode="wrap")
    @classmethod
    def _resolved(cls, data: Any, handler: ModelWrapValidatorHandler[Cluster], info: ValidationInfo) -> Cluster:
        """Names as the profiles have them, files by absolute paths and read once; shapes that no cluster has are
        refused, unless somebody measured on one."""
        said = ""
        if isinstance(data, dict):
            data, said = _resolved_names(data)
        found = handler(data)
        if names_file(found.device):
            found._files[found.device] = get_device(found.device)
        network = found.network or found.profile.network
        if names_file(network):
            found._files[network] = get_fabric(network)
        found._abbreviation = said
        if not (info.context or {}).get("measured"):
            _check_shape(found)
        return found

    @classmethod
    def measured(cls, data: dict[str, Any]) -> Cluster:
        """A cluster that somebody measured on, whatever its shape.

        Raises
        ------
        InputError
            As the class itself, but for the shape.
        """
        try:
            return cls.model_validate(data, context={"measured": True})
        except ValidationError as error:
            raise as_input_error(error, cls, "cluster") from None

    @property
    def n_devices(self) -> int:
        """All devices."""
        return self.nodes * self.devices_per_node

    @property
    def profile(self) -> Device:
        """The device's profile."""
        own = self._files.get(self.device)
        return own if isinstance(own, Device) else get_device(self.device)

    @property
    def fabric(self) -> Fabric:
        """The fabric's profile, with the bandwidth of one device."""
        name = self.network or self.profile.network
        own = self._files.get(name)
        return (own if isinstance(own, Fabric) else get_fabric(name)).shared_by(self.devices_per_node)

    @property
    def domain(self) -> int:
        """Devices in one scale-up domain: a node, or a rack where NVLink joins several nodes."""
        up = self.profile.scale_up.domain
        if self.scale_up_domain is not None:
            return self.scale_up_domain
        own = max(up, self.devices_per_node) if up > self.profile.devices_per_node else min(up, self.devices_per_node)
        return max(1, min(own, self.n_devices))

    @property
    def spans_nodes(self) -> bool:
        """Whether one scale-up domain is more than a node: a rack."""
        return self.domain > self.devices_per_node

    def tiers(self) -> tuple[Tier, ...]:
        """The network's tiers from the inside out."""
        return compile_tiers(self.profile, self.fabric, self.domain)

    def assumed(self) -> dict[str, str]:
        """What the user did not say and was taken from a profile."""
        found = self.profile.assumed()
        if self._abbreviation:
            found["device"] = f"{self.device} ({self._abbreviation})"
        if self.n_devices > self.domain:
            found |= self.fabric.assumed()
        if self.network is None and self.n_devices > self.domain:
            found["network"] = f"{self.fabric.name} (the usual fabric of {self.profile.name})"
        if self.scale_up_domain is None:
            found["scale-up domain"] = f"{counted(self.domain, 'device')} by {self.profile.scale_up.name}"
        return found

    @classmethod
    def parse(
        cls,
        text: str | Path | Mapping[str, Any] | Cluster,
        *,
        network: str | Path | None = None,
        folder: Path | None = None,
    ) -> Cluster:
        """A cluster from ``64x8xh100-sxm-80gb`` (nodes x devices per node x device; ``8xh100`` is one node), or from a
        YAML or JSON file, or a mapping, with the fields of this class. A device or a network may be the path of a file
        of its own.

        Parameters
        ----------
        network
            Comes before what the text says.
        folder
            From which relative paths of devices count; by default the current one, and for a file its own.

        Raises
        ------
        InputError
            For text of another form, zero nodes, an unknown device or fabric, a shape that no cluster has, with the
            nearest valid choice.
        """
        if network is not None:
            network = of_kind(network, (str, Path), "network", "the name or the path of a fabric profile")
        more = {} if network is None else {"network": str(network)}
        if isinstance(text, Mapping):
            return build(cls, {**dict(text), **more}, "cluster")
        if isinstance(text, Cluster):
            same = text.network == text.model_copy(update=more).network
            return text if same else text.replace(**more)
        if not isinstance(text, (str, Path)):
            raise InputError("cluster", text, "a text such as 64x8xh100-sxm-80gb, a path, a mapping or a Cluster")
        match = None if os.path.isfile(text) else _SPELLING.match(str(text))
        if match is None:
            if Path(text).suffix.lower() in (".yaml", ".yml", ".json") or os.path.isfile(text):
                path = Path(text)
                instead = 'see "Your own hardware" in docs/hardware.md'
                data = without_schema(read_yaml(path, "cluster"), SCHEMA, f"cluster {path}", instead)
                return build(cls, {**in_folder(data, path.parent), **more}, f"cluster {path}")
            example = "64x8xh100-sxm-80gb"
            raise InputError(
                "cluster", str(text), "NODESxDEVICESxDEVICE such as 64x8xh100-sxm-80gb, or a YAML file", example
            )
        nodes, per_node, name = int(match[1] or 1), int(match[2]), match[3]
        if not 1 <= nodes <= _NODES:
            near = min(max(nodes, 1), _NODES)
            raise InputError("cluster: nodes", nodes, f"a whole number from 1 to {_NODES:,}", near)
        if per_node < 1:
            raise InputError("cluster: devices per node", per_node, "a whole number of 1 or more", 1)
        data = {"nodes": nodes, "devices_per_node": per_node, "device": name}
        return build(cls, {**(in_folder(data, folder) if folder else data), **more}, "cluster")

    def replace(self, **changes: Any) -> Cluster:
        """A validated copy with other fields.

        Raises
        ------
        InputError
            As the constructor.
        """
        return build(type(self), {**self._said(), **changes}, "cluster")

    def _said(self) -> dict[str, Any]:
        """The fields as they were said."""
        return {**self.model_dump(), "device": self._abbreviation or self.device}


def in_folder(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The fields of a cluster with paths of files counted from a folder."""
    files: dict[str, Any] = {
        k: str(folder / str(data[k])) for k in ("device", "network") if k in data and names_file(data[k])
    }
    return {**data, **files}


def _resolved_names(data: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The fields with the names that profiles have and absolute paths, and what the device was called where that is an
    abbreviation."""
    found, said = dict(data), ""
    device, network = data.get("device"), data.get("network")
    if isinstance(device, (str, Path)):
        if names_file(device):
            found["device"] = str(Path(device).resolve())
        else:
            found["device"] = get_device(str(device)).name
            said = str(device).strip() if is_abbreviated(str(device)) else ""
    if isinstance(network, (str, Path)):
        found["network"] = str(Path(network).resolve()) if names_file(network) else get_fabric(str(network)).name
    return found, said


def _check_shape(cluster: Cluster) -> None:
    """Refuse more devices in a node than nodes have, and scale-up domains that do not consist of nodes or of equal
    parts of one."""
    device, per_node = cluster.profile, cluster.devices_per_node
    most = max(device.largest_node or 1, device.devices_per_node, device.scale_up.domain)
    if per_node > most:
        usual = device.devices_per_node
        name = Path(device.file).name if device.file else device.name
        near = f"{max(1, round(cluster.n_devices / usual))}x{usual}x{name}"
        allowed = f"{usual}, which a node of {device.name} has" + (f", and at most {most}" if most > usual else "")
        raise InputError("devices per node", per_node, allowed, near, why="is more than a node has")
    domain = cluster.scale_up_domain
    if domain is not None and per_node % domain and domain % per_node:
        whole = max(1, round(domain / per_node)) * per_node
        parts = [d for d in range(1, per_node) if per_node % d == 0]
        best = min([*parts, whole], key=lambda d: abs(d - domain))
        allowed = f"a divisor or a multiple of the {per_node} devices of a node"
        raise InputError("scale_up_domain", domain, allowed, best, why="cuts nodes into unequal parts")
