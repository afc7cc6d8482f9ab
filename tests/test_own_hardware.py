"""Devices and fabrics of one's own: read from files, planned like profiles, wrong ones refused by name."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from command_line import MODEL, STEP, _run, plan, refused, run, simulate

from llmsim import Cluster, InputError, TrainingPlan, compare, simulate_training
from llmsim.core.quantities import parse_quantity, readable, written
from llmsim.hardware.devices import device_names, generation_rates
from llmsim.hardware.fitted import shipped_fit
from llmsim.hardware.named import get_device, get_fabric
from llmsim.hardware.network import fabric_names
from llmsim.hardware.profiles import profile_names
from llmsim.hardware.templates import template
from llmsim.plans.precision import default_precision, device_recipes

H20 = """
generation: hopper
compute_units: 78
peak: {bf16: 148 TFLOP/s, fp8: 296 TFLOP/s}
memory_bytes: 96 GB
memory_bandwidth: 4.0 TB/s
scale_up: {bandwidth: 450 GB/s}
power_w: 400
"""
GH200 = """
inherits: h100-sxm-80gb
devices_per_node: 4
memory_bytes: 96 GB
memory_bandwidth: 4.0e12
host_bandwidth: 450 GB/s
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _run.cache_clear()  # the same arguments mean other files
    return tmp_path


def file(name, text):
    Path(name).write_text(text, encoding="utf-8")
    return name


def step(cluster, **fields):
    return simulate_training(TrainingPlan(**{**STEP, **fields}), MODEL, cluster)


# ---- quantities


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("4.9 TB/s", "B/s", 4.9e12), ("400 Gb/s", "B/s", 50e9), ("400Gbps", "B/s", 50e9), ("400 gbps", "B/s", 50e9),
        ("400 Gbit/s", "B/s", 50e9), ("25 GB/s", "B/s", 25e9), ("1 GiB/s", "B/s", 2**30), ("96 GB", "B", 96e9),
        ("80 GiB", "B", 80 * 2**30), ("989 TFLOP/s", "FLOP/s", 989e12), ("989 TFLOPS", "FLOP/s", 989e12),
        ("1.979 PFLOPs/s", "FLOP/s", 1979e12), ("5 us", "s", 5e-6), ("0.02 ms", "s", 2e-5), ("0.7 kW", "W", 700.0),
        ("$3.5/h", "USD/h", 3.5), ("3.5 USD/h", "USD/h", 3.5), ("80 %", "1", 0.8), ("7e1", "W", 70),
        ("1_000 GB", "B", 10**12), ("1,000 GB", "B", 10**12), ("2 s", "s", 2), ("2 ms", "s", 2e-3), ("2 us", "s", 2e-6),
        ("2 µs", "s", 2e-6),
        ("2 μs", "s", 2e-6), ("2 ns", "s", 2e-9),
    ],
)  # fmt: skip
def test_quantities_as_people_write_them(text, unit, value):
    assert parse_quantity(text, unit, "x") == value


def test_prefixes_are_powers():
    for power, prefix in enumerate(("", "k", "M", "G", "T", "P", "E")):
        assert parse_quantity(f"3 {prefix}B", "B", "x") == 3 * 1000**power
        assert parse_quantity(f"3 {prefix}FLOP/s", "FLOP/s", "x") == 3 * 1000**power
    for power, prefix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi"), start=1):
        assert parse_quantity(f"3 {prefix}B", "B", "x") == 3 * 1024**power
    assert parse_quantity("3 KB/s", "B/s", "x") == 3000


@pytest.mark.parametrize(
    ("text", "unit", "near"),
    [("4.9 TB", "B/s", "4.9 TB/s"), ("96 GB/s", "B", "96 GB"), ("96 Gb", "B", "96 GB"), ("989 TOPS", "FLOP/s", "989 T"),
     ("5 W", "s", "5 us"), ("many", "B", "96 GB"), (True, "B", "96 GB"), ("nan", "B", "96 GB"),
     (float("inf"), "B", "96 GB"),
     ("1e999 GB", "B", "96 GB"), ("9" * 5000, "B", "96 GB")],
)  # fmt: skip
def test_units_of_another_kind_are_refused_with_a_right_one(text, unit, near):
    with pytest.raises(InputError, match="nearest: ") as error:
        parse_quantity(text, unit, "x")
    assert near in str(error.value)


