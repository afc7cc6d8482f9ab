"""Devices and fabrics of one's own, from a YAML file: a profile that inherits a bundled one and states what differs, or
a whole one made from the figures of a data sheet.

A stated number is plain, in SI, or a text with a unit (``4.9 TB/s``), or a mapping with value, provenance and source.
What a device inherits brings its fitted constants with it; what a whole one leaves out is that of the typical device of
its generation. Both are marked, so that an answer can list them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.errors import InputError, nearest_names, unknown_name
from ..core.provenance import Quantity
from ..core.quantities import example
from ..core.versions import without_schema
from .constants import Constant, constants_of
from .devices import Device, bundled_device, device_names, generation_rates
from .fitted import shipped_fit
from .network import TYPICAL_FABRIC, Fabric, bundled_fabric, fabric_names
from .profile_constants import nested
from .profiles import build, names_file, profile_names, read_yaml
from .stated import (
    DEVICE_FIELDS,
    FABRIC_FIELDS,
    PEAKS,
    is_number,
    split_per_node,
    stated_count,
    stated_numbers,
    stated_quantity,
)

INHERITED, TYPICAL, SCALED, LEFT_OUT = "inherited", "typical", "scaled", "left out"
"""Whence the value of what a file does not state: from the profile that it inherits, from the typical one, scaled with
a peak, or none."""


_DEVICE_KEYS = (
    "schema", "inherits", "name", "vendor", "generation", "devices_per_node", "compute_units", "peak",
    "block_scaling", "memory_bytes",
    "memory_bandwidth", "scale_up", "network", "host_bandwidth", "host_memory_bandwidth", "host_memory_bytes",
    "power_w", "price", "in_situ", "rates", "notes",
)  # fmt: skip
_SCALE_UP_KEYS = ("name", "domain", "bandwidth", "efficiency", "latency_s", "half_bytes", "in_switch_traffic")
_FABRIC_KEYS = (
    "schema", "inherits", "name", "bandwidth", "efficiency", "latency_s", "half_bytes", "pod", "oversubscription",
    "notes",
)  # fmt: skip
_NEEDED = ("memory_bytes", "memory_bandwidth", "scale_up.bandwidth")
_NOT_PHYSICAL = ("price", "host_memory_bytes")
_DEPTH = 8
_LARGEST_NODE = 16
"""Devices that a node may have where a whole device of one's own says nothing: as many as the largest servers on sale
hold. More must be said."""


def describes_fabric(path: Path, depth: int = 0) -> bool:
    """Whether a file of one's own is a fabric rather than a device.

    Raises
    ------
    InputError
        For a file that cannot be read.
    """
    data = read_yaml(path, "profile")
    if "nodes" in data:
        allowed = "a file of a device or a fabric; llmsim plan takes clusters"
        raise InputError("profile", str(path), allowed, why="is a cluster")
    parent = data.get("inherits")
    if str(data.get("schema", "")).startswith("llmsim.network/") or parent in fabric_names():
        return True
    if isinstance(parent, str) and names_file(parent) and depth < _DEPTH:
        return describes_fabric(_beside(path, parent), depth + 1)
    return parent is None and "bandwidth" in data


def read_device(path: Path, depth: int = 0) -> Device:
    """A device from a file of one's own.

    Raises
    ------
    InputError
        For a file that cannot be read, an unknown key, a unit of another kind or an implausible number, with the
        nearest that is right; for a whole device that lacks a figure.
    """
    data, where = _read(path, "device", "llmsim.device/1", _DEVICE_KEYS)
    scale_up, peak = (_mapping(data, key, where) for key in ("scale_up", "peak"))
    _check_keys(scale_up, _SCALE_UP_KEYS, f"{where}: scale_up")
    _check_keys(peak, PEAKS, f"{where}: peak")
    parent, whole = _parent_device(path, data, where, depth)
    stated = dict(stated_numbers(data, DEVICE_FIELDS, where, path.name))
    if whole:
        _check_whole(stated, where)
    values = _inherited_values(parent, whole)
    whence = TYPICAL if whole else INHERITED
    taken = {name: whence for name in values if name not in stated}
    values, scaled = _with_peaks(values, stated, parent, whole)
    taken |= dict.fromkeys(scaled, SCALED)
    values |= stated
    if whole and "scale_up.in_switch_traffic" not in stated:
        taken["scale_up.in_switch_traffic"] = LEFT_OUT
    plain = _plain_fields(data, scale_up, parent, where, taken, whence)
    rates = _rates(_mapping(data, "rates", where), where, path.name)
    same = not whole and _same_step(values, plain, rates, parent)
    if same:
        values |= {name: own for name, own in _profile_values(parent).items() if name not in _NOT_PHYSICAL}
    if whole and parent.block_scaling and "block_scaling" not in data:
        taken["block_scaling"] = TYPICAL
    built = {
        **_nested(values),
        "block_scaling": data.get("block_scaling", parent.block_scaling),
        **{key: value for key, value in plain.items() if not key.startswith("scale_up.")},
        "rates": {**parent.rates, **rates} if not whole else rates,
        "network": _network(data, parent, path),
        "largest_node": _largest_node(data, parent, whole),
        "name": _name(path, data, where, device_names()),
        "notes": str(data.get("notes", "")),
        "file": str(path.resolve()),
        "inherits": "" if whole else parent.name,
        "taken": taken,
        "same_as": parent.fitted_as if same else "",
    }
    built["scale_up"] |= {"name": plain["scale_up.name"], "domain": plain["scale_up.domain"]}
    return build(Device, built, where)


def read_fabric(path: Path, depth: int = 0) -> Fabric:
    """A fabric from a file of one's own.

    Raises
    ------
    InputError
        As :func:`read_device`.
    """
    data, where = _read(path, "network", "llmsim.network/1", _FABRIC_KEYS)
    whole = "inherits" not in data
    if whole and "bandwidth" not in data:
        near = nearest_names(path.stem, fabric_names(), 1)
        allowed = "the bandwidth of one device such as 400 Gb/s, or inherits: NAME of a fabric"
        raise InputError(f"{where}: bandwidth", None, allowed, f"inherits: {near[0]}", why="is missing")
    parent = bundled_fabric(TYPICAL_FABRIC) if whole else _parent(path, data, where, fabric_names(), read_fabric, depth)
    per_node, data = split_per_node(data)
    stated = dict(stated_numbers(data, FABRIC_FIELDS, where, path.name))
    values = {name: getattr(parent, name) for name in FABRIC_FIELDS}
    if whole:
        values = {name: _typical(own, parent.name) for name, own in values.items()}
    shape = {key: stated_count(data, key, where) if key in data else getattr(parent, key) for key in ("pod",)}
    over = float(data["oversubscription"]) if is_number(data.get("oversubscription")) else parent.oversubscription
    if "oversubscription" in data and not (is_number(data["oversubscription"]) and over >= 1):
        raise InputError(f"{where}: oversubscription", data["oversubscription"], "a number of 1 or more", 1)
    node = per_node if "bandwidth" in stated else parent.per_node
    same = not whole and (node, shape["pod"], over) == (parent.per_node, parent.pod, parent.oversubscription)
    same = same and all(own.value == getattr(parent, name).value for name, own in stated.items())
    if not whole and not same:
        fitted = _fitted(f"networks/{parent.fitted_as}/efficiency", parent.name)
        values |= {"efficiency": fitted} if fitted else {}
    built = {
        **values,
        **({} if same else stated),
        **shape,
        "oversubscription": over,
        "per_node": node,
        "name": _name(path, data, where, fabric_names()),
        "notes": str(data.get("notes", "")),
        "file": str(path.resolve()),
        "inherits": "" if whole else parent.name,
        "taken": {name: TYPICAL if whole else INHERITED for name in values if name not in stated},
        "same_as": parent.fitted_as if same else "",
    }
    return build(Fabric, built, where)


# ---- reading a file


def _read(path: Path, kind: str, schema: str, keys: tuple[str, ...]) -> tuple[dict[str, Any], str]:
    where = f"{kind} {path}"
    data = read_yaml(path, kind)
    _check_keys(data, keys, where)
    return without_schema(data, schema, where, "begin with what `llmsim hardware --template` prints"), where


def _check_keys(data: Mapping[Any, Any], known: tuple[str, ...], where: str) -> None:
    for key, value in data.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1) or nearest_names(str(key), known, 1)
            raise InputError(f"{where}: {key}", value, ", ".join(known), near[0], why="is an unknown key")


def _mapping(data: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = data.get(key) or {}
    if not isinstance(value, dict):
        raise InputError(f"{where}: {key}", value, "a mapping of fields")
    return value


def _beside(path: Path, name: str) -> Path:
    return path.parent / name


def _parent(path: Path, data: Mapping[str, Any], where: str, names: list[str], read: Any, depth: int) -> Any:
    """The profile that a file inherits: a bundled name, or another file beside it."""
    name = data["inherits"]
    if isinstance(name, str) and names_file(name):
        if depth >= _DEPTH:
            raise InputError(f"{where}: inherits", name, f"a chain of at most {_DEPTH} files", why="goes on")
        return read(_beside(path, name), depth + 1)
    try:
        return (bundled_device if read is read_device else bundled_fabric)(str(name))
    except InputError:
        raise unknown_name(f"{where}: inherits", name, names) from None


def _parent_device(path: Path, data: Mapping[str, Any], where: str, depth: int) -> tuple[Device, bool]:
    """The device that a file starts from, and whether that is only the typical one of its generation."""
    known = profile_names("generations")
    generation = data.get("generation")
    if generation is not None and generation not in known:
        raise unknown_name(f"{where}: generation", generation, known)
    if "inherits" in data:
        return _parent(path, data, where, device_names(), read_device, depth), False
    if generation is None:
        near = [f"inherits: {n}" for n in difflib.get_close_matches(path.stem.lower(), device_names(), 1, 0.4)]
        allowed = f"the kernels that it runs like, one of {', '.join(known)}; or inherits: NAME of a device"
        raise InputError(f"{where}: generation", None, allowed, near[0] if near else None, why="is missing")
    return bundled_device(generation_rates(generation).typical_device), True


def _check_whole(stated: Mapping[str, Quantity], where: str) -> None:
    for name in _NEEDED:
        if name not in stated:
            allowed = f"a figure such as {example(DEVICE_FIELDS[name].unit)}, or inherits: NAME of a device"
            raise InputError(f"{where}: {name}", None, allowed, why="is missing")
    if not {"peak.bf16", "peak.fp16", "peak.fp32"} & set(stated):
        allowed = "the dense peak of bf16, such as peak: {bf16: 989 TFLOP/s}"
        raise InputError(f"{where}: peak", None, allowed, why="has no format to train in")


# ---- what is not stated


def _profile_values(device: Device) -> dict[str, Quantity]:
    """Path -> quantity of all that a device states."""
    found: dict[str, Quantity] = {}
    for name in DEVICE_FIELDS:
        group, _, key = name.rpartition(".")
        inside = device if not group else getattr(device, group)
        value = inside.get(key) if isinstance(inside, dict) else getattr(inside, key)
        if value is not None:
            found[name] = value
    return found


def _typical(quantity: Quantity, name: str) -> Quantity:
    return quantity.replace(provenance="assumed", error=None, source=f"typical: {name}")


def _fitted(path: str, name: str) -> Quantity | None:
    """What a fit says of the parent, as what its heir has before any run of its own."""
    own = shipped_fit().values.get(path)
    return None if own is None else own.replace(source=f"{own.source} of {name}")


def _inherited_values(parent: Device, whole: bool) -> dict[str, Quantity]:
    """Path -> quantity of the parent with its fitted constants in place of their priors; of a typical one, what data
    sheets do not state."""
    values = _profile_values(parent)
    for name in ("in_situ", "scale_up.efficiency"):
        values[name] = _fitted(f"devices/{parent.fitted_as}/{name.replace('.', '/')}", parent.name) or values[name]
    if not whole:
        return values
    left = {n: q for n, q in values.items() if not n.startswith("peak.") and n != "scale_up.in_switch_traffic"}
    return {name: _typical(own, parent.name) for name, own in left.items()}


def _with_peaks(
    values: dict[str, Quantity], stated: Mapping[str, Quantity], parent: Device, whole: bool
) -> tuple[dict[str, Quantity], list[str]]:
    """The values with the peaks of formats that a file does not state scaled as its 16-bit peak is."""
    known = next((f for f in ("bf16", "fp16") if f"peak.{f}" in stated and f in parent.peak), None)
    if whole or known is None:
        return values, []
    ratio = stated[f"peak.{known}"].value / parent.peak[known].value
    others = [n for n in values if n.startswith("peak.") and n not in stated]
    if ratio == 1 or not others:
        return values, []
    source = f"as {parent.name}, scaled with {known}"
    scaled = {
        n: Quantity(value=values[n].value * ratio, unit="FLOP/s", provenance="assumed", source=source) for n in others
    }
    return values | scaled, others


def _plain_fields(
    data: Mapping[str, Any],
    scale_up: Mapping[str, Any],
    parent: Device,
    where: str,
    taken: dict[str, str],
    whence: str,
) -> dict[str, Any]:
    """Names and whole numbers; those that are not stated are marked as taken."""
    found: dict[str, Any] = {}
    for key in ("devices_per_node", "compute_units"):
        found[key] = stated_count(data, key, where) if key in data else getattr(parent, key)
        if key not in data:
            taken[key] = whence
    for key in ("vendor", "generation"):
        found[key] = str(data.get(key, getattr(parent, key)))
    found["scale_up.name"] = str(scale_up.get("name", parent.scale_up.name if whence == INHERITED else "scale-up"))
    nodes = parent.scale_up.domain == parent.devices_per_node or whence == TYPICAL
    usual = found["devices_per_node"] if nodes else parent.scale_up.domain
    found["scale_up.domain"] = stated_count(scale_up, "domain", f"{where}: scale_up") if "domain" in scale_up else usual
    if "domain" not in scale_up and found["scale_up.domain"] == parent.scale_up.domain:
        taken["scale_up.domain"] = whence
    return found


def _rates(own: dict[str, Any], where: str, file: str) -> dict[str, Any]:
    """Overrides of a generation's kernel rates; those that runs are fitted to belong to the generation alone."""
    known = nested({c.key: c for c in constants_of("generations") if not c.key.startswith("in_situ/")})
    _check_keys(own, tuple(known), f"{where}: rates")
    found: dict[str, Any] = {}
    for key, value in own.items():
        section = known[key]
        if isinstance(section, Constant):
            found[key] = stated_quantity(value, section, f"{where}: rates.{key}", file).model_dump()
            continue
        if not isinstance(value, dict):
            raise InputError(f"{where}: rates.{key}", value, f"a mapping of {', '.join(section)}")
        _check_keys(value, tuple(section), f"{where}: rates.{key}")
        found[key] = {
            name: stated_quantity(entry, section[name], f"{where}: rates.{key}.{name}", file).model_dump()
            for name, entry in value.items()
        }
    return found


