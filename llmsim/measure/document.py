"""The tables of docs/conformance.md, written from the cells themselves.

``python -m llmsim.measure.document`` prints them, with ``--write`` it puts them between the markers of the document; a
test holds the document to them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import memory_cells, published_cells, sharded_memory, step_memory
from .cached_cells import CACHED_CELLS
from .cells import BLOCK_CELLS, MESSAGE_GROUPS, MODEL_CELLS
from .full_cells import FULL_MESSAGE_CELLS
from .kernel_rows import BACKWARD_CASES, CASES, SCORES
from .published import DIFFERENCES
from .wide_cells import WIDE_GROUPS

DOCUMENT = Path(__file__).parents[2] / "docs" / "conformance.md"


@dataclass(frozen=True)
class Group:
    """A row of the table.

    Attributes
    ----------
    name
        Of the cells.
    usual, conform, full
        How many `make test` runs; how many more `make conform` does; how many more `make conform-full` does.
    compared, varies
        In words.
    tolerance
        Relative; 0 for ``==``.
    """

    name: str
    usual: int
    conform: int
    full: int
    compared: str
    varies: str
    tolerance: float = 0.0


_WORDS = {
    "blocks": (
        "FLOPs of forward, backward and recomputation; saved bytes",
        "Llama, GPT-2, Mixtral, latent attention, sparse attention with its indexer, encoder (BERT), decoder with "
        "cross-attention (T5), Mamba-2, Mamba-1, Gated DeltaNet; flash, math and eager attention; bf16, autocast, "
        "fp32; no recompute, checkpointed block or branch, two selective policies; separate and fused products; two "
        "eager norms; multi-query, grouped and multi-head; dropout; frozen blocks with low-rank adapters; two shapes",
    ),
    "passes with a cache": (
        "FLOPs forward; bytes of keys, values, latents and states after the pass",
        "prompts, chunks and decoding steps of grouped and multi-head attention, sinks, gates, norms of heads, windows "
        "(below, across, above; whole rectangles and visible pairs alone), cross-attention, latent attention expanded "
        "and absorbed, its indexer, mixtures of experts, Mamba-2, Mamba-1, Gated DeltaNet; bf16, fp32; two shapes",
    ),
    "models": ("the same", "embedding, learned positions, head and loss around one to seven blocks"),
    "tensor parallelism": (
        "(collective, axis, bytes, phase) of a whole model; saved bytes of a rank",
        "sequence parallelism, shared input, recompute, a vocabulary that does not divide; 2, 4 and 8 ranks",
    ),
    "sharding": (
        "(collective, axis, bytes, phase)",
        "FSDP2 with root and blocks freed or not, accumulation, 2 to 512 ranks and their padding, four shapes of HSDP, "
        "FSDP2 x TP with the sums of norm gradients; Llama-3-70B on 512 x 8 ranks",
    ),
    "replication": ("bytes of every bucket; broadcasts of an update", "DDP, ZeroRedundancyOptimizer"),
    "experts": ("all-to-alls, FLOPs and saved bytes of a rank", "2, 4 and 8 ranks, bf16 and autocast"),
    "pipelines": (
        "sends and receives of a rank",
        "GPipe, 1F1B, interleaved with whole and split backward passes, ZB-V, DualPipe-V; every rank of 2 and 4",
    ),
    "published models": (
        "parameters; FLOPs of forward and backward",
        "bundled models as transformers builds them: first layers of a few, then of all, parameters of all, and "
        f"{len(published_cells.WHOLE)} whole ({', '.join(published_cells.WHOLE)})",
    ),
    "kernel rows": (
        "bytes kept, kernels launched; memory traffic within 2 %",
        "each row of `kernels.yaml` named eager but those of scans and indexers, and the native ones",
    ),
    "kernel rows in backward": (
        "peak of one operator's backward pass, as the allocator sees it",
        "each of these rows but sums and concatenations",
    ),
    "steps": (
        "parameters, gradients, moments `==`; peak of a real step, as the allocator sees it",
        "Llama, GPT-2, Mixtral, latent attention, 2 to 4 layers; AdamW in a loop, on lists, fused, SGD with momentum; "
        "checkpointed or not; bf16, autocast, fp32; peaks at the loss, in a layer, in the update",
    ),
    "sharded steps": (
        "shards of parameters, gradients, moments `==`; peak of a rank, as torch's tracker sees it",
        "FSDP2, 8 and 64 ranks; Llama, GPT-2, Mixtral; four layers of Llama-3-8B; sizes that do not divide",
    ),
}  # fmt: skip

NO_CPU = (
    "Context-parallel traffic as executed: torch has no sharding rule for its CPU attention.",
    "Expert tensor parallelism, and sequence parallelism of latent attention: torch has no plan for them.",
    "Saved tensors of fused device kernels, and what a compiler's partitioner chooses to keep.",
    "Products in fp8 and fp4, and their scales.",
    "Tensor and context parallelism of recurrent mixers: torch has no plan for them. The messages follow from the same "
    "law as those of attention.",
    "Peaks on a device: `python -m llmsim.measure.device_memory` compares them where there is one.",
    "Time, overlap, fragmentation: none of them is a count.",
)  # fmt: skip


def groups() -> list[Group]:
    """All rows, from the cells."""
    found = []

    def add(name: str, usual: int, conform: int = 0, full: int = 0, tolerance: float = 0.0) -> None:
        found.append(Group(name, usual, conform, full, *_WORDS[name], tolerance))

    add("blocks", len(BLOCK_CELLS), len(WIDE_GROUPS["blocks"]))
    add("models", len(MODEL_CELLS), len(WIDE_GROUPS["models"]))
    add("passes with a cache", len(CACHED_CELLS))
    for name, cells in MESSAGE_GROUPS.items():
        add(name, len(cells), len(WIDE_GROUPS[name]), len(FULL_MESSAGE_CELLS) * (name == "sharding"))
    every = (published_cells.CUT_CELLS, published_cells.PARAMETER_CELLS, published_cells.WHOLE_CELLS)
    add("published models", 0, len(published_cells.FEW_CELLS), sum(map(len, every)))
    add("kernel rows", len(CASES) + len(SCORES))
    add("kernel rows in backward", len(BACKWARD_CASES), tolerance=0.02)
    steps, shards = memory_cells.STEP_CELLS, memory_cells.SHARD_CELLS
    usual_steps, usual_shards = len(memory_cells.USUAL_STEPS), len(memory_cells.USUAL_SHARDS)
    add("steps", usual_steps, len(steps) - usual_steps, tolerance=step_memory.TOLERANCE)
    add("sharded steps", usual_shards, len(shards) - usual_shards, tolerance=sharded_memory.TOLERANCE)
    return found


def table() -> str:
    """Which cells there are."""
    rows = [("cells", "`make test`", "`make conform`", "`make conform-full`", "agreement", "compared", "what varies")]
    rows.append(("---",) * 7)
    counted = groups()
    for g in counted:
        agreement = f"{g.tolerance:.0%}".replace("%", " %") if g.tolerance else "`==`"
        rows.append((g.name, *_numbers([g]), agreement, g.compared, g.varies))
    rows.append(("all", *_numbers(counted), "", "", ""))
    return "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |").replace("|  |", "| |") for row in rows)


def _numbers(rows: Sequence[Group]) -> tuple[str, str, str]:
    usual, conform, full = (sum(getattr(g, name) for g in rows) for name in ("usual", "conform", "full"))
    return str(usual), str(usual + conform), str(usual + conform + full)


def differences() -> str:
    """Where published code multiplies otherwise."""
    return _bullets(
        f"`{d.operator}`{' of ' + ', '.join(d.families) if d.families else ''}: transformers {d.reason}."
        for d in DIFFERENCES
    )


def _bullets(texts: Iterable[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)


def sections() -> dict[str, str]:
    """Name of a marker -> what stands between it and its end."""
    return {"cells": table(), "differences": differences(), "no-cpu": _bullets(NO_CPU)}


def filled(text: str) -> str:
    """The document with its marked sections written anew.

    Raises
    ------
    ValueError
        For a marker that is missing.
    """
    for name, body in sections().items():
        found = re.search(rf"<!-- {name}: .*? -->\n(.*?)<!-- end of {name} -->", text, re.DOTALL)
        if found is None:
            raise ValueError(f"the document has no marker {name}")
        text = f"{text[: found.start(1)]}{body}\n{text[found.end(1) :]}"
    return text


def main() -> None:
    """Print the sections, or write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write them to {DOCUMENT.name}")
    if parser.parse_args().write:
        DOCUMENT.write_text(filled(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print("\n\n".join(sections().values()))


if __name__ == "__main__":
    main()