def test_what_is_written_is_read_back():
    for name in device_names():
        for quantity in get_device(name).peak.values():
            assert parse_quantity(written(quantity.value, quantity.unit), quantity.unit, "x") == quantity.value
    assert written(85017493504, "B") == "85017493504 B"
    assert readable(85017493504, "B") == ("85.0175", "GB")


def test_long_texts_are_no_quantities():
    assert parse_quantity(f"1{'0' * 96} GB", "B", "x") == pytest.approx(1e105)
    with pytest.raises(InputError):
        parse_quantity(f"1{'0' * 97} GB", "B", "x")


def test_units_change_at_their_own_size():
    assert [written(x, "B/s") for x in (999.0, 1e3, 1e9)] == ["999 B/s", "1 kB/s", "1 GB/s"]
    assert [written(x, "s") for x in (2.0, 1.0, 2e-3, 2e-6)] == ["2 s", "1 s", "2 ms", "2 us"]


# ---- templates


@pytest.mark.parametrize("name", device_names())
def test_templates_of_devices_saved_unchanged_are_the_device(name, folder):
    file("mine.yaml", template(name))
    own, profile = get_device("mine.yaml"), get_device(name)
    assert own.same_as == name
    nodes = f"2x{profile.devices_per_node}x"
    fields = {"data_parallel": 2 * profile.devices_per_node, "precision": default_precision(profile)}
    here, there = step(f"{nodes}mine.yaml", **fields), step(nodes + name, **fields)
    assert (here.step_time_s, here.step_interval_s) == (there.step_time_s, there.step_interval_s)
    assert here.provenance == there.provenance


def test_formats_with_scales_are_inherited_and_can_be_stated(folder):
    file("mine.yaml", template("b200-sxm-180gb"))
    assert device_recipes(get_device("mine.yaml")) == device_recipes(get_device("b200-sxm-180gb"))
    file("less.yaml", "inherits: b200-sxm-180gb\nblock_scaling: [mxfp8]\n")
    assert {"mxfp8"} == {"mxfp8", "nvfp4"} & set(device_recipes(get_device("less.yaml")))
    file("wrong.yaml", "inherits: b200-sxm-180gb\nblock_scaling: [mxfp9]\n")
    with pytest.raises(InputError, match="block_scaling"):
        get_device("wrong.yaml")


@pytest.mark.parametrize("name", fabric_names())
def test_templates_of_fabrics_saved_unchanged_are_the_fabric(name, folder):
    file("mine.yaml", template(name))
    assert get_fabric("mine.yaml").same_as == name
    here, there = (step(Cluster.parse("2x8xh100-sxm-80gb", network=n), data_parallel=16) for n in ("mine.yaml", name))
    assert here.step_time_s == there.step_time_s


def test_templates_of_unknown_names_come_with_the_nearest():
    assert "nearest: h100-sxm-80gb" in refused("hardware", "--template", "h100x")
    assert "nearest: infiniband" in refused("hardware", "--template", "infiniband")
    assert "one of the two" in refused("hardware", "h100", "--template", "h100")


def test_templates_are_printed_whole():
    assert run("hardware", "--template", "h100-sxm-80gb") == template("h100-sxm-80gb")
    assert json.loads(run("hardware", "--template", "h100", "--json"))["template"] == template("h100-sxm-80gb")


# ---- devices


def test_a_device_that_inherits_has_what_it_states_and_the_rest_of_its_parent(folder):
    own, parent = get_device(file("gh200.yaml", GH200)), get_device("h100-sxm-80gb")
    assert (own.name, own.memory_bytes.value, own.memory_bandwidth.value) == ("gh200", 96e9, 4e12)
    assert own.peak == parent.peak
    assert own.scale_up.domain == own.devices_per_node == 4
    assert own.memory_bytes.provenance == "datasheet"
    assert own.memory_bytes.source == "gh200.yaml"
    assert own.taken["peak.bf16"] == "inherited"
    assert "memory_bytes" not in own.taken
    fitted = shipped_fit().values["devices/h100-sxm-80gb/in_situ"]
    assert own.in_situ.value == fitted.value != parent.in_situ.value


