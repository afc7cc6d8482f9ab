"""Measured kernels as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .fitting import Family


@dataclass(frozen=True)
class Table:
    """Measurements of one family in one library on one device.

    Attributes
    ----------
    device, library, release
        Names.
    family, format, variant
        What was measured; ``variant`` tells apart what has constants of its own (a number of devices, a distribution).
    computed
        Format of the products.
    sizes, seconds
        Of each measurement.
    file, sha256
        Where they are from.
    """

    device: str
    library: str
    release: str
    family: Family
    format: str
    variant: str
    computed: str
    sizes: dict[str, np.ndarray]
    seconds: np.ndarray
    file: str
    sha256: str
