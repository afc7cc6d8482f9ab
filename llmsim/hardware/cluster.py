"""A cluster: how many nodes of which device, and the fabric between them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from ..core.arguments import of_kind
from ..core.errors import InputError
from ..core.units import counted
from .devices import Device, get_device
from .network import Fabric, Tier, compile_tiers, get_fabric
from .profiles import Checked, Real, Whole, build, read_yaml

_SPELLING = re.compile(r"^\s*(?:([0-9]{1,30})\s*[xX]\s*)?([0-9]{1,30})\s*[xX]\s*(\S+)\s*$")
_NODES, _PER_NODE = 10_000_000, 1024


class Cluster(Checked):
    """Nodes of one kind of device, joined by a fabric.

    Attributes
    ----------
    device
        Name of a device profile.
    nodes, devices_per_node
        At least 1 each.
    network
        Name of a fabric profile; None takes the device's usual one (an answer lists it under ``assumed``).
    scale_up_domain
        Devices in one scale-up domain; None takes the device's (no more than there are).
    price_usd_per_device_hour
        What a device costs you; None takes the dated price of its profile.
    memory_headroom
        Share of a device's memory that a plan leaves free; None takes the software profile's.
    schema_version
        Of this form.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal["llmsim.cluster/1"] = "llmsim.cluster/1"
    device: str
    nodes: Whole = Field(ge=1, le=_NODES)
    devices_per_node: Whole = Field(ge=1, le=_PER_NODE)
    network: str | None = None
    scale_up_domain: Whole | None = Field(default=None, ge=1)
    price_usd_per_device_hour: Real | None = Field(default=None, ge=0, le=1e6, allow_inf_nan=False)
    memory_headroom: Real | None = Field(default=None, ge=0, lt=1, allow_inf_nan=False)

    @property
    def n_devices(self) -> int:
        """All devices."""
        return self.nodes * self.devices_per_node

    @property
    def profile(self) -> Device:
        """The device's profile."""
        return get_device(self.device)

    @property
    def fabric(self) -> Fabric:
        """The fabric's profile."""
        return get_fabric(self.network or self.profile.network)

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
        found: dict[str, str] = {}
        if self.network is None and self.n_devices > self.domain:
            found["network"] = f"{self.fabric.name} (the usual fabric of {self.profile.name})"
        if self.scale_up_domain is None:
            found["scale-up domain"] = f"{counted(self.domain, 'device')} by {self.profile.scale_up.name}"
        return found

    @classmethod
    def parse(cls, text: str | Path | Mapping[str, Any] | Cluster, *, network: str | None = None) -> Cluster:
        """A cluster from ``64x8xh100-sxm-80gb`` (nodes x devices per node x device; ``8xh100`` is one node), or from a
        YAML or JSON file, or a mapping, with the fields of this class.

        Raises
        ------
        InputError
            For text of another form, zero nodes, an unknown device or fabric, with the nearest valid choice.
        """
        if network is not None:
            network = of_kind(network, str, "network", "the name of a fabric profile")
        if isinstance(text, Mapping):
            return cls._from_fields(dict(text), network, "cluster")
        if isinstance(text, Cluster):
            return text if network is None else text.model_copy(update={"network": get_fabric(network).name})
        if not isinstance(text, (str, Path)):
            raise InputError("cluster", text, "a text such as 64x8xh100-sxm-80gb, a path, a mapping or a Cluster")
        match = _SPELLING.match(str(text))
        if match is None:
            if Path(text).suffix.lower() in (".yaml", ".yml", ".json") or os.path.isfile(text):
                return cls._from_file(Path(text), network)
            example = "64x8xh100-sxm-80gb"
            raise InputError(
                "cluster", str(text), "NODESxDEVICESxDEVICE such as 64x8xh100-sxm-80gb, or a YAML file", example
            )
        nodes, per_node, name = int(match[1] or 1), int(match[2]), match[3]
        for field, value, limit in (("nodes", nodes, _NODES), ("devices per node", per_node, _PER_NODE)):
            if not 1 <= value <= limit:
                near = min(max(value, 1), limit)
                raise InputError(f"cluster: {field}", value, f"a whole number from 1 to {limit:,}", near)
        data: dict[str, Any] = {"nodes": nodes, "devices_per_node": per_node, "device": get_device(name).name}
        if network is not None:
            data["network"] = get_fabric(network).name
        return build(cls, data, "cluster")

    @classmethod
    def _from_file(cls, path: Path, network: str | None) -> Cluster:
        return cls._from_fields(read_yaml(path, "cluster"), network, f"cluster {path}")

    @classmethod
    def _from_fields(cls, data: dict[str, Any], network: str | None, where: str) -> Cluster:
        found = build(cls, data, where)
        update: dict[str, Any] = {"device": get_device(found.device).name}
        wanted = found.network if network is None else network
        if wanted is not None:
            update["network"] = get_fabric(wanted).name
        return found.model_copy(update=update)