def test_a_whole_device_takes_what_is_typical_of_its_generation(folder):
    own = get_device(file("h20.yaml", H20))
    assert set(own.peak) == {"bf16", "fp8"}
    assert (own.compute_units, own.power_w.value, own.scale_up.in_switch_traffic) == (78, 400.0, None)
    assert own.taken["in_situ"] == own.taken["scale_up.efficiency"] == "typical"
    assert own.scale_up.efficiency.provenance == "assumed"
    assert own.kernel_rates() == get_device("h100-sxm-80gb").kernel_rates()


def test_every_generation_has_a_typical_device():
    for name in profile_names("generations"):
        assert get_device(generation_rates(name).typical_device).generation == name


def test_peaks_that_are_left_out_follow_the_16_bit_one(folder):
    own = get_device(file("half.yaml", "inherits: h100-sxm-80gb\npeak: {bf16: 494.5 TFLOP/s}\n"))
    parent = get_device("h100-sxm-80gb")
    assert own.peak["fp8"].value == pytest.approx(parent.peak["fp8"].value / 2)
    assert own.peak["fp8"].provenance == "assumed"
    assert own.taken["peak.fp8"] == "scaled"


def test_numbers_may_say_who_measured_them(folder):
    text = "inherits: h100\nmemory_bandwidth: {value: 3.1, unit: TB/s, provenance: measured, source: x, error: 0.02}\n"
    quantity = get_device(file("mine.yaml", text)).memory_bandwidth
    assert (quantity.value, quantity.provenance, quantity.source, quantity.error) == (
        3.1e12,
        "measured",
        "x",
        0.02,
    )
    text = "inherits: h100\nrates: {gemm_efficiency: {16bit: 0.8}, kernel_latency_s: 5 us}\n"
    rates = get_device(file("mine.yaml", text)).kernel_rates()
    assert (rates.constants["gemm_efficiency/16bit"].value, rates.constants["kernel_latency_s"].value) == (0.8, 5e-6)
    assert (
        rates.constants["gemm_efficiency/8bit"] == get_device("h100").kernel_rates().constants["gemm_efficiency/8bit"]
    )


def test_files_inherit_files(folder):
    file("base.yaml", GH200)
    own = get_device(file("more.yaml", "inherits: base.yaml\nmemory_bytes: 144 GB\nmemory_bandwidth: 4.9 TB/s\n"))
    assert (own.memory_bytes.value, own.host_bandwidth.value, own.inherits) == (144e9, 450e9, "base")
    file("loop.yaml", "inherits: loop.yaml\n")
    assert "chain" in refused("hardware", "loop.yaml")


def test_faster_memory_and_slower_peaks_move_the_step(folder):
    file("h100.yaml", "inherits: h100-sxm-80gb\nmemory_bytes: 96 GB\n")
    file("memory.yaml", "inherits: h100-sxm-80gb\nmemory_bandwidth: 6.7 TB/s\n")
    file("peak.yaml", "inherits: h100-sxm-80gb\npeak: {bf16: 500 TFLOP/s}\n")
    usual, memory, peak = (step(f"1x8x{n}.yaml").step_time_s for n in ("h100", "memory", "peak"))
    assert memory < usual < peak
    assert usual == step("1x8xh100-sxm-80gb").step_time_s


def test_intervals_of_own_devices_are_those_of_new_hardware(folder):
    file("gh200.yaml", GH200)
    own, known = step("2x4xgh200.yaml"), step("1x8xh100-sxm-80gb")
    assert own.step_width > known.step_width
    assert own.provenance["extrapolated"] > 0.5
    assert "fitted" not in own.provenance


def test_answers_list_what_a_file_leaves_open(folder):
    file("h20.yaml", H20)
    file("slow.yaml", "bandwidth: 200 Gb/s per node\n")
    assumed = step(Cluster.parse("2x8xh20.yaml", network="slow.yaml"), data_parallel=16).assumed
    assert assumed["device"] == "h20 (h20.yaml): no measured runs"
    assert "in_situ" in assumed["typical"]
    assert "h100-sxm-80gb" in assumed["typical"]
    assert "memory_bytes" not in " ".join(assumed.values()).replace("host_memory_bytes", "")
    assert assumed["kernel rates"] == "those of generation hopper, fitted on other devices"
    assert assumed["left out"].startswith("scale_up.in_switch_traffic")
    assert assumed["fabric"] == "slow (slow.yaml): no measured runs"
    assert "efficiency" in assumed["fabric, typical"]


