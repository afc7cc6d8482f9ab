"""Interconnects in the words of sources: bits and bytes, of a device, a node or each of so many adapters."""

from __future__ import annotations

import pytest
from run_tables import row, write_table

from llmsim import validate
from llmsim.calibration.interconnects import link_rate
from llmsim.calibration.normalise_columns import network_of
from llmsim.hardware.named import get_device

USUAL = 50e9
SPELLINGS = [
    # GB/s of a device in nodes of 8 whose usual fabric has 50
    ("InfiniBand 8x50 GB/s", 50), ("8x50 GB/s IB", 50), ("8x400 Gb/s InfiniBand", 50), ("8 x 400Gb/s", 50),
    ("8x400Gbps RoCE", 50), ("8 × 400 Gbit/s", 50), ("8x 400G NDR", 50), ("8x NDR 400G", 50), ("8x NDR400 IB", 50),
    ("8x NDR InfiniBand per node", 50), ("NDR400 x8", 50), ("NDR 400 Gb/s x 8", 50), ("400 Gb/s per GPU", 50),
    ("400Gbps/GPU RoCE", 50), ("50 GB/s per GPU", 50), ("50GB/s/GPU", 50), ("50 GB/s per device InfiniBand", 50),
    ("NDR 400 Gb/s", 50), ("InfiniBand NDR (400 Gb/s)", 50), ("InfiniBand 400 Gb/s", 50), ("NDR InfiniBand", 50),
    ("3200 Gb/s per node", 50), ("3.2 Tb/s per node", 50), ("3.2Tbps per node", 50), ("400 GB/s per node", 50),
    ("EFA 3200 Gbps", 50), ("EFAv2 3.2 Tbps", 50), ("AWS EFA, 3200 Gbit/s", 50), ("EFA 400 Gbps", 6.25),
    ("3200 Gbps EFA per instance", 50), ("NVLink 900 GB/s + 8x400 Gb/s IB", 50),
    ("NVLink 900 GB/s; InfiniBand 400 Gb/s per GPU", 50), ("NVLink4 (900 GB/s) IB 400 Gb/s", 50),
    ("900 GB/s NVLink, 3200 Gb/s RDMA per node", 50), ("NVSwitch3 600GB/s; 8x HDR200 IB per node", 25),
    ("two 200 Gb/s HCAs per node", 6.25), ("dual-rail HDR", 6.25), ("4x HDR 200 Gb/s", 12.5), ("4x200 GbE", 12.5),
    ("one 100 GbE NIC per node", 1.5625), ("100 GbE", 1.5625), ("10 Gbps Ethernet", 0.15625),
    ("25GbE per node", 0.390625), ("4 x 100Gb RoCE per node", 6.25), ("8 ConnectX-7 400 Gb/s NICs", 50),
    ("8x ConnectX-7 (400 Gb/s)", 50), ("8 NICs of 400 Gb/s", 50), ("4x Slingshot-11 200 Gb/s per node", 12.5),
    ("Slingshot 200 Gb/s per GPU", 25), ("4x Omni-Path links per node", 6.25), ("100 GB/s bidirectional per GPU", 50),
    ("400 GBPS IB", 50), ("8x200GB IB", 25), ("8x HDR", 25), ("4 x EDR InfiniBand", 6.25),
    ("1600 Gbps node-node RoCE", 25), ("TCPX 8x200Gbps", 25), ("NVLink", None), ("NVLink 900 GB/s", None),
    ("IB", None), ("", None), ("NVLink4 + IB (DGX-H100)", None), ("PCIe 64 GB/s", None), ("2x400 Gb/s per GPU", 100),
    ("8x 400 Gb/s, one per GPU", 50), ("total 3200 Gb/s InfiniBand", 50), ("6.4 Tb/s RoCE per node", 100),
    ("NVLink 900GB/s, 400Gb IB", 50), ("400 Gb/s per NIC, 8 NICs", 50), ("RoCEv2 8*200Gbps", 25),
    ("IB HDR100", 1.5625), ("InfiniBand (8x 400Gb/s)", 50), ("IB 1.6 Tb/s", 25), ("ConnectX-7 400 Gb/s", 50),
    ("8x400 gb/s", 50), ("400 gbps per gpu", 50),
]  # fmt: skip


