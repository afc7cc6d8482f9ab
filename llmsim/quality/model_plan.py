"""Which model to train with a cluster and a number of days: how large, and on how many tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .._version import __version__
from ..architecture import Architecture
from ..core.errors import InputError
from ..hardware.cluster import Cluster
from .laws import DEFAULT, LAWS, critical_batch, repeated_loss, served_optimum, step_efficiency

SCHEMA = "llmsim.model-plan/1"
DAY = 86400.0
LIKE = ("llama-3.2-1b", "llama-3-8b", "llama-3-70b", "llama-3.1-405b")
"""Models whose share of the peak stands for that of others of about their size."""
SEQUENCE, BATCH_TOKENS = 8192, 4_194_304
"""Of the training that is simulated."""


@dataclass(frozen=True)
class LawAnswer:
    """What one law says.

    Attributes
    ----------
    law, source
        Which one.
    parameters, tokens, loss
        Of the optimum, with serving if it was asked for; the loss only compares within the law.
    extrapolated
        Whether the model is larger than those that the law was fitted to.
    regret
        Nats that the model of the default law loses more than this law's own, on the same compute.
    """

    law: str
    source: str
    parameters: float
    tokens: float
    loss: float
    extrapolated: bool
    regret: float


@dataclass(frozen=True)
class ModelPlan:
    """A model to train.

    Attributes
    ----------
    flops, mfu, mfu_source
        Training FLOPs that the cluster gives, at which share of its peak, and where that is from.
    parameters, tokens, epochs, days
        By the default law; epochs over the unique tokens; what its training takes.
    laws
        What each law says.
    agree
        How many laws lose at most 0.01 nats with the default's model.
    nats_at_half
        What half of the compute would cost, between laws: least and most.
    optimizers
        Optimizer -> nats that it saves, between the limits of its step efficiency.
    batch_tokens
        Tokens of a batch beyond which more devices hardly save steps.
    usd
        Price of the training; None without a price.
    assumed
        What nobody said.
    """

    flops: float
    mfu: float
    mfu_source: str
    parameters: float
    tokens: float
    epochs: float
    days: float
    laws: tuple[LawAnswer, ...]
    agree: int
    nats_at_half: tuple[float, float]
    optimizers: Mapping[str, tuple[float, float]]
    batch_tokens: float
    usd: float | None
    assumed: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON wants it, with schema and version."""
        return {"schema": SCHEMA, "version": __version__, **asdict(self)}


def plan_model(
    cluster: Cluster | str,
    days: float,
    *,
    inference_tokens: float = 0.0,
    unique_tokens: float | None = None,
    mfu: float | None = None,
) -> ModelPlan:
    """The size of a dense model and its tokens for a cluster and a number of days.

    Parameters
    ----------
    inference_tokens
        Tokens that the model will read and write once it serves: fewer parameters and more tokens then.
    unique_tokens
        Different tokens that there are; without them every token is new.
    mfu
        Share of the 16-bit peak that training reaches; by default that of the best plan of a bundled model of about the
        size, which is searched for.

    Raises
    ------
    InputError
        For days, tokens or a share that are none.
    """
    for name, value in (("days", days), ("inference_tokens", inference_tokens + 1), ("unique_tokens", unique_tokens)):
        if value is not None and not 0 < value < math.inf:
            raise InputError(name, value, "a number above 0", 30)
    if mfu is not None and not 0 < mfu <= 1:
        raise InputError("mfu", mfu, "a share above 0, at most 1", 0.4)
    machines = Cluster.parse(cluster)
    peak = machines.n_devices * machines.profile.peak_of("bf16") * days * DAY
    source = "stated"
    if mfu is None:
        size, _ = LAWS[DEFAULT].optimum(0.4 * peak)
        mfu, source = _reached(machines, size)
    flops = mfu * peak
    sizes = {name: _best(name, flops, inference_tokens) for name in LAWS}
    parameters, tokens = sizes[DEFAULT]
    answers = []
    for name, law in LAWS.items():
        own = sizes[name]
        worse = law.loss(parameters, flops / 6 / parameters) - law.best_loss(flops)
        answers.append(LawAnswer(name, law.source, *own, law.loss(*own), own[0] > law.largest, max(worse, 0.0)))
    halves = [law.best_loss(flops / 2) - law.best_loss(flops) for law in LAWS.values()]
    needed = 6 * parameters * tokens / flops * days
    price = (
        machines.profile.price.value
        if machines.price_usd_per_device_hour is None
        else machines.price_usd_per_device_hour
    )
    return ModelPlan(
        flops=flops,
        mfu=mfu,
        mfu_source=source,
        parameters=parameters,
        tokens=tokens,
        epochs=max(1.0, tokens / unique_tokens) if unique_tokens else 1.0,
        days=needed,
        laws=tuple(answers),
        agree=sum(own.regret <= 0.01 for own in answers),
        nats_at_half=(min(halves), max(halves)),
        optimizers={name: _saved(name, flops, parameters) for name in ("adamw", "muon")},
        batch_tokens=critical_batch(tokens),
        usd=price * machines.n_devices * needed * 24,
        assumed=_assumed(parameters, tokens, unique_tokens),
    )


def _best(name: str, flops: float, inference_tokens: float) -> tuple[float, float]:
    law = LAWS[name]
    return served_optimum(flops, inference_tokens, law) if inference_tokens else law.optimum(flops)


def _reached(cluster: Cluster, size: float) -> tuple[float, str]:
    """The share of the peak that the best plan of a model of about a size reaches."""
    from ..search.plan import plan_training

    architectures = {name: Architecture.from_config(name) for name in LIKE}
    near = min(LIKE, key=lambda name: abs(math.log(architectures[name].parameters / size)))
    answer = plan_training(
        near, cluster, sequence=SEQUENCE, global_batch=max(1, BATCH_TOKENS // SEQUENCE), precision="bf16"
    )
    return answer.best[0].result.mfu, f"best plan of {near} at {SEQUENCE:,} tokens and batches of {BATCH_TOKENS:,}"


def _saved(optimizer: str, flops: float, parameters: float) -> tuple[float, float]:
    law = LAWS[DEFAULT]
    low, high = step_efficiency(optimizer, parameters)
    now = law.best_loss(flops)
    return now - law.best_loss(flops * low), now - law.best_loss(flops * high)


def _assumed(parameters: float, tokens: float, unique: float | None) -> dict[str, str]:
    found = {
        "model": "dense, 6 FLOPs for each parameter and token",
        "loss": "in nats per token; what tasks score is not predicted, and laws are not compared with each other",
    }
    if unique is None:
        found["unique tokens"] = "as many as are trained on"
    elif tokens > unique:
        lost = repeated_loss(parameters, tokens, unique) - repeated_loss(parameters, tokens, tokens)
        found["repetition"] = f"{tokens / unique:.1f} epochs cost {lost:.3f} nats (Muennighoff 2023)"
    return found