def test_abbreviated_devices_are_listed():
    for text in ("1x8xh100", "8xh100"):
        assert step(text).assumed["device"] == "h100-sxm-80gb (h100)"
    assert "device" not in step("1x8xH100-SXM-80GB").assumed
    assert Cluster(device="h100", nodes=1, devices_per_node=8).device == "h100-sxm-80gb"
    assert compare(["llama-3.2-1b", "llama-3-8b"], [4096], device="h100").assumed["device"] == "h100-sxm-80gb (h100)"


# ---- fabrics


def test_a_node_s_bandwidth_is_shared_by_its_devices(folder):
    file("node.yaml", "bandwidth: 200 Gb/s per node\n")
    file("device.yaml", "bandwidth: 25 Gb/s per device\n")
    clusters = [Cluster.parse("2x8xh100-sxm-80gb", network=n) for n in ("node.yaml", "device.yaml")]
    assert [c.fabric.bandwidth.value for c in clusters] == [25e9 / 8, 25e9 / 8]
    assert step(clusters[0], data_parallel=16).step_time_s == step(clusters[1], data_parallel=16).step_time_s
    four = Cluster.parse("4x4xh100-sxm-80gb", network="node.yaml")
    assert four.fabric.bandwidth.value == 25e9 / 4


def test_a_fabric_that_inherits_has_the_fitted_efficiency_of_its_parent(folder):
    own = get_fabric(
        file("mine.yaml", "inherits: infiniband-ndr-400\nbandwidth: 25 GB/s\npod: 512\noversubscription: 2\n")
    )
    assert own.efficiency.value == shipped_fit().values["networks/infiniband-ndr-400/efficiency"].value
    assert (own.pod, own.oversubscription) == (512, 2.0)
    assert [t.name for t in Cluster.parse("128x8xh100", network="mine.yaml").tiers()][1:] == ["mine", "spine"]


# ---- where files are named


def test_files_beside_a_cluster_file(folder):
    rack = folder / "rack"
    rack.mkdir()
    (rack / "h20.yaml").write_text(H20 + "network: slow.yaml\n")
    (rack / "slow.yaml").write_text("bandwidth: 200 Gb/s per node\n")
    (rack / "cluster.yaml").write_text("device: h20.yaml\nnodes: 2\ndevices_per_node: 8\nnetwork: slow.yaml\n")
    cluster = Cluster.parse("rack/cluster.yaml")
    assert cluster.device == str((rack / "h20.yaml").resolve())
    assert (cluster.profile.name, cluster.fabric.name) == ("h20", "slow")
    plain = Cluster.parse("2x8xrack/h20.yaml")
    assert plain.fabric.name == "slow"
    assert plain.n_devices == 16
    assert pickle.loads(pickle.dumps(cluster)) == cluster
    assert "2x8xh20" in run(*simulate(cluster="rack/cluster.yaml", data_parallel=16))


def test_a_file_that_changes_is_read_again(folder):
    file("mine.yaml", GH200)
    before = step("2x4xmine.yaml").step_time_s
    file("mine.yaml", GH200 + "peak: {bf16: 500 TFLOP/s}\n")
    assert step("2x4xmine.yaml").step_time_s > before


def test_own_devices_are_planned_and_compared_and_calibrated(folder):
    file("gh200.yaml", GH200)
    assert "no measured runs" in run(*plan(cluster="2x4xgh200.yaml"))
    assert compare(["llama-3.2-1b"], [4096], device="gh200.yaml").assumed["device"].startswith("gh200")
    text = "model: llama-3.2-1b\ncluster: 2x4xgh200.yaml\nstep_time_s: 0.22\nplan: {sequence_length: 2048, "
    file("run.yaml", text + "global_batch_size: 32, data_parallel: 8}\n")
    assert "run.yaml" in run("calibrate", "run.yaml", "--profile", "own")
    fit = Path("own.yaml").read_text()
    assert "gh200" in fit


# ---- what is shown


