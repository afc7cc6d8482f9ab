"""The closed form of the memory of the fullest stage: the formulas of the simulation, run on symbols."""

from __future__ import annotations

from dataclasses import fields, replace

from ..core.numeric import total
from ..training.memory import MEMORY_NAMES, MEMORY_PARTS, StageMemory, memory_of_stage, seen_memory, stage_states
from ..training.saved_activations import KindMemory, model_memory
from .closed_form import Form, stage_words
from .symbols import kind_labels

_KEPT = {
    "plain": ("A", "kept for backward"),
    "recomputing": ("A_again", "kept for backward where it recomputes"),
    "again": ("R", "made again in backward"),
    "per_step": ("A_step", "kept once a step"),
    "transients": ("Z", "alive while its largest kernel runs backward"),
    "holds": ("H", "alive while its loss runs"),
    "operands": ("O", "operands that wait for the gradients of weights"),
    "change": ("A_change", "kept more where it recomputes"),
}


def add_memory(own: Form) -> None:
    """Add the memory of the fullest stage to what can be asked for: as the driver sees it, and part by part."""
    fullest = max(range(len(own.runs)), key=lambda i: float(_memory(own, i).device_bytes))
    labels = kind_labels(own.problem.architecture)
    with own.choices("memory"):
        memory = _memory(own, fullest, [_kind(own, k, *labels[i]) for i, k in enumerate(_kinds(own))])
        found = memory.parts
    words = stage_words(own.runs[fullest])
    define = own.table.define
    parts = {n: define(f"M_{n}", v, f"{MEMORY_NAMES[n]}, {words}", "bytes") for n, v in found.items() if float(v)}
    allocated = define("M_allocated", total(parts.values()), f"allocated at the peak, {words}", "bytes")
    _, seen = seen_memory(allocated, own.constants)
    own.quantities["memory"] = define("M", seen, f"memory as the driver sees it, {words}", "bytes")
    own.quantities |= {f"memory_{name}": parts.get(name, 0.0) for name in MEMORY_PARTS}
    own.table.share()


def _kinds(own: Form) -> list[KindMemory]:
    return model_memory(own.problem, own.columns)


def _memory(own: Form, index: int, kinds: list[KindMemory] | None = None) -> StageMemory:
    stage, problem, columns = own.runs[index], own.problem, own.columns
    states = stage_states(problem, columns, stage, own.parameters)
    return memory_of_stage(problem, columns, stage, states, kinds or _kinds(own), own.constants)


def _kind(own: Form, kind: KindMemory, label: str, words: str) -> KindMemory:
    named = {
        f.name: own.table.define(f"{_KEPT[f.name][0]}_{label}", getattr(kind, f.name), f"{_KEPT[f.name][1]}, {words}",
                                "bytes")
        for f in fields(kind)
    }  # fmt: skip
    return replace(kind, **named)