def _same_step(
    values: Mapping[str, Quantity], plain: Mapping[str, Any], rates: Mapping[str, Any], parent: Device
) -> bool:
    """Whether a device equals its parent in all that step times rest on."""
    theirs, fitted = _profile_values(parent), _inherited_values(parent, False)
    physical = [name for name in values if name not in _NOT_PHYSICAL]
    if rates or {n for n in theirs if n not in _NOT_PHYSICAL} != set(physical):
        return False
    if any(values[n].value != fitted[n].value for n in physical):
        return False
    own = plain["generation"], plain["compute_units"]
    return own == (parent.generation, parent.compute_units)


def _largest_node(data: Mapping[str, Any], parent: Device, whole: bool) -> int | None:
    """What a stated node does not exceed; where none is stated, that of the parent, or any that there is."""
    if "devices_per_node" in data:
        return None
    return _LARGEST_NODE if whole else parent.largest_node


def _network(data: Mapping[str, Any], parent: Device, path: Path) -> str:
    name = data.get("network", parent.network)
    if isinstance(name, str) and names_file(name):
        return read_fabric(_beside(path, name).resolve()).file
    return bundled_fabric(name).name


def _name(path: Path, data: Mapping[str, Any], where: str, taken: list[str]) -> str:
    """The name in answers: a stated one, else the file's; never that of a bundled profile."""
    name = data.get("name", path.stem)
    if not isinstance(name, str) or not name.strip() or len(name) > 80:
        raise InputError(f"{where}: name", name, "a text of up to 80 characters", path.stem)
    if name in taken:
        if "name" in data:
            raise InputError(f"{where}: name", name, "a name that no bundled profile has", f"my-{name}")
        return path.name
    return name


def _nested(values: Mapping[str, Quantity]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, value in values.items():
        group, _, key = path.rpartition(".")
        (found.setdefault(group, {}) if group else found)[key] = value
    return found
