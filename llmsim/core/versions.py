"""Versions of files: which form this release reads, and what it says to a file of another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._version import __version__
from .errors import InputError

KEYS = ("schema", "schema_version")
"""Keys under which a file says its form, such as ``llmsim.fitted/1``: a kind and its version."""


def without_schema(data: Mapping[str, Any], reads: str, where: str, instead: str) -> dict[str, Any]:
    """The fields of a file without the line that says its form. A file that does not say it has the present one.

    Parameters
    ----------
    reads
        The form that this release reads.
    where
        What the file is, and its path.
    instead
        How to come by a file of that form.

    Raises
    ------
    InputError
        For a file of another form, with what was found, what is read, and the way to it.

    Examples
    --------
    >>> without_schema({"schema": "llmsim.device/1", "nodes": 2}, "llmsim.device/1", "device a.yaml", "")
    {'nodes': 2}
    """
    for key in KEYS:
        if key in data and data[key] != reads:
            raise InputError(f"{where}: {key}", data[key], reads, why=_why(str(data[key]), reads, instead))
    return {key: value for key, value in data.items() if key not in KEYS}


def _why(found: str, reads: str, instead: str) -> str:
    (kind, _, version), (own, _, known) = found.rpartition("/"), reads.rpartition("/")
    if kind != own or not version.isdecimal():
        return f"is another form than llmsim {__version__} reads here: {instead}"
    if int(version) > int(known):
        return f"is of a later release than llmsim {__version__}: upgrade llmsim, or {instead}"
    return f"is of an earlier release, and llmsim {__version__} does not read it: {instead}"
