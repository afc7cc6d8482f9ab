"""Measured kernel tables inside the public package ``aiconfigurator-core``: files by name, columns by name, never its
functions. Only times of kernels are read, none of its samples of whole requests.

Needs the extra ``silicon`` (pyarrow and that package); nobody needs either to use what was fitted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import InputError
from .families import COLLECTIVE, DECODE, EXCHANGE, EXPERTS, GEMM, PREFILL, QUANTISE, QUANTISED_GEMM
from .fitting import Family
from .measured import Table

PACKAGE, RELEASE = "aiconfigurator_core", "0.12.0"
DEVICES = {
    "a100_sxm": "a100-sxm-80gb", "h100_sxm": "h100-sxm-80gb", "h200_sxm": "h200-sxm-141gb",
    "b200_sxm": "b200-sxm-180gb", "b300_sxm": "b300-sxm-288gb", "gb200": "gb200-186gb", "gb300": "gb300-288gb",
    "l40s": "l40s-48gb",
}  # fmt: skip
"""Folder of the package -> device."""
LIBRARIES = ("trtllm", "vllm", "sglang")
FORMATS = {
    "bfloat16": "bf16", "float16": "bf16", "fp8": "fp8", "fp8_block": "fp8-block", "nvfp4": "nvfp4", "int8_wo": "w8a16",
    "int4_wo": "w4a16", "sq": "w8a8", "w4a16_mxfp4": "w4a16-mxfp4", "w4a8_mxfp4_mxfp8": "w4a8-mxfp4", "half": "bf16",
    "w4a4_mxfp4": "mxfp4", "w4afp8": "w4a8",
}  # fmt: skip
"""Names of formats there -> here."""
WEIGHT_BYTES = {
    "bf16": 2.0, "fp8": 1.0, "fp8-block": 1.0, "w8a16": 1.0, "w8a8": 1.0, "nvfp4": 0.5625, "w4a16": 0.53125,
    "w4a16-mxfp4": 0.53125, "w4a8-mxfp4": 0.53125, "mxfp4": 0.53125, "w4a8": 0.53125,
}  # fmt: skip
"""Bytes of a weight with its scales."""
COMPUTED = {
    "fp8": "fp8", "fp8-block": "fp8", "w8a8": "fp8", "nvfp4": "fp4", "mxfp4": "fp4", "w4a8-mxfp4": "fp8", "w4a8": "fp8",
}  # fmt: skip
"""Format -> that of the products, 16 bits where it is not listed."""
QUANTISES = ("fp8", "fp8-block", "w8a8", "nvfp4", "mxfp4", "w4a8-mxfp4", "w4a8")
"""Formats whose products have a pass before them that quantises the operand."""
DISTRIBUTIONS = ("balanced", "power_law_1.2")
"""Of tokens over experts: even, and as skewed as the tables have it."""
LEAST_ROWS, LEAST_SHAPES = 60, 3
"""Measurements that a fit needs, and distinct values of a size that makes its shapes."""
IMPLAUSIBLE = 1.05
"""Fraction of the datasheet's peak from which a measurement is an outlier."""


