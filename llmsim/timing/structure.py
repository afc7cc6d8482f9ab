"""What the time of a layer depends on beside the sizes of its plan, and the terms that follow from it, derived once on
names.

A table of plans is split by structure first; inside one structure all plans share their terms, and only values differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from ..core.formats import Format
from ..core.inventory import Inventory
from ..core.messages import GatherPolicy, Message, derive_messages
from ..core.parameters import Parameter, derive_parameters
from ..core.sharding import Sharding, mesh_sharding
from ..core.state import State, derive_state
from ..core.work import Work, derive_work
from ..hardware.software import Software, get_software
from ..layers.base import LayerKind
from ..plans.precision import Precision, get_precision, storage_classes
from ..plans.training import Overlap

Documents: TypeAlias = tuple[tuple[int, int], ...]


_storage_classes = lru_cache(maxsize=256)(storage_classes)


@dataclass(frozen=True)
class Structure:
    """What a layer's time depends on beside sizes: stack, precision, layout, what is hidden behind what.

    Hashable, and the key of everything derived.

    Attributes
    ----------
    framework, release
        Software profile.
    precision
        Recipe name.
    sequence_parallel
        Whether tensor parallelism shards the sequence too.
    context_kind
        See :data:`~llmsim.core.sharding.ContextKind`.
    overlap
        What is hidden behind compute: as the software ``profile`` says, ``none``, or besides ``tensor`` (parallel
        tiles) or ``expert`` (beside the other half of a batch).
    dispatcher
        How tokens reach their experts: ``profile``, ``deepep`` or ``hybridep``.
    documents
        (length, how many) of those packed into a sequence, which attention does not cross; none where it is one.
    """

    framework: str
    release: str = ""
    precision: str = "bf16"
    sequence_parallel: bool = True
    context_kind: str = "ring"
    overlap: Overlap = "profile"
    dispatcher: str = "profile"
    documents: Documents = ()

    @property
    def software(self) -> Software:
        """Its profile."""
        return get_software(self.framework, self.release)

    @property
    def recipe(self) -> Precision:
        """Its precision recipe."""
        return get_precision(self.precision)

    @property
    def inventory(self) -> Inventory:
        """The kernels that run: those of the software, with products as the recipe wants them."""
        if self.recipe.converts:
            return self.software.stack.inventory(contract=self.software.stack.converted_products, contract_high="plain")
        return self.software.stack.inventory()

    @property
    def sharding(self) -> Sharding:
        """Its layout rule."""
        return mesh_sharding(sequence_parallel=self.sequence_parallel, context_kind=self.context_kind)

    def formats(self) -> Mapping[str, Format]:
        """Storage class -> format."""
        return _storage_classes(self.recipe, self.software.training.formats)

    def format_names(self) -> dict[str, str]:
        """Storage class -> name of its format."""
        return {name: f.name for name, f in self.formats().items()}

    @property
    def gather_policy(self) -> dict[str, GatherPolicy]:
        """Axis -> what becomes of a gathered copy."""
        policy: dict[str, GatherPolicy] = {str(axis): how for axis, how in self.software.stack.gather.items()}
        if "ring" in self.context_kind:
            policy["cp"] = "stream"
        elif policy.get("cp") == "stream":
            policy["cp"] = "again"
        return policy


@dataclass(frozen=True, eq=False)
class LayerTerms:
    """The terms of one layer kind under one structure, see :mod:`llmsim.core`."""

    work: tuple[Work, ...]
    messages: tuple[Message, ...]
    parameters: tuple[Parameter, ...]


def layer_terms(kind: LayerKind, structure: Structure) -> LayerTerms:
    """The terms of a layer kind, derived once for whatever the derivation depends on.

    Raises
    ------
    UnsupportedError
        For an operator kind without a cost, by name.
    """
    key = ("layer", derivation(structure))
    found: LayerTerms | None = kind.derived.get(key)
    if found is None:
        operators, sharding, inventory = kind.operators, structure.sharding, structure.inventory
        shared, gather = structure.software.stack.shared_input, structure.gather_policy
        found = kind.derived[key] = LayerTerms(
            derive_work(operators, sharding, inventory),
            derive_messages(operators, sharding, inventory, shared_input=shared, gather=gather),
            derive_parameters(operators, sharding),
        )
    return found


@lru_cache(maxsize=1024)
def derivation(structure: Structure) -> tuple[object, ...]:
    """What the derivation of terms depends on: releases and recipes that agree in it share their terms."""
    software = structure.software
    return (
        structure.inventory,
        structure.sequence_parallel,
        structure.context_kind,
        tuple(sorted(structure.format_names().items())),
        tuple(sorted(structure.gather_policy.items())),
        software.stack.shared_input,
        software.training.early_stop,
        software.stack.accumulates_in_place,
    )


def layer_state(kind: LayerKind, structure: Structure) -> State:
    """What a layer keeps of a sequence between passes, derived once.

    Where positions see those behind them it keeps nothing: a new one changes what all others make.
    """
    if not kind.causal:
        return State()
    key = ("state", structure.sequence_parallel, structure.context_kind)
    found: State | None = kind.derived.get(key)
    if found is None:
        found = kind.derived[key] = derive_state(kind.operators, structure.sharding)
    return found
