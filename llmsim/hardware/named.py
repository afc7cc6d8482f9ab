"""Devices and fabrics by name: bundled ones, or those of a YAML file of one's own."""

from __future__ import annotations

from pathlib import Path

from .devices import Device, bundled_device
from .network import Fabric, bundled_fabric
from .own_profiles import read_device, read_fabric
from .profiles import names_file


def get_device(name: str) -> Device:
    """The device of that name or alias (``h100`` is ``h100-sxm-80gb``), or of a YAML file of one's own.

    Raises
    ------
    InputError
        For an unknown one, with the nearest names; for a file that is wrong, with the field.
    """
    return read_device(Path(name)) if names_file(name) else bundled_device(str(name))


def get_fabric(name: str) -> Fabric:
    """The fabric of that name, or of a YAML file of one's own.

    Raises
    ------
    InputError
        For an unknown one, with the nearest names; for a file that is wrong, with the field.
    """
    return read_fabric(Path(name)) if names_file(name) else bundled_fabric(name)
