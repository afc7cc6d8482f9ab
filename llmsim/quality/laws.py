"""Laws of the loss in parameters and training tokens, each valid within itself only.

Losses are nats per token. Laws disagree by a tenth of a nat and more (other text, other tokens): differences are
compared within a law, and how many laws agree on a winner is part of an answer.

References
----------
Hoffmann 2022 (approach 3), arXiv:2203.15556; its refit, Besiroglu 2024, arXiv:2404.10102; Muennighoff 2023 (repeated
data), arXiv:2305.16264; Sardana 2023 (all runs), arXiv:2401.00448; critical batch: Zhang 2024, arXiv:2410.21676;
optimizers: Wen 2025, arXiv:2509.02046.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..core.errors import InputError


@dataclass(frozen=True)
class LossLaw:
    """``E + A / N**a + B / D**b`` in parameters ``N`` and tokens ``D``.

    Attributes
    ----------
    name, source
        Which one.
    floor, size, tokens, size_exponent, token_exponent
        ``E``, ``A``, ``B``, ``a``, ``b``, not rounded further than they are printed.
    largest
        Parameters of the largest model that it was fitted to: beyond, it is extrapolated.
    """

    name: str
    source: str
    floor: float
    size: float
    tokens: float
    size_exponent: float
    token_exponent: float
    largest: float

    def loss(self, parameters: float, tokens: float) -> float:
        """Nats per token after training once on so many tokens."""
        own = self.size / parameters**self.size_exponent
        return float(self.floor + own + self.tokens / tokens**self.token_exponent)

    def optimum(self, flops: float) -> tuple[float, float]:
        """Parameters and tokens of least loss with ``6 N D`` training FLOPs."""
        a, b = self.size_exponent, self.token_exponent
        ratio = (a * self.size / (b * self.tokens)) ** (1 / (a + b))
        parameters = ratio * (flops / 6) ** (b / (a + b))
        return parameters, flops / 6 / parameters

    def best_loss(self, flops: float) -> float:
        """Nats per token at the optimum."""
        return self.loss(*self.optimum(flops))


LAWS = {
    law.name: law
    for law in (
        LossLaw("besiroglu", "arXiv:2404.10102", 1.8172, 482.01, 2085.43, 0.3478, 0.3658, 1.6e10),
        LossLaw("hoffmann", "arXiv:2203.15556", 1.6934, 406.4, 410.7, 0.3392, 0.2849, 1.6e10),
        LossLaw(
            "muennighoff",
            "arXiv:2305.16264",
            math.exp(0.6254804),
            math.exp(6.255414),
            math.exp(7.3049974),
            0.3526596,
            0.3526596,
            8.7e9,
        ),
        LossLaw("sardana", "arXiv:2401.00448", 1.45, 33.66, 138.9, 0.18, 0.24, 6e9),
    )
}
"""Laws by name; the first is the default."""
DEFAULT = "besiroglu"


def get_law(name: str) -> LossLaw:
    """A law by name.

    Raises
    ------
    InputError
        For an unknown one.
    """
    if name not in LAWS:
        raise InputError("law", name, ", ".join(LAWS), DEFAULT)
    return LAWS[name]


REPEATED_TOKENS, REPEATED_SIZE = 15.387756, 5.309743
"""How fast further epochs, and parameters beyond the optimum of unique data, lose their worth (Muennighoff 2023)."""


def repeated_loss(parameters: float, tokens: float, unique: float, law: LossLaw | None = None) -> float:
    """Nats per token after training on ``tokens``, of which ``unique`` are different (Muennighoff 2023, equation 5).

    Raises
    ------
    InputError
        For unique tokens that are not above 0.
    """
    if not unique > 0:
        raise InputError("unique tokens", unique, "tokens above 0", tokens)
    own = law or LAWS["muennighoff"]
    a, b = own.size_exponent, own.token_exponent
    ratio = (a * own.size / (b * own.tokens)) ** (1 / (a + b))
    data = min(tokens, unique)
    wanted = min(parameters, (data * ratio) ** (b / a) * ratio)  # what so many unique tokens are the optimum of
    return own.loss(_worth(parameters, wanted, REPEATED_SIZE), _worth(tokens, data, REPEATED_TOKENS))


def _worth(amount: float, unique: float, rate: float) -> float:
    repeats = max(amount / unique - 1, 0.0)
    return unique + unique * rate * (1 - math.exp(-repeats / rate))


def compute_factor(delta_nats: float, flops: float, law: LossLaw | None = None) -> float:
    """What share of the training compute a loss is worth: at its optimum the loss is ``delta_nats`` higher.

    Raises
    ------
    InputError
        For a loss below 0.
    """
    if delta_nats < 0:
        raise InputError("delta_nats", delta_nats, "nats per token, at least 0", 0)
    own = law or LAWS[DEFAULT]
    target = own.best_loss(flops) + delta_nats
    low, high = -60.0, 0.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if own.best_loss(flops * math.exp(middle)) <= target else (middle, high)
    return math.exp(high)


def served_optimum(
    flops: float, inference_tokens: float, law: LossLaw | None = None, *, inference_cost: float = 1.0
) -> tuple[float, float]:
    """Parameters and tokens of the least ``6 N D + 2 N D_served`` at the loss that ``flops`` reach without serving
    (Sardana 2023).

    Parameters
    ----------
    inference_tokens
        Tokens that the model will read and write.
    inference_cost
        Of a FLOP in serving over one in training, by the share of the peak that each reaches and what it is paid.
    """
    own = law or LAWS[DEFAULT]
    target = own.best_loss(flops)

    def total(log_size: float) -> float:
        size = math.exp(log_size)
        return 6 * size * _tokens_to(own, size, target) + 2 * inference_cost * size * inference_tokens

    best, _ = own.optimum(flops)
    least = math.log((own.size / (target - own.floor)) ** (1 / own.size_exponent)) + 1e-9
    size = math.exp(_least(total, least, math.log(best) + 1e-9))
    return size, _tokens_to(own, size, target)


def _tokens_to(law: LossLaw, parameters: float, loss: float) -> float:
    left = loss - law.floor - law.size / parameters**law.size_exponent
    return math.inf if left <= 0 else (law.tokens / left) ** (1 / law.token_exponent)


def _least(value: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one minimum is least, by golden sections."""
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(120):
        first, second = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, second) if value(first) <= value(second) else (first, high)
    return (low + high) / 2