def test_hardware_shows_what_was_read(folder):
    file("h20.yaml", H20)
    text = run("hardware", "h20.yaml")
    for words in ("148 TFLOP/s datasheet h20.yaml", "8 typical", "no measured runs", "0.8 1 typical, assumed"):
        assert words in " ".join(text.split())
    data = json.loads(run("hardware", "h20.yaml", "--json"))
    assert data["schema"] == "llmsim.device/1"
    assert data["taken"]["in_situ"] == "typical"
    file("slow.yaml", "bandwidth: 200 Gb/s per node\n")
    assert json.loads(run("hardware", "slow.yaml", "--json"))["schema"] == "llmsim.network/1"


def test_hardware_knows_a_cluster_from_a_device(folder):
    file("cluster.yaml", "device: h100\nnodes: 1\ndevices_per_node: 8\n")
    assert "is a cluster" in refused("hardware", "cluster.yaml")


def test_nodes_of_a_device_that_does_not_say_how_many_may_be_as_large_as_any(folder):
    file("h20.yaml", H20)
    assert Cluster.parse("16xh20.yaml").n_devices == 16
    with pytest.raises(InputError, match=r"nearest: 3x8xh20\.yaml"):
        Cluster.parse("24xh20.yaml")


# ---- what is refused


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (H20.replace("memory_bytes", "memory_byte"), ["memory_byte:", "unknown key", "nearest: memory_bytes"]),
        (H20.replace("bandwidth: 450", "bandwith: 450"), ["scale_up: bandwith", "nearest: bandwidth"]),
        (H20.replace("bf16:", "bf18:"), ["peak: bf18", "unknown key", "nearest: bf16"]),
        (H20.replace("96 GB", "96 GB/s"), ["memory_bytes: '96 GB/s'", "has the unit 'GB/s'", "nearest: 96 GB"]),
        (H20.replace("4.0 TB/s", "4.0 TB"), ["memory_bandwidth", "nearest: 4.0 TB/s"]),
        (H20.replace("96 GB", "96"), ["memory_bytes: 96", "not plausible", "nearest: 96 GB"]),
        (H20.replace("4.0 TB/s", "4.0"), ["memory_bandwidth: 4.0", "not plausible", "nearest: 4 TB/s"]),
        (H20.replace("148 TFLOP/s", "148"), ["peak.bf16: 148", "nearest: 148 TFLOP/s"]),
        (H20.replace("96 GB", "-1"), ["memory_bytes: -1", "not plausible"]),
        (H20.replace("96 GB", ".nan"), ["memory_bytes: nan", "finite"]),
        (H20.replace("generation: hopper\n", ""), ["generation", "is missing", "one of ada, ampere", "inherits: NAME"]),
        (H20.replace("hopper", "hoper"), ["generation: 'hoper'", "nearest: hopper"]),
        (H20.replace("memory_bytes: 96 GB\n", ""), ["memory_bytes", "is missing"]),
        (H20.replace("bf16: 148 TFLOP/s, ", ""), ["peak", "no format to train in"]),
        (H20.replace("scale_up: {bandwidth: 450 GB/s}\n", ""), ["scale_up.bandwidth", "is missing"]),
        (H20.replace("scale_up: {", "scale_up: {efficiency: 80, "), ["efficiency: 80", "nearest: 0.8"]),
        (H20.replace("scale_up: {", "scale_up: {latency_s: 5, "), ["latency_s: 5", "nearest: 5 us"]),
        (H20.replace("scale_up: {", "scale_up: {domain: many, "), ["domain: 'many'", "whole number"]),
        (H20.replace("scale_up: {bandwidth: 450 GB/s}", "scale_up: 3"), ["scale_up: 3", "mapping"]),
        (H20.replace("78", "true"), ["compute_units: True", "whole number"]),
        (H20 + "network: infini\n", ["network: 'infini'", "nearest: infiniband"]),
        (H20 + "network: absent.yaml\n", ["absent.yaml", "No such file"]),
        (H20 + "name: h100-sxm-80gb\n", ["name: 'h100-sxm-80gb'", "nearest: my-h100-sxm-80gb"]),
        (H20 + "rates: {in_situ: {attention: 0.9}}\n", ["rates: in_situ", "unknown key"]),
        (H20 + "rates: {gemm_efficiency: {16bit: 1.2}}\n", ["rates.gemm_efficiency.16bit: 1.2", "nearest: 1"]),
        (H20 + "schema: llmsim.device/9\n", ["schema: 'llmsim.device/9'", "llmsim.device/1"]),
        ("inherits: h100x\n", ["inherits: 'h100x'", "nearest: h100-sxm-80gb"]),
        ("inherits: [h100]\n", ["inherits", "is unknown"]),
        ("inherits: absent.yaml\n", ["absent.yaml", "No such file"]),
        ("inherits: h100\nmemory_bandwidth: {value: 3 TB/s, sourc: x}\n", ["sourc", "nearest: source"]),
        ("inherits: h100\nmemory_bandwidth: {provenance: measured}\n", ["memory_bandwidth", "mapping with value"]),
        ("inherits: h100\nmemory_bandwidth: {value: 3 TB/s, provenance: guessed}\n", ["'guessed'", "nearest: assumed"]),
        ("- 1\n", ["holds a list"]),
        ("a: [1\n", ["is broken"]),
    ],
)  # fmt: skip
def test_wrong_devices(text, words, folder):
    file("mine.yaml", text)
    for arguments in (["hardware", "mine.yaml"], simulate(cluster="1x8xmine.yaml")):
        message = refused(*arguments, "--json")
        for word in words:
            assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bandwith: 25 GB/s\n", ["bandwith", "unknown key", "nearest: bandwidth"]),
        ("bandwidth: 25 GB\n", ["bandwidth: '25 GB'", "nearest: 25 GB/s"]),
        ("bandwidth: 400\n", ["bandwidth: 400", "not plausible", "nearest: 400 GB/s"]),
        ("efficiency: 0.8\n", ["bandwidth", "is missing", "inherits: "]),
        ("bandwidth: 25 GB/s\nefficiency: 1.5\n", ["efficiency: 1.5", "nearest"]),
        ("bandwidth: 25 GB/s\npod: 0\n", ["pod: 0", "nearest: 1"]),
        ("bandwidth: 25 GB/s\noversubscription: 0.5\n", ["oversubscription: 0.5", "nearest: 1"]),
        ("inherits: infini\n", ["inherits: 'infini'", "nearest: infiniband"]),
    ],
)
def test_wrong_fabrics(text, words, folder):
    file("mine.yaml", text)
    message = refused(*plan(network="mine.yaml"))
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "near"),
    [("64xh100", "8x8xh100-sxm-80gb"), ("16xh100", "2x8xh100-sxm-80gb"), ("100xh100", "12x8xh100-sxm-80gb"),
     ("4x100xh100", "50x8xh100-sxm-80gb"), ("1x12xmine.yaml", "3x4xmine.yaml"), ("1x144xgb200-186gb", "36x4xgb200")],
)  # fmt: skip
def test_nodes_that_nobody_builds_come_with_the_nearest(text, near, folder):
    file("mine.yaml", GH200)
    with pytest.raises(InputError, match="devices per node") as error:
        Cluster.parse(text)
    assert f"nearest: {near}" in str(error.value)


@pytest.mark.parametrize(
    "text", ["4xa100-sxm-80gb", "2xrtx-4090-24gb", "16xv100-sxm-32gb", "72xgb200", "18x4xgb200", "1x256xtpu-v5e",
             "16xa100-sxm-40gb", "10xl40s", "1x1xcpu-avx512-2core", "3xh100", "8xh100"]
)  # fmt: skip
def test_nodes_that_there_are(text):
    assert Cluster.parse(text).n_devices >= 1


def test_scale_up_domains_consist_of_nodes_or_of_parts_of_one():
    for domain in (1, 2, 4, 8, 16, 64):
        assert Cluster(device="h100", nodes=8, devices_per_node=8, scale_up_domain=domain).domain == domain
    for domain, near in ((7, 8), (3, 2), (12, 16), (30, 32)):
        with pytest.raises(InputError, match=f"scale_up_domain: {domain} .*nearest: {near}$"):
            Cluster(device="h100", nodes=8, devices_per_node=8, scale_up_domain=domain)


def test_measured_clusters_have_any_shape():
    shape = {"device": "h100-sxm-80gb", "nodes": 1, "devices_per_node": 48, "scale_up_domain": 7}
    assert Cluster.measured(shape).n_devices == 48