def root() -> Path:
    """Where the package keeps its tables.

    Raises
    ------
    InputError
        Where it is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError("silicon tables", PACKAGE, "pip install 'llmsim[silicon]'", why="is not installed")
    return Path(spec.submodule_search_locations[0]) / "systems" / "data"


def tables(folder: Path, device: str) -> Iterator[Table]:
    """All tables of a device.

    Parameters
    ----------
    folder
        As :func:`root` has it.
    device
        A key of :data:`DEVICES`.
    """
    for read in (_gemms, _experts, _attention, _latent_attention, _quantise, _collectives, _exchanges):
        for table in read(folder, device):
            shapes = {name: len(np.unique(table.sizes[name])) for name in table.family.shape}
            several = max(shapes.values(), default=0) >= LEAST_SHAPES
            if several and (len(table.seconds) >= LEAST_ROWS or table.family in (COLLECTIVE, EXCHANGE)):
                yield table


class _File:
    """The columns of one file that has the newest release of its kind."""

    def __init__(self, path: Path):
        import pyarrow.parquet as pq

        self.path, self.release = path, path.parent.name
        table = pq.read_table(path)
        self.columns: dict[str, np.ndarray] = {
            name: np.asarray(table[name].to_numpy(zero_copy_only=False)) for name in table.column_names
        }
        self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()[:16]

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def numbers(self, name: str, keep: np.ndarray) -> np.ndarray:
        return np.asarray(self.columns[name][keep], dtype=float)

    def values(self, name: str) -> list[Any]:
        return sorted(set(self.columns[name].tolist()))

    def where(self, **wanted: Any) -> np.ndarray:
        """Rows with some values; a column that is not there has only zeros."""
        keep = np.ones(len(next(iter(self.columns.values()))), bool)
        for name, value in wanted.items():
            if name in self.columns:
                keep &= self.columns[name] == value
        return keep


def _newest(folder: Path, device: str, kind: str, library: str, name: str) -> _File | None:
    """The newest of the releases that measured much: some hold a few shapes of one model."""
    found = list((folder / device / kind / library).glob(f"*/{name}_perf.parquet"))
    if not found:
        return None
    most = max(p.stat().st_size for p in found)
    return _File(max((p for p in found if p.stat().st_size > most / 2), key=lambda p: _order(p.parent.name)))


def _usual(sources: np.ndarray) -> str:
    """The kernel that most measurements are of: others stand for shapes that it cannot do."""
    names, counts = np.unique(sources.astype(str), return_counts=True)
    return str(names[np.argmax(counts)]) if len(names) else ""


def _order(release: str) -> tuple[int, ...]:
    """Releases in order: ``1.3.0rc20`` behind ``1.3.0rc5``."""
    digits = "".join(c if c.isdigit() else " " for c in release.replace("post", " ")).split()
    return tuple(map(int, digits))


def _table(
    file: _File, device: str, library: str, family: Family, format: str, variant: str, keep: np.ndarray,
    sizes: Mapping[str, np.ndarray], *, flops: np.ndarray | None = None, column: str = "latency", scale: float = 1e-3,
) -> Table:  # fmt: skip
    """Median times of each shape, without those that would pass the device's peak."""
    seconds = file.numbers(column, keep) * scale
    names = list(sizes)
    stacked = np.stack([sizes[name] for name in names], axis=1)
    good = np.isfinite(seconds) & (seconds > 0)
    if flops is not None:
        good &= flops / np.where(good, seconds, 1.0) < IMPLAUSIBLE * _peak(device, format)
    stacked, seconds = stacked[good], seconds[good]
    shapes, inverse = np.unique(stacked, axis=0, return_inverse=True)
    order = np.argsort(inverse.reshape(-1), kind="stable")
    groups = np.split(seconds[order], np.cumsum(np.bincount(inverse.reshape(-1)))[:-1]) if len(seconds) else []
    medians = np.array([float(np.median(own)) for own in groups])
    return Table(
        DEVICES[device], library, file.release, family, format, variant, COMPUTED.get(format, "bf16"),
        {name: shapes[:, n] for n, name in enumerate(names)}, medians, str(file.path.relative_to(file.path.parents[4])),
        file.sha256,
    )  # fmt: skip


def _peak(device: str, format: str) -> float:
    from ...hardware.devices import bundled_device

    return bundled_device(DEVICES[device]).peak_of(COMPUTED.get(format, "bf16"))


def _gemms(folder: Path, device: str) -> Iterator[Table]:
    for library in LIBRARIES:
        file = _newest(folder, device, "gemm", library, "gemm")
        for name in file.values("gemm_dtype") if file else ():
            format = FORMATS.get(name)
            if file is None or format is None:
                continue
            keep = file.where(gemm_dtype=name)
            m, n, k = (file.numbers(c, keep) for c in "mnk")
            weight = np.full(len(m), WEIGHT_BYTES[format])
            operand = np.minimum(weight, 2.0) if format in QUANTISES else np.full(len(m), 2.0)
            sizes = {"m": m, "n": n, "k": k, "weight_bytes": weight, "operand_bytes": operand,
                     "output_bytes": np.full(len(m), 2.0)}  # fmt: skip
            family = QUANTISED_GEMM if format in QUANTISES else GEMM
            yield _table(file, device, library, family, format, "", keep, sizes, flops=2 * m * n * k)


