"""Activations of one layer and one micro-batch: what it keeps on the device, and the transfers of what it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..architecture import body_kinds, model_kinds
from ..core.numeric import Number, maximum, total
from ..core.saved import saved_terms
from ..core.terms import Sizes
from ..timing.columns import Columns, kind_sizes
from .problem import Problem
from .structure import ActivationTerms, activation_terms


@dataclass(frozen=True)
class KindMemory:
    """Activations of one layer and one micro-batch, bytes.

    Attributes
    ----------
    plain, recomputing
        Kept from forward to backward by a layer that recomputes nothing, and by one that recomputes.
    again
        Made anew while a recomputing layer's backward runs.
    per_step
        Kept once a step, however many micro-batches there are.
    transients
        The most that is alive beside that while one of its kernels runs backward.
    holds
        New tensors that its kernels say are alive while they run backward (a loss and its gradient in 32 bits).
    operands
        Kept between the gradients of inputs and those of weights.
    change
        What a recomputing layer keeps more than a plain one (less, if negative).
    """

    plain: Number
    recomputing: Number
    again: Number
    per_step: Number
    transients: Number
    holds: Number
    operands: Number
    change: Number


def kind_memory(terms: ActivationTerms, sizes: Sizes) -> KindMemory:
    """What one layer keeps."""
    plain, recomputing = (sizes.size(saved_terms(own.kept)) for own in (terms.plain, terms.recomputing))
    return KindMemory(
        plain,
        recomputing,
        sizes.size(saved_terms(terms.recomputing.again)),
        sizes.size(saved_terms(terms.plain.kept, per_step=True)),
        maximum(0, *(sizes.size(t) for t in terms.transients)),
        sizes.size(terms.holds),
        sizes.size(terms.operands),
        recomputing - plain,
    )


def model_memory(problem: Problem, columns: Columns) -> list[KindMemory]:
    """What one layer of each kind keeps."""
    body = body_kinds(problem.architecture)
    return [
        kind_memory(
            activation_terms(k, problem.structure, recomputes=i < body), kind_sizes(k, columns, problem.structure)
        )
        for i, k in enumerate(model_kinds(problem.architecture))
    ]


@dataclass(frozen=True)
class KeptTransfers:
    """What layers of the body send to the host in forward, and fetch in backward.

    Attributes
    ----------
    plain, recomputing
        Seconds, one way, of a mean layer of each kind that recomputes nothing, and of one that recomputes.
    hidden
        Fraction of a transfer that may run beside compute.
    """

    plain: Sequence[Number]
    recomputing: Sequence[Number]
    hidden: Number

    def seconds(self, counts: Sequence[Number], recomputed: Sequence[Number]) -> Number:
        """One way, of some layers, how many of which recompute."""
        each = zip(self.plain, self.recomputing, counts, recomputed, strict=False)  # the ends send nothing
        return total(n * plain + again * (other - plain) for plain, other, n, again in each)

    def exposed(self, beside_s: Number, transfer_s: Number) -> Number:
        """What of a transfer is not hidden under the layers' own pass. Copies have engines of their own and take little
        of the device's bandwidth, so that nothing slows down."""
        return maximum(transfer_s - beside_s, (1 - self.hidden) * transfer_s)


def kept_transfers(memories: Sequence[KindMemory], share: Number, bandwidth: Number, hidden: Number) -> KeptTransfers:
    """The transfers of the body's layers, of which a share sends all that it keeps.

    Parameters
    ----------
    memories
        Of the body's kinds.
    bandwidth
        Between device and host, one way, bytes/s.
    """
    plain, recomputing = (
        [share * v / bandwidth for v in own] for own in ([m.plain for m in memories], [m.recomputing for m in memories])
    )
    return KeptTransfers(plain, recomputing, hidden)
