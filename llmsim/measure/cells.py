"""The conformance cells: which blocks, models and worlds are compared with torch. Each compares with ``==``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

from . import conformance, parallel
from . import conformance_messages as ours
from .blocks import AttentionKernel, Checkpointed
from .pairs import BlockSpec, Family, Precision

FAMILIES: tuple[Family, ...] = ("llama", "gpt2", "mixtral", "mla")
ENCODERS: tuple[Family, ...] = ("bert", "t5")
"""An encoder's block, and a decoder's with cross-attention."""

MIXERS: tuple[Family, ...] = ("mamba2", "mamba1", "delta_net", "dsa")
"""Families whose mixers have no kernel in torch: references of separate products, behind one common projection."""

PRECISIONS: tuple[Precision, ...] = ("bf16", "autocast", "fp32")
WHOLE: tuple[Checkpointed, ...] = ("none", "block")
HALVES: tuple[Checkpointed, ...] = ("attention", "mlp")
POLICIES: tuple[Checkpointed, ...] = ("matmuls", "matmuls+attention")


def _shape(**sizes: int) -> dict[str, int]:
    return {"vocab": 512, **sizes}


SMALL: Mapping[Family, dict[str, int]] = {
    "llama": _shape(batch=2, sequence=64, hidden=128, heads=8, kv_heads=2, head_dim=16, ffn=352),
    "gpt2": _shape(batch=2, sequence=64, hidden=128, heads=8, kv_heads=8, head_dim=16, ffn=512, positions=128),
    "mixtral": _shape(
        batch=2, sequence=64, hidden=128, heads=8, kv_heads=2, head_dim=16, moe_ffn=96, experts=8, top_k=2
    ),
    "mla": _shape(
        batch=2, sequence=64, hidden=128, heads=8, q_rank=48, kv_rank=32, nope_dim=16, rope_dim=8, v_dim=16, ffn=352
    ),
    "dsa": _shape(
        batch=2,
        sequence=64,
        hidden=128,
        heads=8,
        q_rank=48,
        kv_rank=32,
        nope_dim=16,
        rope_dim=8,
        v_dim=16,
        ffn=352,
        index_heads=4,
        index_dim=24,
        index_top_k=16,
    ),
    "bert": _shape(batch=2, sequence=64, hidden=128, heads=8, kv_heads=8, head_dim=16, ffn=512),
    "t5": _shape(batch=2, sequence=64, hidden=128, heads=8, kv_heads=8, head_dim=24, ffn=352),
    "mamba2": _shape(
        batch=2,
        sequence=64,
        hidden=96,
        ssm_heads=2,
        group_heads=4,
        ssm_width=16,
        ssm_state=24,
        conv_kernel=4,
        chunk_context=16,
        ffn=264,
    ),
    "mamba1": _shape(
        batch=2,
        sequence=16,
        hidden=64,
        ssm_heads=128,
        ssm_state=16,
        dt_rank=8,
        conv_kernel=4,
        ffn=176,
    ),
    "delta_net": _shape(
        batch=2,
        sequence=64,
        hidden=96,
        ssm_heads=2,
        head_share=3,
        linear_k_dim=8,
        linear_v_dim=24,
        conv_kernel=4,
        chunk_context=16,
        ffn=264,
    ),
}
"""MLA's queries and keys are wider than its values, which leaves it the math kernel."""

