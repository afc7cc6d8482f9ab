"""The training job: which model, on how much of what data, and what is fixed about the way it trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..architecture import Architecture
from ..core.arguments import real, text, whole
from ..core.errors import InputError, UnsupportedError
from ..core.units import parse_batch, parse_count, parse_length

MOST = 10**9
"""Of tokens in a sequence, and of sequences in a step."""


@dataclass(frozen=True)
class TrainingJob:
    """What is to be trained, whatever plan and cluster it runs on.

    Attributes
    ----------
    model
        An architecture, a bundled name or the path of a config.json; the architecture once it is read.
    sequence, global_batch
        Tokens of a sequence, sequences of a step; ``8k`` is 8,192 tokens.
    tokens, epochs
        Training tokens (``15T`` is 15e12) and how often the job goes through them, for days and cost.
    precision, framework, release
        Recipe (of several the best), software profile; None and blank ones are taken from profiles and listed.
    optimizer
        Its name; None takes AdamW. All take equal tokens: how many reach equal loss is another question.
    adapter
        ``lora:16`` fine-tunes low-rank adapters of a frozen model; ``none`` trains every parameter.
    document_length
        Tokens of the documents packed into a sequence, one number or all of them; None: a sequence is one document.
    capacity_factor, pad_to_capacity
        An expert takes at most this many times the mean, or exactly that many; None drops nothing.
    imbalance
        Tokens of the busiest expert rank over the mean; None takes the software profile's.

    Raises
    ------
    InputError
        For a value that cannot be used.
    UnsupportedError
        For a model without a cost model.
    """

    model: Architecture | str | Path
    sequence: int | str
    global_batch: int | str
    tokens: float | str | None = None
    epochs: float = 1.0
    precision: str | Sequence[str] | None = None
    framework: str | None = None
    release: str = ""
    optimizer: str | None = None
    adapter: str = "none"
    document_length: int | str | tuple[int, ...] | None = None
    capacity_factor: float | None = None
    pad_to_capacity: bool = False
    imbalance: float | None = None

    def __post_init__(self) -> None:
        text(self.release, "release")
        for name in ("framework", "optimizer", "adapter"):
            if getattr(self, name) is not None:
                text(getattr(self, name), name, "a name")
        epochs = real(self.epochs, "epochs")
        read = {
            "sequence": parse_length(self.sequence, "sequence"),
            "global_batch": parse_batch(self.global_batch, "global_batch"),
            "tokens": None if self.tokens is None else parse_count(self.tokens, "tokens"),
            "model": self.model if isinstance(self.model, Architecture) else Architecture.from_config(self.model),
        }
        for name, value in read.items():
            object.__setattr__(self, name, value)
        if self.architecture.unsupported:
            raise UnsupportedError(
                f"{self.architecture.name}: training has no cost model for {self.architecture.unsupported}"
            )
        for name in ("sequence", "global_batch"):
            whole(getattr(self, name), name, 1, MOST)
        if read["tokens"] is not None and self.training_tokens > 1e18:
            raise InputError("tokens", self.tokens, "a number above 0 and up to 1e18", "15T")
        if not 0 < epochs <= 1e6:
            raise InputError("epochs", self.epochs, "a number above 0 and up to 1e6", 1)
        if self.tokens is None and epochs != 1:
            raise InputError(
                "epochs", self.epochs, "with tokens only: the size of the data set", why="says nothing alone"
            )

    @property
    def architecture(self) -> Architecture:
        """The model, read."""
        assert isinstance(self.model, Architecture)
        return self.model

    @property
    def training_tokens(self) -> float:
        """Tokens of the data set, 0 where nobody says."""
        return 0.0 if self.tokens is None else float(self.tokens)

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens of a sequence, sequences of a step."""
        return int(self.sequence), int(self.global_batch)