def _experts(folder: Path, device: str) -> Iterator[Table]:
    for library in LIBRARIES:
        file = _newest(folder, device, "moe", library, "moe")
        if file is None:
            continue
        for name in file.values("moe_dtype"):
            for spread in DISTRIBUTIONS:
                format = FORMATS.get(name)
                if format is None:
                    continue
                keep = file.where(moe_dtype=name, distribution=spread)
                source = _usual(file.columns["kernel_source"][keep])
                keep &= file.columns["kernel_source"] == source
                columns = {"tokens": "num_tokens", "hidden": "hidden_size", "inter": "inter_size", "topk": "topk",
                           "experts": "num_experts", "tp": "moe_tp_size", "ep": "moe_ep_size"}  # fmt: skip
                sizes = {name: file.numbers(column, keep) for name, column in columns.items()}
                sizes["gated"] = np.full(int(keep.sum()), 0.0 if "nongated" in source else 1.0)
                sizes["weight_bytes"] = np.full(int(keep.sum()), WEIGHT_BYTES[format])
                sizes |= {"inner": sizes["inter"] / sizes["tp"], "local": sizes["experts"] / sizes["ep"]}
                sizes["slots"] = sizes["tokens"] * sizes["topk"] / sizes["ep"]
                if keep.any():
                    yield _table(file, device, library, EXPERTS, format, str(spread), keep, sizes)


def _heads(file: _File, keep: np.ndarray) -> dict[str, np.ndarray]:
    columns = {"batch": "batch_size", "heads": "num_heads", "kv_heads": "num_key_value_heads", "width": "head_dim"}
    sizes = {name: file.numbers(column, keep) for name, column in columns.items()}
    return sizes | {"group": sizes["heads"] / sizes["kv_heads"]}


def _attention(folder: Path, device: str) -> Iterator[Table]:
    for library in LIBRARIES:
        yield from _prefills(folder, device, library)
        yield from _decodes(folder, device, library)


def _prefills(folder: Path, device: str, library: str) -> Iterator[Table]:
    file = _newest(folder, device, "attention", library, "context_attention")
    for dtype in file.values("attn_dtype") if file else ():
        if file is None:
            continue
        keep = file.where(attn_dtype=dtype, kv_cache_dtype=dtype, window_size=0) & (file.columns["isl"] >= 16)
        keep &= file.columns["kernel_source"] == _usual(file.columns["kernel_source"][keep])
        if keep.any():
            sizes = _heads(file, keep) | {"queries": file.numbers("isl", keep)}
            sizes |= {"rows": sizes["batch"] * sizes["heads"], "qk_dim": sizes["width"], "v_dim": sizes["width"]}
            yield _table(file, device, library, PREFILL, FORMATS[dtype], "", keep, sizes)


def _decodes(folder: Path, device: str, library: str) -> Iterator[Table]:
    """Steps after 127 cached tokens or more, of up to 16 query heads on one of keys."""
    file = _newest(folder, device, "attention", library, "generation_attention")
    for dtype in file.values("kv_cache_dtype") if file else ():
        if file is None:
            continue
        keep = file.where(kv_cache_dtype=dtype, window_size=0) & (file.columns["step"] + 1 >= 128)
        keep &= file.columns["num_heads"] <= 16 * file.columns["num_key_value_heads"]
        keep &= file.columns["kernel_source"] == _usual(file.columns["kernel_source"][keep])
        if keep.any():
            sizes = _heads(file, keep) | {"context": file.numbers("step", keep) + 1}
            sizes |= {"rows": sizes["batch"] * sizes["kv_heads"], "flops_per_key": 4 * sizes["width"],
                      "kv_bytes": 2 * sizes["width"] * WEIGHT_BYTES[FORMATS[dtype]]}  # fmt: skip
            yield _table(file, device, library, DECODE, FORMATS[dtype], "", keep, sizes)


_LATENT, _ROPE, _V = 512, 64, 128
"""Of DeepSeek's latent attention, the only one in the tables."""