OTHER: Mapping[Family, dict[str, int]] = {
    "llama": _shape(batch=3, sequence=80, hidden=96, heads=6, kv_heads=3, head_dim=32, ffn=264),
    "gpt2": _shape(batch=4, sequence=48, hidden=160, heads=5, kv_heads=5, head_dim=32, ffn=640, positions=64),
    "mixtral": _shape(
        batch=3, sequence=32, hidden=64, heads=4, kv_heads=4, head_dim=16, moe_ffn=160, experts=16, top_k=4
    ),
    "mla": _shape(
        batch=2, sequence=96, hidden=160, heads=4, q_rank=64, kv_rank=48, nope_dim=24, rope_dim=8, v_dim=32, ffn=224
    ),
    "dsa": _shape(
        batch=3,
        sequence=48,
        hidden=96,
        heads=4,
        q_rank=64,
        kv_rank=48,
        nope_dim=24,
        rope_dim=8,
        v_dim=16,
        ffn=224,
        index_heads=8,
        index_dim=16,
        index_top_k=8,
    ),
    "bert": _shape(batch=4, sequence=48, hidden=160, heads=5, kv_heads=5, head_dim=32, ffn=640),
    "t5": _shape(batch=3, sequence=80, hidden=96, heads=6, kv_heads=6, head_dim=32, ffn=264),
    "mamba2": _shape(
        batch=3,
        sequence=96,
        hidden=64,
        ssm_heads=4,
        group_heads=2,
        ssm_width=32,
        ssm_state=16,
        conv_kernel=3,
        chunk_context=32,
        ffn=176,
    ),
    "mamba1": _shape(
        batch=3,
        sequence=24,
        hidden=48,
        ssm_heads=96,
        ssm_state=8,
        dt_rank=4,
        conv_kernel=3,
        ffn=136,
    ),
    "delta_net": _shape(
        batch=3,
        sequence=96,
        hidden=64,
        ssm_heads=4,
        head_share=2,
        linear_k_dim=16,
        linear_v_dim=8,
        conv_kernel=3,
        chunk_context=32,
        ffn=176,
    ),
}
"""A second shape of each; MLA's heads have one width, which lets flash attention run."""

TINY: Mapping[Family, dict[str, int]] = {
    "llama": _shape(batch=2, sequence=16, hidden=32, heads=8, kv_heads=8, head_dim=4, ffn=88, vocab=64),
    "gpt2": _shape(batch=2, sequence=16, hidden=32, heads=8, kv_heads=8, head_dim=4, ffn=128, vocab=64),
    "mixtral": _shape(batch=2, sequence=16, hidden=32, heads=8, kv_heads=2, head_dim=4, moe_ffn=24, experts=8, top_k=2),
}
"""Shapes for fake worlds, where tensors are real."""


def describe(spec: BlockSpec) -> str:
    """A readable name of a block."""
    kernel = spec.kernel + "+dropout" * spec.dropout
    norm = "" if spec.family == "gpt2" or spec.norm == "eager" else spec.norm
    shape = f"h{spec.sizes['hidden']}v{spec.sizes['vocab']}"
    recompute = "" if spec.recompute == "none" else f"recompute:{spec.recompute}"
    adapter = "" if spec.adapter == "none" else spec.adapter
    parts = (spec.family, kernel, spec.precision, "fused" * spec.fused, norm, recompute, adapter, shape)
    return "-".join(p for p in parts if p)


@dataclass(frozen=True)
class Cell:
    """One comparison.

    Attributes
    ----------
    name
        Readable and unique.
    derived, executed
        Our side and torch's; the two are to return equal values.
    """

    name: str
    derived: Callable[[], Any]
    executed: Callable[[], Any]

    def __str__(self) -> str:
        return self.name


def block(spec: BlockSpec, layers: int = 0) -> Cell:
    """The cell of a block, or of a model of so many layers."""
    name = describe(spec) + (f"-{layers}layers" if layers else "")
    return Cell(name, partial(conformance.derived, spec, layers), partial(conformance.executed, spec, layers))


