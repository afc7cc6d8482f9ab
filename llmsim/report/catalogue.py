"""What the package knows by name: models, devices, fabrics, software."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..architecture import Architecture
from ..core.errors import unknown_name
from ..core.quantities import readable
from ..core.units import GIB, TERA
from ..hardware.devices import Device, device_names
from ..hardware.named import get_device, get_fabric
from ..hardware.network import Fabric, fabric_names
from ..hardware.own_profiles import describes_fabric
from ..hardware.profile_constants import Profile, nested
from ..hardware.profiles import names_file
from ..hardware.software import get_software, software_names
from ..hardware.templates import template
from ..models import bundled_models
from ..timing.conventions import published_flops


@dataclass(frozen=True)
class Answer:
    """One answer for machines and for people."""

    data: dict[str, Any]
    text: RenderableType


def model_list() -> Answer:
    """All bundled models."""
    names = bundled_models()
    table = Table.grid(padding=(0, 3))
    columns = 4
    rows = -(-len(names) // columns)
    for row in range(rows):
        table.add_row(*names[row::rows])
    text = Group(table, Text("\nllmsim models NAME shows one of them"))
    return Answer({"schema": "llmsim.models/1", "models": list(names)}, text)


def model_report(name: str) -> Answer:
    """One model: its parameters, layers and FLOPs per token."""
    model = Architecture.from_config(name)
    layers = dict(Counter(model.layers))
    data: dict[str, Any] = {
        "schema": "llmsim.model/1",
        "name": model.name,
        "model_type": model.model_type,
        "parameters": model.parameters,
        "active_parameters": model.active_parameters,
        "parameters_with_mtp": model.parameters_with_mtp,
        "layers": layers,
        "hidden": model.hidden,
        "vocab": model.vocab,
        "tied": model.tied,
        "max_positions": model.max_positions,
        "no_cost_model": model.unsupported,
        "assumed": dict(model.left_out),
    }
    rows = [
        ("family", model.model_type),
        ("parameters", f"{model.parameters:,}"),
        ("active per token", f"{model.active_parameters:,}"),
        ("layers", ", ".join(f"{n} x {kind}" for kind, n in layers.items())),
        ("hidden, vocabulary", f"{model.hidden:,}, {model.vocab:,}{', tied' if model.tied else ''}"),
    ]
    if model.mtp:
        rows.append(("with multi-token prediction", f"{model.parameters_with_mtp:,}"))
    for label, kind in model.kinds.items():
        rows.append(
            (f"sizes of {label}", ", ".join(f"{k} {v}" for k, v in kind.sizes.items() if k not in ("hidden", "one")))
        )
    rows += [(key, text) for key, text in model.left_out.items()]
    if model.unsupported:
        rows.append(("not costed", model.unsupported))
    else:
        sequence = min(model.max_positions or 4096, 4096)
        flops = {k: float(v) for k, v in published_flops(model, sequence).items()}
        data["flops_per_token"] = {"sequence": sequence, **flops}
        rows += [(f"FLOPs per token, {k}, {sequence}", f"{v / 1e9:,.2f} G") for k, v in flops.items()]
    table = Table.grid(padding=(0, 2))
    for key, value in rows:
        table.add_row(key, value)
    return Answer(data, Group(Text(model.name, style="bold"), table))


def hardware_list() -> Answer:
    """All bundled profiles."""
    table = Table(box=None, pad_edge=False)
    for column in ("device", "16-bit TFLOP/s", "8-bit", "memory GiB", "TB/s", "scale-up", "GB/s", "fabric", "USD/h"):
        table.add_column(column, justify="left" if column in ("device", "scale-up", "fabric") else "right")
    devices = [get_device(n) for n in device_names()]
    for device in devices:
        eight = device.peak.get("fp8")
        table.add_row(
            device.name,
            f"{device.peak_of('bf16') / TERA:,.4g}",
            f"{eight.value / TERA:,.4g}" if eight else "",
            f"{device.memory_bytes.value / GIB:.0f}",
            f"{device.memory_bandwidth.value / 1e12:.3g}",
            f"{device.scale_up.name} x{device.scale_up.domain}",
            f"{device.scale_up.bandwidth.value / 1e9:,.0f}",
            device.network,
            f"{device.price.value:.2f}",
        )
    names = Text(
        f"\nfabrics: {', '.join(fabric_names())}\nsoftware: {', '.join(software_names())}\n"
        "one of your own: llmsim hardware --template NAME prints a file to change; its path then works as a name"
    )
    data = {
        "schema": "llmsim.hardware/1",
        "devices": [d.name for d in devices],
        "networks": fabric_names(),
        "software": software_names(),
    }
    return Answer(data, Group(table, names))


def hardware_report(name: str) -> Answer:
    """One profile with every number's origin."""
    if names_file(name):
        own = get_fabric(name) if describes_fabric(Path(name)) else get_device(name)
        return _own_profile(own)
    if name in fabric_names():
        return _profile(_without_file(get_fabric(name).model_dump()), "network")
    if name in software_names():
        return _profile(_sections(get_software(name)), "software")
    try:
        device = get_device(name)
    except Exception:
        raise unknown_name("profile", name, [*device_names(), *fabric_names(), *software_names()]) from None
    return _profile(_without_file(_device_data(device)), "device")