@pytest.mark.parametrize(("text", "gigabytes"), SPELLINGS)
def test_rates_in_many_spellings(text, gigabytes):
    found = link_rate(text, 8, USUAL)
    assert (found and found.bytes_per_s / 1e9) == (gigabytes and pytest.approx(gigabytes))


def test_there_are_spellings_enough():
    assert len(SPELLINGS) >= 40


@pytest.mark.parametrize(
    ("text", "said"),
    [("400 Gb/s per GPU", True), ("8x400 Gb/s", True), ("3.2 Tb/s per node", True), ("InfiniBand 400 Gb/s", False),
     ("100 GbE", False), ("EFA 3200 Gbps", False)],
)  # fmt: skip
def test_whose_a_rate_is_may_be_said(text, said):
    assert link_rate(text, 8, USUAL).said == said


@pytest.mark.parametrize(
    ("text", "device", "fabric"),
    [
        ("InfiniBand 8x50 GB/s", "h100-sxm-80gb", "infiniband-ndr-400"),
        ("8x400 Gb/s RoCE", "h100-sxm-80gb", "ethernet-400-per-device"),
        ("EFA 3200 Gbps", "h100-sxm-80gb", "efa-400-per-device"),
        ("HDR 200 Gb/s InfiniBand", "a100-sxm-80gb", "infiniband-hdr-200"),
        ("infiniband-hdr-100", "a100-sxm-80gb", "infiniband-hdr-100"),
        ("4x100 GbE RoCE per node", "a100-sxm-80gb", "ethernet-400-per-node"),
        ("something", "a100-sxm-80gb", "infiniband-hdr-200"),
    ],
)
def test_the_profile_of_a_rate(text, device, fabric):
    assert network_of(text, get_device(device), 8)[0] == fabric


def test_what_a_text_leaves_open_is_listed(tmp_path):
    cells = {"n_devices": 16, "data_parallel": 8}
    texts = {"a": "8x400 Gb/s InfiniBand", "b": "InfiniBand 400 Gb/s", "c": "10 GbE per node", "d": ""}
    rows = [row(id=i, group=i, interconnect=t, **cells) for i, t in texts.items()]
    report = validate(write_table(tmp_path / "runs.csv", rows), progress=False)
    listed = {e.id: e.assumed.get("network", "") for e in report.rows}
    assert listed["a"] == ""
    assert listed["b"] == "infiniband-ndr-400 ('InfiniBand 400 Gb/s' read as 50 GB/s a device)"
    assert listed["c"] == "ethernet-100-per-node (the nearest profile to 0.1562 GB/s a device)"
    assert listed["d"] == "infiniband-ndr-400 (the usual fabric of h100-sxm-80gb)"


def test_tables_name_files_beside_them(tmp_path):
    (tmp_path / "mine.yaml").write_text("inherits: h100-sxm-80gb\nmemory_bandwidth: 4 TB/s\n")
    (tmp_path / "slow.yaml").write_text("bandwidth: 200 Gb/s per node\n")
    cells = {"n_devices": 16, "data_parallel": 8, "hardware": "mine.yaml"}
    rows = [row(id="a", interconnect="slow.yaml", **cells), row(id="b", group="h", interconnect="IB", **cells)]
    report = validate(write_table(tmp_path / "runs.csv", rows), progress=False)
    slow, usual = report.rows
    assert slow.predicted > usual.predicted
    assert slow.hardware == "mine"
    assert slow.assumed["device"] == "mine (mine.yaml): no measured runs"
    assert slow.assumed["fabric"] == "slow (slow.yaml): no measured runs"