def _block_specs() -> Iterator[BlockSpec]:
    for family in FAMILIES:
        for precision in PRECISIONS:
            # Torch's grouped product exists in 16 bits only.
            if (family, precision) == ("mixtral", "fp32"):
                continue
            for recompute in WHOLE:
                yield BlockSpec(family, "math", precision, SMALL[family], recompute)
                yield BlockSpec(family, "flash", precision, (OTHER if family == "mla" else SMALL)[family], recompute)
        yield BlockSpec(family, "math", "bf16", OTHER[family])
        yield BlockSpec(family, "flash", "autocast", OTHER[family], fused=True)
        yield BlockSpec(family, "math", "bf16", SMALL[family], fused=True)
        for policy in POLICIES:
            yield BlockSpec(family, "flash", "bf16", OTHER[family], policy)
    for family in ENCODERS:
        for precision in PRECISIONS:
            # One product for q, k and v reads the block's input, of which autocast would remember a copy.
            yield BlockSpec(family, "flash", precision, SMALL[family], fused=True)
            yield BlockSpec(family, "math", precision, OTHER[family], fused=True)
        for recompute in (*WHOLE, "matmuls"):
            yield BlockSpec(family, "flash", "bf16", OTHER[family], recompute)
    for family in MIXERS:
        for precision in ("bf16", "fp32"):
            for recompute in WHOLE:
                yield BlockSpec(family, "eager", precision, SMALL[family], recompute, fused=True)
            yield BlockSpec(family, "eager", precision, OTHER[family], fused=True)
        yield BlockSpec(family, "eager", "bf16", OTHER[family], "attention", fused=True)
        yield BlockSpec(family, "eager", "bf16", OTHER[family], "matmuls", fused=True)
    for half in HALVES:
        yield BlockSpec("llama", "flash", "autocast", OTHER["llama"], half, norm="eager_fp32")
        yield BlockSpec("gpt2", "flash", "fp32", OTHER["gpt2"], half)
        yield BlockSpec("mixtral", "flash", "bf16", OTHER["mixtral"], half, norm="eager_fp32")
        yield BlockSpec("mla", "math", "bf16", SMALL["mla"], half, fused=True, norm="eager_fp32")
    yield BlockSpec("llama", "flash", "fp32", OTHER["llama"], fused=True)
    yield BlockSpec("gpt2", "eager", "fp32", OTHER["gpt2"])
    for recompute in WHOLE:
        yield BlockSpec("gpt2", "eager", "bf16", SMALL["gpt2"], recompute, dropout=True)


def _adapter_specs() -> Iterator[BlockSpec]:
    """Frozen blocks with low-rank adapters."""
    for family in FAMILIES:
        kernel: AttentionKernel = "math" if family == "mla" else "flash"
        for adapter in ("lora:8", "lora:4:attention"):
            for recompute in WHOLE:
                yield BlockSpec(family, kernel, "bf16", SMALL[family], recompute, adapter=adapter)
    for precision in PRECISIONS:
        yield BlockSpec("llama", "math", precision, OTHER["llama"], norm="eager_fp32", adapter="lora:16:q,v")
        yield BlockSpec("gpt2", "flash", precision, OTHER["gpt2"], "mlp", adapter="lora:16:mlp")


def _model_cells() -> Iterator[Cell]:
    for family in FAMILIES:
        for precision in ("bf16", "autocast"):
            yield block(BlockSpec(family, "math" if family == "mla" else "flash", precision, SMALL[family]), 2)
    yield block(BlockSpec("llama", "flash", "fp32", OTHER["llama"], "block", fused=True), 3)
    yield block(BlockSpec("gpt2", "eager", "bf16", SMALL["gpt2"], dropout=True), 2)
    for family in ("mamba2", "delta_net"):
        yield block(BlockSpec(family, "eager", "bf16", SMALL[family], fused=True), 2)


BLOCK_CELLS: tuple[Cell, ...] = tuple(map(block, chain(_block_specs(), _adapter_specs())))
"""FLOPs and saved bytes of single blocks."""

MODEL_CELLS: tuple[Cell, ...] = tuple(_model_cells())
"""The same of whole models."""


def tiny(family: Family, precision: Precision = "bf16", recompute: Checkpointed = "none", **sizes: int) -> BlockSpec:
    """A block for fake worlds."""
    return BlockSpec(family, "flash", precision, {**TINY[family], **sizes}, recompute)


def world(
    derived: Callable[..., Any], executed: Callable[..., Any], spec: BlockSpec, *counts: int, **options: Any
) -> Cell:
    """A cell of ``derived_<what>`` and ``run_<what>``, both called with the same arguments."""
    what = derived.__name__.removeprefix("derived_")
    texts = [f"{key}:{value}" for key, value in options.items()]
    name = "-".join([what, describe(spec), *map(str, counts), *texts])
    return Cell(name, partial(derived, spec, *counts, **options), partial(executed, spec, *counts, **options))


