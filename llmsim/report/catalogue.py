"""What the package knows by name: models, devices, fabrics, software."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..architecture import Architecture
from ..core.errors import unknown_name
from ..core.units import GIB, TERA, large
from ..hardware.devices import Device, device_names, get_device
from ..hardware.network import fabric_names, get_fabric
from ..hardware.software import get_software, software_names
from ..models import bundled_models
from ..training.conventions import published_flops


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
    names = Text(f"\nfabrics: {', '.join(fabric_names())}\nsoftware: {', '.join(software_names())}")
    data = {
        "schema": "llmsim.hardware/1",
        "devices": [d.name for d in devices],
        "networks": fabric_names(),
        "software": software_names(),
    }
    return Answer(data, Group(table, names))


def hardware_report(name: str) -> Answer:
    """One profile with every number's origin."""
    if name in fabric_names():
        return _profile(get_fabric(name).model_dump(), "network")
    if name in software_names():
        return _profile(get_software(name).model_dump(), "software")
    try:
        device = get_device(name)
    except Exception:
        raise unknown_name("profile", name, [*device_names(), *fabric_names(), *software_names()]) from None
    return _profile(_device_data(device), "device")


def _device_data(device: Device) -> dict[str, Any]:
    data = device.model_dump()
    data["rates"] = device.kernel_rates().model_dump()
    return data


def _profile(data: dict[str, Any], kind: str) -> Answer:
    table = Table(box=None, pad_edge=False)
    for column in (kind, "value", "unit", "origin", "source"):
        table.add_column(column, overflow="fold")
    for path, value in _leaves(data):
        if isinstance(value, dict):
            dated = f"{value['source']} {value['date']}".strip()
            table.add_row(path, _number(value["value"]), value["unit"], value["provenance"], dated)
        else:
            table.add_row(path, str(value), "", "", "")
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


def _number(value: float) -> str:
    return large(value) if abs(value) >= 1e6 else f"{value:.6g}"
