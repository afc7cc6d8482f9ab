"""Whole small models, messages counted by the passes and by torch: (collective, mesh axis, bytes, phase), with ``==``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..core.data_parallel import Stored, Unit, UnitMessage, data_parallel_messages
from ..core.formats import get_format
from ..core.messages import Message, derive_messages, repeated_messages
from ..core.operators import Operator
from ..core.parameters import derive_parameters
from ..core.saved import derive_saved, saved_terms
from ..core.sharding import Sharding, mesh_sharding
from ..core.terms import Sizes
from ..layers.base import Norm
from ..layers.ends import embedding, head
from .counters import CollectiveEvent, Phase
from .pairs import CLASSES, BlockSpec, inventory, layer_operators, regions
from .parallel import Events


@dataclass(frozen=True)
class TensorCell:
    """A model of equal blocks under tensor parallelism of some degree."""

    spec: BlockSpec
    degree: int
    sequence_parallel: bool = True
    shared_input: bool = True
    layers: int = 2


def model_parts(spec: BlockSpec, layers: int) -> list[tuple[Sequence[Operator], int, bool]]:
    """(operators, how often, whether a block) of embedding, blocks and head."""
    norm = Norm("layer_norm", True) if spec.family == "gpt2" else Norm()
    return [
        (embedding().operators, 1, False),
        (layer_operators(spec), layers, True),
        (head(tied=False, norm=norm).operators, 1, False),
    ]


def events_of(messages: Iterable[Message], values: Sizes, times: int = 1, phase: Phase | None = None) -> Events:
    """Our messages as torch would log them."""
    result: Events = Events()
    for m in messages:
        group = "·".join(m.axes)
        result[CollectiveEvent(m.collective, group, values.bytes(m.payload), phase or m.phase)] += times
    return result


def derived_tensor_parallel(cell: TensorCell) -> tuple[Events, int]:
    """What ``parallel.run_tensor_parallel`` measures, from the passes."""
    spec, kernels = cell.spec, inventory(cell.spec, loss="parallel")
    sharding = mesh_sharding(sequence_parallel=cell.sequence_parallel)
    values = spec.values({"tp": cell.degree})
    events: Events = Events()
    kept = 0
    for operators, times, is_block in model_parts(spec, cell.layers):
        messages = derive_messages(operators, sharding, kernels, shared_input=cell.shared_input)
        messages = tuple(m for m in messages if m.axes == ("tp",))
        savings = derive_saved(
            operators,
            sharding,
            kernels,
            formats=CLASSES[spec.precision],
            regions=regions(spec, operators) if is_block else (),
        )
        events += events_of(messages, values, times)
        events += events_of(repeated_messages(messages, savings.recomputed), values, times, "recompute")
        kept += times * values.size(saved_terms(savings.kept))
    return events, kept
