"""Every number of a profile says where it is from, and nothing is called fitted that no fit gives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmsim.core.provenance import Quantity
from llmsim.hardware.constants import constant_at
from llmsim.hardware.devices import device_names
from llmsim.hardware.fitted import shipped_fit
from llmsim.hardware.kernel_fits import SOURCES, KernelFit, kernel_fits
from llmsim.hardware.kernel_rates import rates_path, read_rates
from llmsim.hardware.named import get_device
from llmsim.hardware.profiles import profiles_root, read_yaml

FOLDERS = ("devices", "generations", "networks", "software")
PROFILES = [
    path for folder in FOLDERS for path in sorted((profiles_root() / folder).glob("*.yaml")) if path.stem != "kernels"
]
FIT = re.compile(r"kernels/(\w+)/([\w-]+)")
PRIOR = "where the fit to measured runs begins"


def quantities(data: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, quantity) of all in a file."""
    if isinstance(data, dict) and "provenance" in data:
        yield path, data
    elif isinstance(data, dict):
        for key, value in data.items():
            yield from quantities(value, f"{path}/{key}" if path else str(key))


def gives(fit: KernelFit, value: float) -> bool:
    return any(abs(constant.value / value - 1) < 1e-4 for constant in fit.constants.values())


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_number_says_where_it_is_from(path: Path) -> None:
    found = dict(quantities(read_yaml(path, "profile")))
    for name, own in found.items():
        assert len(own.get("source", "")) >= 10 or own["provenance"] == "datasheet", name
        assert "prior before any fit" not in own.get("source", ""), name


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_profiles_call_fitted_only_what_a_kernel_fit_gives(path: Path) -> None:
    for name, own in quantities(read_yaml(path, "profile")):
        named = FIT.findall(own.get("source", ""))
        fits = [kernel_fits(device, source) for source, device in named if source in SOURCES]
        assert None not in fits, f"{name}: {own['source']}"
        if own["provenance"] == "fitted":
            assert any(gives(fit, own["value"]) for each in fits if each is not None for fit in each.fits), name


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_what_begins_a_fit_can_be_moved_by_it(path: Path) -> None:
    for name, own in quantities(read_yaml(path, "profile")):
        key = re.sub(r"^releases/[^/]+/", "", name)
        constant = constant_at(f"{path.parent.name}/{path.stem}/{key}")
        if own.get("source", "").startswith(PRIOR):
            assert constant is not None, name
            assert constant.width is not None, f"{name}: no fit moves it"


def test_what_devices_call_fitted_is_in_a_fit() -> None:
    rates = read_rates(rates_path()).values
    for name in device_names():
        device = get_device(name)
        for key, quantity in device.kernel_rates().constants.items():
            if quantity.provenance == "fitted":
                heads = (f"generations/{device.generation}", f"devices/{name}")
                assert quantity in [rates.get(f"{head}/{key}") for head in heads], f"{name}: {key}"
    assert all(quantity.provenance == "fitted" for quantity in (*rates.values(), *shipped_fit().values.values()))


def test_rates_name_the_fit_that_gives_them() -> None:
    for path, quantity in read_rates(rates_path()).values.items():
        fit = fit_named(quantity)
        assert gives(fit, quantity.value), path
        assert f"{100 * fit.form.median:.1f} % median on withheld shapes" in quantity.source


def fit_named(quantity: Quantity) -> KernelFit:
    match = re.match(r"kernels/(\w+)/([\w-]+): (\w+), (\w+) (.+), ([\w-]+); ", quantity.source)
    assert match is not None, quantity.source
    source, device, family, library, release, format = match.groups()
    fits = kernel_fits(device, source)
    assert fits is not None
    own = [f for f in fits.fits if (f.family, f.library, f.release, f.format) == (family, library, release, format)]
    assert len(own) == 1
    return own[0]
