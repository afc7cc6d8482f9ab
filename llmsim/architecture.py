"""What a model is: its layers by kind, its two ends, and how many parameters that makes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from typing import Any

from .core.operator_kinds import OPERATOR_KINDS
from .layers.base import LayerKind


@dataclass(frozen=True, eq=False, repr=False)
class Architecture:
    """A Transformer, or a relative of it, as a sequence of layers of few kinds.

    Attributes
    ----------
    name
        The bundled name, the file's own name, or the model type where there is neither.
    model_type
        The family, as config.json calls it (``llama``, ``deepseek_v3`` ...): of the language model where it is nested.
    layers
        The kind of each layer, by name and in order.
    kinds
        Name -> kind: operators and sizes. Architectures of one structure share the operators.
    embedding, head
        The two ends; what they have in common (a tied table) has one name in both.
    left_out
        What its file says beside this: stored formats of weights, towers of other modalities.
    mtp
        The multi-token-prediction modules. They are trained with the model, and not counted in ``parameters``.
    tied
        Whether the head uses the embedding table.
    hidden, vocab
        Width of the residual stream, rows of the embedding table.
    max_positions
        The longest sequence that the model was made for, None where its file does not say.

    Examples
    --------
    >>> model = Architecture.from_config("llama-3-8b")
    >>> model.parameters
    8030261248
    >>> model.layers[0], len(model.layers)
    ('gqa+mlp', 32)
    """

    name: str
    model_type: str
    layers: tuple[str, ...]
    kinds: Mapping[str, LayerKind]
    embedding: LayerKind
    head: LayerKind
    tied: bool
    hidden: int
    vocab: int
    max_positions: int | None = None
    mtp: tuple[LayerKind, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_config(
        cls,
        source: str | PathLike[str] | Mapping[str, Any],
        *,
        search: Sequence[str | PathLike[str]] = (),
        ignore: Iterable[str] = (),
    ) -> Architecture:
        """Read an architecture from Hugging Face's ``config.json``.

        Parameters
        ----------
        source
            The path of a file or of a directory with a ``config.json``; a bundled name, a hub id or another spelling
            of it (``llama-3-70b``, ``meta-llama/Meta-Llama-3-70B``); or the contents as a mapping. Keys that begin
            with an underscore are comments.
        search
            Directories whose ``architectures/<name>.json`` or ``<name>.json`` come before a bundled model.
        ignore
            Keys to load without although they are not understood (``text_config.key`` for nested ones).

        Raises
        ------
        InputError
            For a file that cannot be read, an unknown name, an unknown model type, a missing or wrong value, two
            spellings of one field that disagree, or a key that is not understood and could change the cost.
        """
        from .huggingface import load_architecture

        return load_architecture(source, search=search, ignore=ignore)

    @cached_property
    def parameters(self) -> int:
        """Elements of all distinct parameters: a tied table counts once; buffers and the multi-token-prediction
        modules do not count."""
        return self._count()

    @cached_property
    def active_parameters(self) -> int:
        """The parameters without the routed experts that a token is not sent to; embedding and head count in full."""
        return self._count(active=True)

    @cached_property
    def parameters_with_mtp(self) -> int:
        """The parameters and those that the multi-token-prediction modules do not share with the ends."""
        shared = {**self.embedding.parameter_counts(), **self.head.parameter_counts()}
        own = (n for kind in self.mtp for name, n in kind.parameter_counts().items() if name not in shared)
        return self.parameters + sum(own)

    @cached_property
    def trained_parameters(self) -> int:
        """The parameters that have gradients: all of them, unless some are frozen."""
        return self._count(trained=True)

    @cached_property
    def unsupported(self) -> str | None:
        """What has no cost model, in words, or None. Parameters are exact all the same."""
        kinds = {op.kind: None for kind in self.kinds.values() for op in kind.operators}
        return ", ".join(f"operators of kind {kind}" for kind in kinds if kind not in OPERATOR_KINDS) or None

    @cached_property
    def has_experts(self) -> bool:
        """Whether any layer, prediction modules included, is a mixture of experts."""
        return any(kind.is_moe for kind in (*self.kinds.values(), *self.mtp))

    @cached_property
    def is_encoder_decoder(self) -> bool:
        """Whether a decoder attends to the output of an encoder."""
        return any("memory" in op.over for kind in self.kinds.values() for op in kind.operators)

    def assumed(self, sequence: int) -> dict[str, str]:
        """What its cost takes for granted at a sequence length, and a plan cannot say."""
        found = dict(self.left_out)
        if self.is_encoder_decoder:
            found["encoder"] = "its sequences are as long and as many as the decoder's"
        if self.max_positions is not None and sequence > self.max_positions:
            found["positions"] = f"{sequence:,} where the model was made for {self.max_positions:,}"
        return found

    def _count(self, *, active: bool = False, trained: bool = False) -> int:
        def counts(kind: LayerKind) -> dict[str, int]:
            return kind.parameter_counts(active=active, trained=trained)

        per_kind = {name: sum(counts(kind).values()) for name, kind in self.kinds.items()}
        ends = {**counts(self.embedding), **counts(self.head)}
        return sum(ends.values()) + sum(n * per_kind[name] for name, n in Counter(self.layers).items())

    def __repr__(self) -> str:
        kinds = ", ".join(f"{n} x {name}" for name, n in Counter(self.layers).items())
        return f"Architecture({self.name!r}, {self.model_type}, {kinds}, {self.parameters:,} parameters)"


def model_kinds(architecture: Architecture) -> tuple[LayerKind, ...]:
    """Layer kinds of the body, then embedding, head and each multi-token-prediction module."""
    return (*architecture.kinds.values(), architecture.embedding, architecture.head, *architecture.mtp)


def body_kinds(architecture: Architecture) -> int:
    """How many of :func:`model_kinds` are body layers, the ones that recomputation applies to."""
    return len(architecture.kinds)
