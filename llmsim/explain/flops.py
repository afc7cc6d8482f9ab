"""FLOPs that a step executes, and those that the convention of its MFU counts, by class of work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..architecture import Architecture
from ..core.numeric import Number
from ..core.work import Work
from ..layers.base import LayerKind
from ..plans.training import TrainingPlan
from ..timing.columns import Columns, kind_sizes, visible_sizes
from ..timing.conventions import Convention, flops_per_token
from ..timing.step_constants import StepConstants
from ..timing.structure import Structure, layer_terms


def executed_flops(
    kind: LayerKind, structure: Structure, columns: Columns, constants: StepConstants
) -> dict[str, float]:
    """Class of work -> FLOPs of one layer forward and backward on one rank, one micro-batch, nothing computed again."""
    sizes = kind_sizes(kind, columns, structure)
    seen = visible_sizes(kind, sizes, structure.documents)
    found: dict[str, float] = {}
    for work in layer_terms(kind, structure).work:
        flops = float((seen if work.masked_flops else sizes).count(work.flops))
        for name, share in _classes(work, sizes.count(work.groups), structure, constants).items():
            found[name] = found.get(name, 0.0) + flops * share
    return found


def _classes(work: Work, groups: Number, structure: Structure, c: StepConstants) -> dict[str, float]:
    """Shares of a kernel's FLOPs by the class that it is rated in: a grouped product of one group is a plain one."""
    low = structure.recipe.converts
    match work.kind:
        case "gemm":
            return {c.low_class if low and work.low_precision else c.high_class: 1.0}
        case "grouped_gemm":
            return {c.low_class if low else c.high_class: 1 / float(groups), "grouped": 1 - 1 / float(groups)}
        case "attention":
            return {"attention": 1.0}
        case "scan" | "recurrence":
            return {"scan": 1.0}
        case _:
            return {}


def class_peaks(structure: Structure, c: StepConstants) -> dict[str, float]:
    """Class of work -> peak of the format that it is computed in, FLOP/s."""
    core = float(c.attention_peak)
    grouped = float(c.low.peak if structure.recipe.converts else c.high.peak)
    return {
        c.high_class: float(c.high.peak), c.low_class: float(c.low.peak), "grouped": grouped, "attention": core,
        "scan": core,
    }  # fmt: skip


def counted_flops(architecture: Architecture, plan: TrainingPlan) -> dict[str, float]:
    """FLOPs per token that the convention of the MFU counts: of attention, of scans, and of products."""
    whole, rest, products = (
        _mean(architecture, plan, convention)
        for convention in (Convention(), Convention(attention="none"), Convention(attention="none", scan=False))
    )
    return {"attention": whole - rest, "scan": rest - products, "products": products}


def _mean(architecture: Architecture, plan: TrainingPlan, convention: Convention) -> float:
    """The mean over the tokens of the documents that a sequence packs."""
    documents: Sequence[tuple[int, int]] = plan.documents or ((plan.sequence_length, 1),)
    each = (n * length * float(flops_per_token(architecture, length, convention)) for length, n in documents)
    return sum(each) / plan.sequence_length


def families(classes: Mapping[str, float]) -> dict[str, float]:
    """FLOPs of classes as those of attention, of scans and of products."""
    own = {"attention": classes.get("attention", 0.0), "scan": classes.get("scan", 0.0)}
    return {**own, "products": sum(classes.values()) - sum(own.values())}
