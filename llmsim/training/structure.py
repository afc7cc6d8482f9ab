"""The structural half of a training plan: what its layers' times depend on, and what they compute again; and the terms
of what they keep for backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

from ..core.operators import Operator
from ..core.saved import Savings, derive_saved, weight_operands
from ..core.terms import Terms
from ..core.transients import derive_holds, derive_transients
from ..layers.base import LayerKind
from ..plans.recompute import NONE, Recompute, regions
from ..timing.structure import Structure, derivation


@dataclass(frozen=True)
class TrainingStructure(Structure):
    """What is structure in a training plan.

    Attributes
    ----------
    recompute
        What is computed again in backward.
    """

    recompute: Recompute = field(default=NONE, kw_only=True)

    @property
    def timed(self) -> Structure:
        """The part of it that times of single passes depend on."""
        return Structure(**{f.name: getattr(self, f.name) for f in fields(Structure)})


@dataclass(frozen=True, eq=False)
class ActivationTerms:
    """What one layer kind keeps under one structure.

    Attributes
    ----------
    plain, recomputing
        What is saved, in a layer that recomputes nothing and in one that does as the structure says.
    transients
        What is alive while each of its kernels runs backward.
    holds
        New tensors of kernels that say so, alive while these run backward.
    operands
        What gradients of weights still need once those of inputs are there.
    """

    plain: Savings
    recomputing: Savings
    transients: tuple[Terms, ...]
    holds: Terms
    operands: Terms


def activation_terms(kind: LayerKind, structure: TrainingStructure, *, recomputes: bool = True) -> ActivationTerms:
    """What a layer kind keeps, derived once for whatever the derivation depends on.

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
    base = ("activations", derivation(structure))
    found: ActivationTerms | None = kind.derived.get((*base, recompute))
    if found is None:
        plain: ActivationTerms | None = kind.derived.get((*base, NONE))
        if plain is None:
            plain = kind.derived[(*base, NONE)] = _plain(kind.operators, structure)
        recomputing = _recomputing(kind.operators, structure, recompute, plain.plain)
        found = kind.derived[(*base, recompute)] = replace(plain, recomputing=recomputing)
    return found


def _plain(operators: Sequence[Operator], structure: TrainingStructure) -> ActivationTerms:
    """What a layer keeps that recomputes nothing."""
    software, sharding, inventory = structure.software, structure.sharding, structure.inventory
    formats, gather = structure.format_names(), structure.gather_policy
    plain = derive_saved(operators, sharding, inventory, formats=formats, gather=gather)
    return ActivationTerms(
        plain,
        plain,
        derive_transients(operators, sharding, inventory, weight_gradients=not software.stack.accumulates_in_place),
        derive_holds(operators, sharding, inventory),
        weight_operands(
            operators, sharding, inventory, formats=formats, gather=gather, shared_input=software.stack.shared_input
        ),
    )


def _recomputing(
    operators: Sequence[Operator], structure: TrainingStructure, recompute: Recompute, plain: Savings
) -> Savings:
    """What is saved in a layer that recomputes."""
    again = regions(operators, recompute)
    if not again:
        return plain
    return derive_saved(
        operators,
        structure.sharding,
        structure.inventory,
        formats=structure.format_names(),
        gather=structure.gather_policy,
        regions=again,
        early_stop=structure.software.training.early_stop,
    )