def hardware_template(name: str) -> Answer:
    """A device or a fabric as a file to be changed."""
    text = template(name)
    return Answer({"schema": "llmsim.template/1", "template": text}, Text(text.rstrip("\n")))


_OF_FILES = ("file", "inherits", "taken", "same_as")


def _without_file(data: dict[str, Any]) -> dict[str, Any]:
    """A bundled profile without what only files of one's own have."""
    return {key: value for key, value in data.items() if key not in (*_OF_FILES, "per_node")}


def _own_profile(own: Device | Fabric) -> Answer:
    """A file of one's own as it was read, with what it does not state marked."""
    data = _device_data(own) if isinstance(own, Device) else own.model_dump()
    shown = {key: value for key, value in data.items() if key not in ("taken", "same_as")}
    shown["file"] = Path(own.file).name
    if isinstance(own, Device):
        shown["network"] = get_fabric(own.network).name
    elif not own.per_node:
        del shown["per_node"]
    answer = _profile(shown, "device" if isinstance(own, Device) else "network", own.taken)
    notes = Table.grid(padding=(0, 2))
    for key, text in own.assumed().items():
        notes.add_row(key, text)
    heading = Text("\nDefaults of what the file does not state", style="bold")
    return Answer({**answer.data, **data, "assumed": own.assumed()}, Group(answer.text, heading, notes))


def _sections(profile: Profile) -> dict[str, Any]:
    """A profile with its constants in the sections that its file has."""
    data = profile.model_dump()
    return {**data, **nested(data.pop("constants"))}


def _device_data(device: Device) -> dict[str, Any]:
    data = device.model_dump()
    data["rates"] = _sections(device.kernel_rates())
    return data


def _profile(data: dict[str, Any], kind: str, taken: Mapping[str, str] | None = None) -> Answer:
    table = Table(box=None, pad_edge=False)
    for column in (kind, "value", "unit", "origin", "source"):
        table.add_column(column, overflow="fold")
    for path, value in _leaves(data):
        mark = (taken or {}).get(path, "")
        if isinstance(value, dict):
            dated = f"{value['source']} {value['date']}".strip()
            origin = ", ".join(part for part in (mark, value["provenance"]) if part)
            table.add_row(path, *readable(value["value"], value["unit"]), origin, dated)
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            table.add_row(path, shown, "", mark, "")
    return Answer({"schema": f"llmsim.{kind}/1", **data}, Group(Text(str(data["name"]), style="bold"), table))


def _leaves(data: dict[str, Any], path: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in data.items():
        where = f"{path}.{key}" if path else str(key)
        if isinstance(value, dict) and "provenance" not in value:
            found += _leaves(value, where)
        elif value not in ("", (), {}, None):
            found.append((where, value))
    return found
