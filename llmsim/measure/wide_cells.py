"""More cells, for `make conform` alone: every combination where those of every test run take one of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Literal

from . import conformance_messages as ours
from . import parallel
from .blocks import AttentionKernel
from .cells import (
    BLOCK_CELLS,
    FAMILIES,
    HALVES,
    MESSAGE_CELLS,
    OTHER,
    POLICIES,
    PRECISIONS,
    SMALL,
    WHOLE,
    Cell,
    block,
    tiny,
    world,
)
from .pairs import BlockSpec


def _products() -> Iterator[BlockSpec]:
    """Families x kernels x precisions x what is computed again x two shapes, of which one has fused products."""
    for family in FAMILIES:
        for kernel in ("flash", "math"):
            for precision in PRECISIONS:
                for recompute in (*WHOLE, *HALVES, *POLICIES):
                    for shape in (SMALL, OTHER):
                        norm: Literal["eager", "eager_fp32"]
                        norm = "eager_fp32" if recompute in HALVES and family != "gpt2" else "eager"
                        yield BlockSpec(
                            family, kernel, precision, shape[family], recompute, norm=norm, fused=shape is OTHER
                        )


def _runs_in_torch(spec: BlockSpec) -> bool:
    if spec.family == "mixtral" and spec.precision == "fp32":
        return False  # its grouped product exists in 16 bits only
    if spec.family == "mla" and spec.sizes == SMALL["mla"]:
        # Flash wants one width; norms inside latent attention round, where our autocast keeps fp32.
        return spec.kernel == "math" and (spec.precision, spec.recompute) != ("autocast", "mlp")
    return True


def _comparable(spec: BlockSpec) -> bool:
    # Torch can keep the result of one operator, and math attention is several.
    return _runs_in_torch(spec) and (spec.kernel, spec.recompute) != ("math", "matmuls+attention")


def _more_heads() -> Iterator[Cell]:
    """Multi-query, grouped and multi-head attention."""
    for kv_heads in (1, 4, 8):
        for kernel in ("flash", "math"):
            for recompute in WHOLE:
                spec = BlockSpec("llama", kernel, "bf16", {**SMALL["llama"], "kv_heads": kv_heads}, recompute)
                cell = block(spec)
                yield replace(cell, name=f"{cell.name}-kv{kv_heads}")


def _more_models() -> Iterator[Cell]:
    for family in FAMILIES:
        kernel: AttentionKernel = "math" if family == "mla" else "flash"
        for layers in (1, 4, 7):
            for recompute in WHOLE:
                yield block(BlockSpec(family, kernel, "bf16", SMALL[family], recompute), layers)


def _more_tensor() -> Iterator[Cell]:
    for family in ("llama", "gpt2"):
        for degree in (2, 4, 8):
            for sequence_parallel in (True, False):
                for recompute in ("none", "block", "mlp"):
                    yield world(
                        ours.derived_tensor_parallel, parallel.run_tensor_parallel, tiny(family, "bf16", recompute),
                        1, degree, sequence_parallel=sequence_parallel, shared_input=True,
                    )  # fmt: skip


def _more_sharding() -> Iterator[Cell]:
    for family in ("llama", "gpt2"):
        for shard in (2, 8, 24, 64, 512):
            for recompute in WHOLE:
                yield world(
                    ours.derived_fully_sharded, parallel.run_fully_sharded, tiny(family, "bf16", recompute), 3,
                    shard=shard,
                )  # fmt: skip
        for replicas, shard in ((2, 2), (3, 8), (8, 8)):
            yield world(
                ours.derived_fully_sharded, parallel.run_fully_sharded, tiny(family), 1,
                shard=shard, replicas=replicas,
            )  # fmt: skip
        for shard, degree in ((2, 8), (8, 2), (3, 4)):
            yield world(
                ours.derived_fully_sharded_tensor_parallel, parallel.run_fully_sharded_tensor_parallel, tiny(family),
                1, shard=shard, degree=degree,
            )  # fmt: skip


def _more_replication() -> Iterator[Cell]:
    wide = tiny("llama", "fp32", hidden=512, sequence=4)
    for bucket in (0.3, 0.7, 1.0, 2.0, 5.0, 10.0):
        yield world(
            ours.derived_distributed_data_parallel, parallel.run_distributed_data_parallel, wide, 3,
            degree=4, bucket_mib=bucket,
        )  # fmt: skip
    for family in ("llama", "gpt2"):
        for degree in (2, 16):
            yield world(
                ours.derived_zero_redundancy_update, parallel.run_zero_redundancy_update, tiny(family), 1,
                degree=degree,
            )  # fmt: skip


def _more_experts() -> Iterator[Cell]:
    for precision in ("bf16", "autocast"):
        for degree in (2, 4, 8):
            yield world(ours.derived_expert_parallel, parallel.run_expert_parallel, tiny("mixtral", precision), degree)


def _more_pipelines() -> Iterator[Cell]:
    for schedule, chunks in (
        ("gpipe", 1),
        ("1f1b", 1),
        ("interleaved", 2),
        ("interleaved-zb", 2),
        ("zb-v", 2),
        ("dualpipe-v", 2),
    ):
        for ranks in (2, 4):
            for rank in range(ranks):
                yield world(
                    ours.derived_pipeline, parallel.run_pipeline, tiny("llama"),
                    schedule=schedule, ranks=ranks, rank=rank, microbatches=8, chunks=chunks,
                )  # fmt: skip


def _new(*cells: Iterator[Cell]) -> tuple[Cell, ...]:
    known = {cell.name for cell in (*BLOCK_CELLS, *MESSAGE_CELLS)}
    return tuple(cell for cell in chain(*cells) if cell.name not in known)


WIDE_GROUPS: Mapping[str, tuple[Cell, ...]] = {
    "blocks": _new(map(block, filter(_comparable, _products())), _more_heads()),
    "models": _new(_more_models()),
    "tensor parallelism": _new(_more_tensor()),
    "sharding": _new(_more_sharding()),
    "replication": _new(_more_replication()),
    "experts": _new(_more_experts()),
    "pipelines": _new(_more_pipelines()),
}
"""Group -> cells that only `make conform` runs."""
