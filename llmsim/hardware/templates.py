"""A bundled device or fabric as a commented file to make one's own from; saved unchanged it plans the same."""

from __future__ import annotations

from collections.abc import Mapping

from ..core.errors import InputError, unknown_name
from ..core.provenance import Quantity
from ..core.quantities import written
from .constants import Constant
from .devices import Device, bundled_device, device_names
from .fitted import shipped_fit
from .network import Fabric, bundled_fabric, fabric_names
from .profiles import names_file, profile_names
from .stated import DEVICE_FIELDS, FABRIC_FIELDS

_HEAD = """# {file}
# A {kind} of your own. Change what differs from {name} and delete the other lines: what is not here is inherited.
# Numbers are in SI, or carry a unit: {units}. Who measured a number can say so:
#   {example}
# `llmsim hardware {file}` shows what was read; `{use}` plans with it.
"""


def template(name: str) -> str:
    """The file of a bundled device or fabric, to be changed.

    Raises
    ------
    InputError
        For another name, with the nearest.
    """
    if name in fabric_names():
        return _fabric(bundled_fabric(name))
    try:
        if names_file(name):
            raise InputError("template", name)
        return _device(bundled_device(name))
    except InputError:
        raise unknown_name("template", name, [*device_names(), *fabric_names()]) from None


def _device(device: Device) -> str:
    head = _HEAD.format(
        file="my-device.yaml",
        kind="device",
        name=device.name,
        units="989 TFLOP/s, 96 GB, 4.9 TB/s, 400 Gb/s, 5 us",
        example="memory_bandwidth: {value: 3.9 TB/s, provenance: measured, source: our stream test}",
        use="--cluster 8x8xmy-device.yaml",
    )
    lines = [
        f"inherits: {device.name} # without it: generation, peak, memory_* and scale_up.bandwidth must be there",
        f"generation: {device.generation} # whose kernels it runs: {', '.join(profile_names('generations'))}",
        f"devices_per_node: {device.devices_per_node}",
        f"compute_units: {device.compute_units} # streaming multiprocessors, compute units or cores",
        "peak: # dense, without sparsity; formats that are left out are scaled with the 16-bit one",
        *(f"  {_line(name, quantity, '')}" for name, quantity in device.peak.items()),
        f"block_scaling: [{', '.join(device.block_scaling)}] # of mxfp8, mxfp4 and nvfp4 those multiplied natively",
    ]
    fitted = {f"scale_up.{k}": f"devices/{device.name}/scale_up/{k}" for k in ("efficiency",)}
    fitted["in_situ"] = f"devices/{device.name}/in_situ"
    for path, field in DEVICE_FIELDS.items():
        group, _, key = path.rpartition(".")
        if group == "peak":
            continue
        if path == "scale_up.bandwidth":
            lines += ["scale_up:", f"  name: {device.scale_up.name}", f"  domain: {device.scale_up.domain}"]
        quantity = getattr(device.scale_up if group else device, key)
        if quantity is not None:
            lines.append("  " * bool(group) + _field(path, key, field, quantity, fitted))
    lines.append(f"network: {device.network} # the usual fabric: a profile, or the path of a file like this one")
    return head + "\n".join(lines) + "\n"


def _fabric(fabric: Fabric) -> str:
    head = _HEAD.format(
        file="my-fabric.yaml",
        kind="fabric",
        name=fabric.name,
        units="400 Gb/s, 25 GB/s, 200 Gb/s per node, 20 us",
        example="efficiency: {value: 0.9, provenance: measured, source: our nccl-tests}",
        use="--network my-fabric.yaml",
    )
    lines = [f"inherits: {fabric.name} # without it: bandwidth must be there"]
    fitted = {"efficiency": f"networks/{fabric.name}/efficiency"}
    lines += [_field(key, key, field, getattr(fabric, key), fitted) for key, field in FABRIC_FIELDS.items()]
    if fabric.pod is not None:
        lines.append(f"pod: {fabric.pod} # devices under one non-blocking switch tree")
    lines.append(f"oversubscription: {fabric.oversubscription:g} # by which bandwidth shrinks beyond a pod")
    return head + "\n".join(lines) + "\n"


def _field(path: str, key: str, field: Constant, quantity: Quantity, fitted: Mapping[str, str]) -> str:
    """The line of a quantity; of one that runs are fitted to, as a comment: stated, it would lose what they say."""
    if path not in fitted:
        return _line(key, quantity, field.meaning)
    own = shipped_fit().values.get(fitted[path], quantity)
    return f"# {_line(key, own, field.meaning)}"


def _line(key: str, quantity: Quantity, meaning: str) -> str:
    dated = " ".join(part for part in (quantity.source, quantity.date) if part)
    note = "; ".join(part for part in (meaning, f"{quantity.provenance}: {dated}") if part)
    return f"{key}: {written(quantity.value, quantity.unit)} # {note}"