def _tensor_cells() -> Iterator[Cell]:
    for family in ("llama", "gpt2"):
        for sequence_parallel in (True, False):
            for shared_input in (True, False):
                yield world(
                    ours.derived_tensor_parallel, parallel.run_tensor_parallel, tiny(family), 2, 4,
                    sequence_parallel=sequence_parallel, shared_input=shared_input,
                )  # fmt: skip
    # A vocabulary that does not divide: rank 0 holds the rounded-up share.
    yield world(
        ours.derived_tensor_parallel, parallel.run_tensor_parallel, tiny("llama", vocab=66), 2, 8,
        sequence_parallel=True, shared_input=True,
    )  # fmt: skip
    for recompute in (*WHOLE[1:], *HALVES):
        yield world(
            ours.derived_tensor_parallel, parallel.run_tensor_parallel, tiny("llama", "bf16", recompute), 3, 8,
            sequence_parallel=True, shared_input=True,
        )  # fmt: skip


def _sharded_cells() -> Iterator[Cell]:
    llama, gpt2 = tiny("llama"), tiny("gpt2")
    options: tuple[dict[str, Any], ...] = (
        {"shard": 8},
        {"shard": 8, "reshard_root": True},
        {"shard": 8, "reshard_blocks": False},
        {"shard": 24, "microbatches": 3, "sync_last": True},
        {"shard": 24, "microbatches": 2},
        {"shard": 512},
        {"shard": 4, "replicas": 2, "microbatches": 2},
    )
    for option in options:
        yield world(ours.derived_fully_sharded, parallel.run_fully_sharded, llama, 2, **option)
    yield world(ours.derived_fully_sharded, parallel.run_fully_sharded, gpt2, 3, shard=3, replicas=8)
    for spec, shard, degree in ((llama, 4, 2), (gpt2, 24, 4)):
        yield world(
            ours.derived_fully_sharded_tensor_parallel, parallel.run_fully_sharded_tensor_parallel, spec, 2,
            shard=shard, degree=degree,
        )  # fmt: skip


def _replicated_cells() -> Iterator[Cell]:
    wide = tiny("llama", "fp32", hidden=512, sequence=4)
    for spec, bucket in ((wide, None), (wide, 1.2), (wide, 2.5), (tiny("gpt2"), 0.02)):
        yield world(
            ours.derived_distributed_data_parallel, parallel.run_distributed_data_parallel, spec, 2,
            degree=8, bucket_mib=bucket,
        )  # fmt: skip
    for spec, degree in ((tiny("llama", "fp32"), 8), (tiny("gpt2"), 3)):
        yield world(ours.derived_zero_redundancy_update, parallel.run_zero_redundancy_update, spec, 2, degree=degree)


def _expert_cells() -> Iterator[Cell]:
    experts: tuple[tuple[Precision, int], ...] = (("bf16", 4), ("autocast", 8))
    for precision, degree in experts:
        yield world(ours.derived_expert_parallel, parallel.run_expert_parallel, tiny("mixtral", precision), degree)


def _pipeline_cells() -> Iterator[Cell]:
    schedules = (("gpipe", 1, 1), ("1f1b", 0, 1), ("1f1b", 1, 1), ("1f1b", 3, 1), ("interleaved", 0, 2),
                 ("interleaved", 1, 3), ("interleaved", 3, 2))  # fmt: skip
    for schedule, rank, chunks in schedules:
        yield world(
            ours.derived_pipeline, parallel.run_pipeline, tiny("llama"),
            schedule=schedule, ranks=4, rank=rank, microbatches=8, chunks=chunks,
        )  # fmt: skip


MESSAGE_GROUPS: Mapping[str, tuple[Cell, ...]] = {
    "tensor parallelism": tuple(_tensor_cells()),
    "sharding": tuple(_sharded_cells()),
    "replication": tuple(_replicated_cells()),
    "experts": tuple(_expert_cells()),
    "pipelines": tuple(_pipeline_cells()),
}
"""Collectives (and what a rank keeps) of small models on fake process groups."""

MESSAGE_CELLS: tuple[Cell, ...] = tuple(chain.from_iterable(MESSAGE_GROUPS.values()))