def step_efficiency(optimizer: str, parameters: float) -> tuple[float, float]:
    """Between which factors AdamW needs more tokens than an optimizer to the same loss.

    Muon and SOAP: 1.4 at 0.1 billion parameters and 1.1 at 1.2 billion (Wen 2025), in between on the line of the
    logarithm; beyond, from 1 to 1.1. Of others nothing sure is published: 1 to 1 for AdamW and its narrow forms.

    Raises
    ------
    InputError
        For an optimizer of which nothing is known.
    """
    same = ("adamw", "adam-8bit", "adafactor", "lion")
    if optimizer in same:
        return 1.0, 1.0
    if optimizer not in ("muon", "soap", "shampoo"):
        raise InputError("optimizer", optimizer, ", ".join((*same, "muon", "soap", "shampoo")), "adamw")
    place = min(max(math.log(parameters / 1e8) / math.log(12), 0.0), 1.0)
    high = 1.4 + place * (1.1 - 1.4)
    return (1.0 if place >= 1 else 1 + (high - 1) / 2), high


def critical_batch(tokens: float) -> float:
    """Tokens of a batch beyond which more devices hardly save steps: ``22.91 D**0.47`` (Zhang 2024; of its
    prefactor nobody has made sure)."""
    return float(22.91 * tokens**0.47)
