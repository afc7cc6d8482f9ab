"""What a kernel implementation keeps for backward and how often it passes over memory: rows of data, read by the
passes.

A row answers for one (operator kind, implementation): ``norm`` may be ``fused`` (keeps its input and one number a
row) or ``eager`` (keeps two 32-bit copies). The rows themselves are in ``hardware_profiles/software/kernels.yaml``; a
software profile says which implementation it uses for each kind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import InputError, UnsupportedError, unknown_name
from .operators import HIGH, names


@dataclass(frozen=True, slots=True)
class Keep:
    """One tensor that an operator keeps for its backward pass.

    Attributes
    ----------
    source
        ``read0``, ``read1`` ... or ``write``: a tensor of the operator; ``rows``: one value per row of the statistic
        (the written dimensions without those in ``over``); ``scalar``: one value; otherwise dimension names of a new
        tensor.
    format
        Storage class, or None for the tensor's own storage, shared with everyone else who keeps it. Where the class
        resolves to the tensor's own format, it is the tensor's own storage too.
    always_new
        A new storage even if the format is the same.
    per_step
        Does not grow with micro-batches (a 16-bit copy of a weight under autocast).
    copies
        How many such tensors.
    renamed
        (dimension, dimension in its place) pairs of the copy: keys repeated for every query head.
    for_weights
        Needed for the gradient of the operator's parameter alone: not kept where that is frozen.
    """

    source: str
    format: str | None = None
    always_new: bool = False
    per_step: bool = False
    copies: int = 1
    renamed: tuple[tuple[str, str], ...] = ()
    for_weights: bool = False

    @property
    def read(self) -> int | None:
        """Which read it refers to, None for anything else."""
        return int(self.source[4:]) if self.source.startswith("read") else None


@dataclass(frozen=True, slots=True)
class KernelRow:
    """One implementation of one operator kind.

    Attributes
    ----------
    keeps
        What it saves for backward.
    forward_passes, backward_passes
        Its memory traffic over the least possible: 1 for one fused kernel that reads its inputs and writes its output
        once.
    forward_launches, backward_launches
        Kernels launched.
    score_passes
        Attention that writes its scores to memory, or a scan its states: (forward, backward) passes over them.
    score_format
        Storage class of the scores or states.
    backward_products
        Attention: products with query-key width and with value width that backward executes (flash 3 and 2, since it
        computes the scores again; math 2 and 2).
    forward_holds, backward_holds
        New tensors that are alive at once while it runs forward or backward, beside what it keeps; those with a
        negative number were alive when it began and are freed by then.
    skips_masked
        Attention: whether blocks above the diagonal are skipped.
    checked
        What ``keeps`` was compared with, to the byte: ``torch 2.13``, a paper's closed form, or ``not on a CPU`` where
        the kernel exists on an accelerator only; empty where nobody has.
    """

    keeps: tuple[Keep, ...] = ()
    forward_passes: float = 1.0
    backward_passes: float = 1.0
    forward_launches: int = 1
    backward_launches: int = 1
    score_passes: tuple[float, float] = (0.0, 0.0)
    score_format: str = "activation"
    backward_products: tuple[int, int] = (3, 2)
    forward_holds: tuple[Keep, ...] = ()
    backward_holds: tuple[Keep, ...] = ()
    skips_masked: bool = True
    checked: str = ""


_KEEP = re.compile(
    r"(?:(?P<copies>-?[1-9]) )?(?P<new>new )?(?P<source>[a-z_0-9 ]+?)(?:\[(?P<renamed>[a-z_=, ]+)\])?"
    r"(?: as (?P<format>[a-z_0-9-]+))?(?P<per_step> per step)?(?P<for_weights> for weights)?"
)


def parse_keep(text: str) -> Keep:
    """``read0``, ``write as fp32``, ``new read0 as fp32``, ``2 rows as fp32``, ``batch sequence heads as fp32``,
    ``new read1[kv_heads=heads] as fp32``, ``read1 as activation per step``, ``read0 for weights``.

    Raises
    ------
    InputError
        For anything else, and for a new tensor without its format.
    """
    match = _KEEP.fullmatch(text)
    if match is None:
        raise InputError("keeps", text, "a tensor of the operator or dimension names, such as 'rows as fp32'")
    source, format = match["source"], match["format"]
    if not format and source != "write" and not re.fullmatch("read[0-9]", source):
        raise InputError("keeps", text, "a new tensor with its format, such as 'rows as fp32'")
    names(source)
    pairs = [pair.split("=") for pair in (match["renamed"] or "").split(",") if pair]
    renamed = tuple((old.strip(), new.strip()) for old, new in pairs)
    copies = int(match["copies"] or 1)
    flags = (bool(match[name]) for name in ("new", "per_step", "for_weights"))
    new, per_step, for_weights = flags
    return Keep(source, format, new, per_step, copies, renamed, for_weights)


def parse_row(data: Mapping[str, Any]) -> KernelRow:
    """A row from its YAML mapping.

    Raises
    ------
    InputError
        For an unknown key.
    """
    fields = KernelRow.__dataclass_fields__
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in fields:
            raise unknown_name("kernel row key", key, fields)
        values[key] = tuple(value) if isinstance(value, list) else value
    for key in ("keeps", "forward_holds", "backward_holds"):
        values[key] = tuple(parse_keep(k) for k in data.get(key, ()))
    return KernelRow(**values)


@dataclass(frozen=True, eq=False)
class Inventory:
    """The kernels that a software stack uses; one object a stack, compared by identity.

    Attributes
    ----------
    rows
        Operator kind -> row.
    fused
        Groups of operators whose outputs come out of one kernel and share one storage: ``("q", "k", "v")``.
    split
        Operators of such groups whose outputs are copied out into storages of their own.
    """

    rows: Mapping[str, KernelRow]
    fused: tuple[tuple[str, ...], ...] = ()
    split: frozenset[str] = frozenset()
    _group: dict[str, tuple[str, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_group", {name: group for group in self.fused for name in group})

    def row(self, kind: str) -> KernelRow:
        """The row of a kernel kind (``contract_high`` is ``contract`` where it has no row of its own).

        Raises
        ------
        UnsupportedError
            For a kind that no row covers, by name: its cost is unknown, not zero.
        """
        found = self.rows.get(kind) or self.rows.get(kind.removesuffix(HIGH))
        if found is None:
            raise UnsupportedError(f"the cost of operators of kind {kind!r} is not modelled")
        return found

    def group(self, operator: str) -> tuple[str, ...]:
        """The fusion group of an operator: itself alone if it is in none."""
        return self._group.get(operator, (operator,))

    def storage_group(self, operator: str) -> tuple[str, ...]:
        """The operators whose outputs lie in one storage with this one's."""
        return (operator,) if operator in self.split else self.group(operator)
