"""The structural half of a plan, and the terms that follow from it: everything that may branch, derived once on names.

A table of plans is split by structure first (sequence parallelism, context kind, recompute, software, precision);
inside one structure all plans share their terms, and only values differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TypeAlias

from ..core.formats import Format
from ..core.inventory import Inventory
from ..core.messages import GatherPolicy, Message, derive_messages
from ..core.operators import Operator
from ..core.parameters import Parameter, derive_parameters
from ..core.saved import Savings, derive_saved, weight_operands
from ..core.sharding import Sharding, mesh_sharding
from ..core.terms import Terms
from ..core.transients import derive_holds, derive_transients
from ..core.work import Work, derive_work
from ..hardware.software import Software, get_software
from ..layers.base import LayerKind
from ..plans.precision import Precision, get_precision, storage_classes
from ..plans.recompute import NONE, Recompute, regions
from ..plans.training import Overlap

Documents: TypeAlias = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Structure:
    """What is structure in a plan: hashable, and the key of everything derived.

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
    recompute
        What is computed again in backward.
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
    recompute: Recompute = field(default=NONE)
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
            return self.software.inventory(contract=self.software.converted_products, contract_high="plain")
        return self.software.inventory()

    @property
    def sharding(self) -> Sharding:
        """Its layout rule."""
        return mesh_sharding(sequence_parallel=self.sequence_parallel, context_kind=self.context_kind)

    def formats(self) -> dict[str, Format]:
        """Storage class -> format."""
        return storage_classes(self.recipe, self.software.formats)


@dataclass(frozen=True, eq=False)
class KindTerms:
    """The terms of one layer kind under one structure.

    Attributes
    ----------
    work, messages, parameters
        See :mod:`llmsim.core`.
    plain, recomputing
        What is saved, in a layer that recomputes nothing and in one that does as the structure says.
    transients
        What is alive while each of its kernels runs backward.
    holds
        New tensors of kernels that say so, alive while these run backward.
    operands
        What gradients of weights still need once those of inputs are there.
    """

    work: tuple[Work, ...]
    messages: tuple[Message, ...]
    parameters: tuple[Parameter, ...]
    plain: Savings
    recomputing: Savings
    transients: tuple[Terms, ...]
    holds: Terms
    operands: Terms


_CACHE: dict[tuple[object, ...], tuple[object, KindTerms]] = {}


def kind_terms(kind: LayerKind, structure: Structure, *, recomputes: bool = True) -> KindTerms:
    """The terms of a layer kind, derived once per list of operators and whatever the derivation depends on.

    Parameters
    ----------
    recomputes
        False for the ends of a model, which are never recomputed.

    Raises
    ------
    UnsupportedError
        For an operator kind without a cost, by name.
    """
    recompute = structure.recompute if recomputes else NONE
    base = (id(kind.operators), derivation(structure))
    found = _CACHE.get((*base, recompute))
    if found is None:
        plain = _CACHE.get((*base, NONE))
        if plain is None:
            # The operators are kept beside the terms, so that their id stays theirs.
            plain = _CACHE[(*base, NONE)] = (kind.operators, _derive(kind.operators, structure))
        terms = replace(plain[1], recomputing=_recomputing(kind.operators, structure, recompute, plain[1].plain))
        found = _CACHE[(*base, recompute)] = (kind.operators, terms)
    return found[1]


@lru_cache(maxsize=1024)
def derivation(structure: Structure) -> tuple[object, ...]:
    """What the derivation depends on: releases and recipes that agree in it share their terms."""
    software = structure.software
    formats = tuple(sorted((name, f.name) for name, f in structure.formats().items()))
    return (
        id(structure.inventory),
        structure.sequence_parallel,
        structure.context_kind,
        formats,
        tuple(sorted(_gather(structure).items())),
        software.shared_input,
        software.early_stop,
        software.accumulates_in_place,
    )


def _gather(structure: Structure) -> dict[str, GatherPolicy]:
    policy: dict[str, GatherPolicy] = {str(axis): how for axis, how in structure.software.gather.items()}
    if "ring" in structure.context_kind:
        policy["cp"] = "stream"
    elif policy.get("cp") == "stream":
        policy["cp"] = "again"
    return policy


def _derive(operators: Sequence[Operator], structure: Structure) -> KindTerms:
    """The terms of a layer that recomputes nothing."""
    software, sharding = structure.software, structure.sharding
    inventory, gather = structure.inventory, _gather(structure)
    plain = derive_saved(operators, sharding, inventory, formats=_format_names(structure), gather=gather)
    operands = weight_operands(
        operators,
        sharding,
        inventory,
        formats=_format_names(structure),
        gather=gather,
        shared_input=software.shared_input,
    )
    return KindTerms(
        derive_work(operators, sharding, inventory),
        derive_messages(operators, sharding, inventory, shared_input=software.shared_input, gather=gather),
        derive_parameters(operators, sharding),
        plain,
        plain,
        derive_transients(operators, sharding, inventory, weight_gradients=not software.accumulates_in_place),
        derive_holds(operators, sharding, inventory),
        operands,
    )


def _recomputing(operators: Sequence[Operator], structure: Structure, recompute: Recompute, plain: Savings) -> Savings:
    """What is saved in a layer that recomputes."""
    again = regions(operators, recompute)
    if not again:
        return plain
    return derive_saved(
        operators,
        structure.sharding,
        structure.inventory,
        formats=_format_names(structure),
        gather=_gather(structure),
        regions=again,
        early_stop=structure.software.early_stop,
    )


def _format_names(structure: Structure) -> dict[str, str]:
    return {name: f.name for name, f in structure.formats().items()}