def _latent_attention(folder: Path, device: str) -> Iterator[Table]:
    for library in LIBRARIES:
        file = _newest(folder, device, "mla", library, "context_mla")
        if file is not None:
            keep = file.where(step=0) & (file.columns["isl"] >= 16)
            keep &= file.columns["mla_dtype"] == file.values("mla_dtype")[0]
            heads = file.numbers("num_heads", keep)
            sizes = {"batch": file.numbers("batch_size", keep), "queries": file.numbers("isl", keep), "heads": heads,
                     "kv_heads": heads, "qk_dim": np.full(len(heads), float(_V + _ROPE)),
                     "v_dim": np.full(len(heads), float(_V))}  # fmt: skip
            sizes |= {"rows": sizes["batch"] * heads, "group": np.ones(len(heads))}
            yield _table(file, device, library, PREFILL, FORMATS[file.values("mla_dtype")[0]], "latent", keep, sizes)
        file = _newest(folder, device, "mla", library, "generation_mla")
        for dtype in file.values("kv_cache_dtype") if file else ():
            if file is None:
                continue
            keep = file.where(kv_cache_dtype=dtype) & (file.columns["step"] + 1 >= 128)
            heads = file.numbers("num_heads", keep)
            each = np.full(len(heads), (_LATENT + _ROPE) * WEIGHT_BYTES[FORMATS[dtype]])
            sizes = {"batch": file.numbers("batch_size", keep), "context": file.numbers("step", keep) + 1,
                     "heads": heads, "kv_heads": np.ones(len(heads)), "width": np.full(len(heads), 576.0),
                     "kv_bytes": each, "flops_per_key": np.full(len(heads), 2.0 * (2 * _LATENT + _ROPE))}  # fmt: skip
            sizes |= {"rows": sizes["batch"], "group": heads}
            if keep.any():
                yield _table(file, device, library, DECODE, FORMATS[dtype], "latent", keep, sizes)


def _quantise(folder: Path, device: str) -> Iterator[Table]:
    for library in LIBRARIES:
        file = _newest(folder, device, "quantize", library, "scale_matrix")
        if file is not None:
            keep = file.where(quant_dtype="fp8")
            sizes = {"m": file.numbers("m", keep), "k": file.numbers("k", keep)}
            yield _table(file, device, library, QUANTISE, "fp8", "", keep, sizes)


def _collectives(folder: Path, device: str) -> Iterator[Table]:
    for library in ("nccl", *LIBRARIES):
        name = "nccl" if library == "nccl" else "custom_allreduce"
        file = _newest(folder, device, "comm", library, name)
        if file is None:
            continue
        dtype, graph = ("nccl_dtype" if library == "nccl" else "allreduce_dtype"), f"{library}_graph"
        for operation in file.values("op_name"):
            for count in file.values("num_gpus"):
                keep = file.where(op_name=operation, num_gpus=count)
                if "backend" in file and graph in file.values("backend"):
                    keep &= file.columns["backend"] == graph
                if dtype in file and len(file.values(dtype)) > 1:
                    keep &= np.isin(file.columns[dtype], ["half", "bfloat16", "float16"])
                elements = 2.0 if dtype == "nccl_dtype" else 1.0
                sizes = {"message": file.numbers("message_size", keep) * elements}
                if keep.sum() >= 10:
                    variant = f"{str(operation).replace('alltoall', 'all_to_all')} over {count}"
                    yield _table(file, device, library, COLLECTIVE, "bf16", variant, keep, sizes)


def _exchanges(folder: Path, device: str) -> Iterator[Table]:
    file = _newest(folder, device, "comm", "sglang", "wideep_deepep_ll")
    for nodes in file.values("node_num") if file else ():
        if file is None:
            continue
        keep = file.where(node_num=nodes)
        sizes = {"tokens": file.numbers("num_token", keep), "hidden": file.numbers("hidden_size", keep),
                 "topk": file.numbers("num_topk", keep)}  # fmt: skip
        for phase in ("dispatch", "combine"):
            yield _table(file, device, "deepep", EXCHANGE, "bf16", f"low-latency {phase}, nodes {nodes}", keep, sizes,
                         column=f"{phase}_avg_t_us", scale=1e-6)  # fmt: skip
