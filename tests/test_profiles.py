"""Profiles: every bundled one loads, every number has an origin, broken ones are named."""

import pytest

from llmsim.core.errors import InputError
from llmsim.core.provenance import Quantity
from llmsim.hardware.devices import GenerationRates, device_names
from llmsim.hardware.named import get_device
from llmsim.hardware.profiles import build, profiles_root, read_yaml
from llmsim.hardware.software import framework_name, get_software, kernel_rows, software_names

KEYS = [
    "a100-sxm-40gb",
    "a100-sxm-80gb",
    "a100-pcie-80gb",
    "h100-sxm-80gb",
    "h100-sxm-96gb-500w",
    "h200-sxm-141gb",
    "b200-sxm-180gb",
    "gb200-186gb",
    "gb300-288gb",
    "tpu-v4",
    "tpu-v5e",
    "tpu-v5p",
    "tpu-v6e",
    "v100-sxm-16gb",
    "v100-sxm-32gb",
    "h800-sxm-80gb",
    "b300-sxm-288gb",
    "mi300x-192gb",
    "mi325x-256gb",
    "mi355x-288gb",
    "tpu-v7x",
    "l40s-48gb",
    "rtx-4090-24gb",
    "cpu-avx512-2core",
]


def test_no_device_was_lost():
    assert set(KEYS) <= set(device_names())


@pytest.mark.parametrize("name", device_names())
def test_devices(name):
    device = get_device(name)
    rates = device.kernel_rates()
    assert device.peak_of("bf16") > 0
    assert device.memory_bytes.value > 1e9
    for key, fraction in rates.constants.items():
        if key.startswith("in_situ/"):
            assert 0 < fraction.value <= 1
    assert device.price.date


def test_every_bundled_device_is_known_by_its_aliases():
    for name in device_names():
        for alias in get_device(name).aliases:
            assert get_device(alias.upper()).name == name


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("NVIDIA GeForce RTX 4090", "rtx-4090-24gb"), ("NVIDIA H100 80GB HBM3", "h100-sxm-80gb"),
        ("AMD Instinct MI300X", "mi300x-192gb"), ("Apple M2 Ultra", "m2-ultra-192gb"), ("Tesla T4", "t4-16gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm-80gb"), ("NVIDIA A10G", "a10-24gb"), ("a100-80gb", "a100-sxm-80gb"),
        ("m3-ultra-256gb", "m3-ultra-256gb"), ("dgx-spark", "gb10-128gb"), ("gaudi3", "gaudi3-128gb"),
    ],
)  # fmt: skip
def test_devices_are_known_as_drivers_and_reports_name_them(said, name):
    assert get_device(said).name == name


@pytest.mark.parametrize("said", ["24 GB GPU", "NVIDIA", "tpu", "gpu", "m2-ultra-193gb"])
def test_what_names_no_device_is_refused(said):
    with pytest.raises(InputError, match="is unknown"):
        get_device(said)


def test_unknown_devices_come_with_the_nearest():
    with pytest.raises(InputError, match=r"nearest: h100-sxm-80gb"):
        get_device("h100-sxm-80gig")


def test_peaks_used_in_public_tables():
    assert get_device("a100-sxm-80gb").peak_of("bf16") == 312e12
    assert get_device("h100-sxm-80gb").peak_of("fp8") == 1979e12
    assert get_device("gb200-186gb").peak_of("bf16") == 2450e12
    assert get_device("gb300-288gb").peak_of("fp4") == 14700e12
    assert get_device("a100-sxm-80gb").peak_of("fp8") == 312e12  # what it lacks runs in 16 bits


@pytest.mark.parametrize("name", software_names())
def test_software(name):
    software = get_software(name)
    inventory = software.stack.inventory()
    for kind in kernel_rows():
        assert inventory.row(kind)
    for release in software.releases:
        get_software(name, release.replace("*", "0"))


def test_frameworks_are_known_by_other_names():
    assert framework_name("Megatron-LM") == "megatron-lm"
    assert framework_name("NeMo-Megatron-Launcher") == "nemo"
    with pytest.raises(InputError, match="torchtitan"):
        framework_name("torchtitn")


def test_releases_differ_from_their_framework():
    assert get_software("megatron-lm").stack.kernels["attention"] == "flash"
    assert get_software("megatron-lm", "2022-05").stack.kernels["attention"] != "flash"


def test_a_number_without_a_source_is_refused():
    with pytest.raises(ValueError, match="source"):
        Quantity(value=1.0, provenance="measured")
    with pytest.raises(ValueError, match="finite"):
        Quantity(value=float("nan"), provenance="assumed")


def test_an_efficiency_above_one_is_refused():
    data = read_yaml(profiles_root() / "generations" / "hopper.yaml", "generation")
    data.pop("schema")
    data["name"] = "hopper"
    data["memory_efficiency"] = {**data["memory_efficiency"], "value": 1.2}
    with pytest.raises(InputError, match=r"memory_efficiency: 1.2 .*to 1 .*nearest: 1"):
        build(GenerationRates, data, "generation hopper")


def test_an_unknown_key_is_named_with_the_nearest(tmp_path):
    data = read_yaml(profiles_root() / "generations" / "hopper.yaml", "generation")
    data.pop("schema")
    data["memory_eficiency"] = data.pop("memory_efficiency")
    with pytest.raises(InputError, match="nearest: memory_efficiency"):
        build(GenerationRates, {**data, "name": "hopper"}, "generation hopper")
    path = tmp_path / "broken.yaml"
    path.write_text("a: [1\nb: 2\n")
    with pytest.raises(InputError, match="line"):
        read_yaml(path, "profile")
