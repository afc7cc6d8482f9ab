"""Measured kernels and collectives in ``validation/kernels_and_networks.csv``: published tables, with their sources.

Constants of other people's fits stand in that file too and are left out here: only measured points are fitted.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ...core.errors import InputError, unread
from .families import COLLECTIVE, GROUPED, TRAINED_ATTENTION, TRAINED_GEMM
from .fitting import Family
from .measured import Table

DEVICES = {
    "B200 SXM": "b200-sxm-180gb", "A100 PCIe": "a100-pcie-80gb", "H800": "h800-sxm-80gb",
    "A100 (8-GPU NVLink node)": "a100-sxm-80gb", "V100 (8-GPU node)": "v100-sxm-32gb",
    "A100 SXM (NVLink 3)": "a100-sxm-80gb", "H200 SXM (NVLink 4, NVLS from 2MiB)": "h200-sxm-141gb",
    "B200 SXM (NVLink 5; EFA v4 8x50GB/s, AWS P6-B200)": "b200-sxm-180gb",
}  # fmt: skip
"""Names there -> devices."""
LEAST_MESSAGE = 16 * 2**20
"""Bytes from which collectives are fitted: smaller ones are latency, which differs from release to release."""
BACKWARD_FLOPS = 2.5
"""FLOPs of attention backward over forward, as the tables count them: five products against two."""

Row = dict[str, str]


def published_tables(path: Path) -> list[Table]:
    """The tables of the file, a family on a device each.

    Raises
    ------
    InputError
        Where it cannot be read.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        why = f"cannot be read ({unread(error)})"
        raise InputError("published tables", str(path), "the file of a checkout", why=why) from None
    digest = hashlib.sha256(text).hexdigest()[:16]
    rows = list(csv.DictReader(text.decode("utf-8").splitlines()))

    def table(device: str, family: Family, format: str, variant: str, own: Sequence[Row], sizes: dict[str, np.ndarray],
              seconds: np.ndarray) -> Table:  # fmt: skip
        source = re.sub(r"\s*\(HEAD.*", "", own[0]["source"]).split(" op ")[0]
        computed = "fp8" if format == "fp8-block" else "bf16"
        return Table(device, "torch", source, family, format, variant, computed, sizes, seconds, path.name, digest)

    readers: tuple[Callable[..., Iterator[Table]], ...] = (_matmuls, _grouped, _attention, _all_reduces)
    return [found for read in readers for found in read(rows, table)]


def _of(rows: Sequence[Row], operation: str, source: str) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["operation"] == operation and source in row["source"] and row["hardware"] in DEVICES:
            found[DEVICES[row["hardware"]]].append(row)
    return found


def _numbers(rows: Sequence[Row], column: str) -> np.ndarray:
    return np.array([float(row[column]) for row in rows])


def _stated(rows: Sequence[Row], name: str) -> np.ndarray:
    return np.array([float(re.search(rf"\b{name}=(\d+)", row["shape"])[1]) for row in rows])  # type: ignore[index]


def _matmuls(rows: Sequence[Row], table: Callable[..., Table]) -> Iterator[Table]:
    """Rates over the FLOPs 2 m n k. Gradients of weights add to an output that is read as well."""
    for operation, source, format, bytes_each in (
        ("matmul", "SimuMax", "bf16", 2.0),
        ("fp8 dense GEMM (1x128 scaling)", "DeepGEMM", "fp8-block", 1.0),
    ):
        for device, own in _of(rows, operation, source).items():
            m, n, k = (_numbers(own, name) for name in "mnk")
            wide = np.array(["out_dtype=fp32" in row["shape"] for row in own])
            added = np.array(["accumulate=True" in row["shape"] for row in own])
            sizes = {"m": m, "n": n, "k": k, "weight_bytes": np.full(len(m), bytes_each),
                     "operand_bytes": np.full(len(m), bytes_each),
                     "output_bytes": np.where(wide, 4.0, 2.0) * np.where(added, 2.0, 1.0),
                     "flops": m * n * k, "tokens": np.where(added, k, m)}  # fmt: skip
            seconds = 2 * m * n * k / (1e12 * _numbers(own, "value"))
            yield table(device, TRAINED_GEMM, format, "", own, sizes, seconds)


def _grouped(rows: Sequence[Row], table: Callable[..., Table]) -> Iterator[Table]:
    """Rates over the FLOPs 2 m n k of each group, all groups together."""
    for device, own in _of(rows, "group_matmul", "SimuMax").items():
        m, n, k = (_numbers(own, name) for name in "mnk")
        groups = _stated(own, "ng")
        sizes = {"m": m, "n": n, "k": k, "groups": groups}
        yield table(device, GROUPED, "bf16", "", own, sizes, 2 * m * n * k * groups / (1e12 * _numbers(own, "value")))


def _attention(rows: Sequence[Row], table: Callable[..., Table]) -> Iterator[Table]:
    """Rates over the FLOPs of all pairs of positions, masked ones included; the kernels skip masked tiles."""
    for operation, direction in (("sdp_fwd", "forward"), ("sdp_bwd", "backward")):
        for device, own in _of(rows, operation, "SimuMax").items():
            names = {"batch": "batch", "queries": "seq_len", "heads": "head_num", "kv_heads": "kv_head_num",
                     "qk_dim": "qk_head_dim", "v_dim": "v_head_dim"}  # fmt: skip
            s = {name: _stated(own, text) for name, text in names.items()}
            s["backward"] = np.full(len(own), float(direction == "backward"))
            flops = 2 * s["batch"] * s["heads"] * s["queries"] ** 2 * (s["qk_dim"] + s["v_dim"])
            flops = flops * (BACKWARD_FLOPS if direction == "backward" else 1.0)
            yield table(device, TRAINED_ATTENTION, "bf16", direction, own, s, flops / (1e12 * _numbers(own, "value")))


def _all_reduces(rows: Sequence[Row], table: Callable[..., Table]) -> Iterator[Table]:
    """Bus bandwidths as nccl-tests define them: ``2 (n - 1) / n`` times the message over the time."""
    found: dict[tuple[str, str, int, int], list[Row]] = defaultdict(list)
    for row in rows:
        large = row["message_bytes"] and float(row["message_bytes"]) >= LEAST_MESSAGE
        if row["operation"] == "all_reduce bus bandwidth" and large and row["hardware"] in DEVICES:
            whose = row["source"].split("/")[0]
            found[DEVICES[row["hardware"]], whose, int(row["n_devices"]), int(row["n_nodes"])].append(row)
    for (device, whose, count, nodes), own in sorted(found.items()):
        if len(own) >= FEWEST:
            message = _numbers(own, "message_bytes")
            seconds = 2 * (count - 1) / count * message / (1e9 * _numbers(own, "value"))
            variant = f"all_reduce over {count}" + (f" in {nodes} nodes" if nodes > 1 else "") + f", {whose}"
            yield table(device, COLLECTIVE, "bf16", variant, own, {"message": message}, seconds)


FEWEST = 6
"""Points that a collective needs."""
