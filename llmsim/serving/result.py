"""What a simulated server answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .._version import __version__
from ..plans.serving import ServingPlan
from .memory import ServingMemory
from .steady_state import Steady

SCHEMA = "llmsim.serving/1"


@dataclass(frozen=True)
class ServingLoad:
    """What clients send, and how.

    Attributes
    ----------
    kind, amount
        ``concurrency`` (requests in flight over the whole cluster), ``batch`` (of one replica, beginning and ending
        together) or ``rate`` (requests per second, over the whole cluster).
    input_tokens, output_tokens, cached_tokens, image_tokens
        Means of a request; of the input, those that a prefix cache has, and those of images.
    """

    kind: str
    amount: float
    input_tokens: float
    output_tokens: float
    cached_tokens: float = 0.0
    image_tokens: float = 0.0


@dataclass(frozen=True)
class ServingResult:
    """One plan under one load.

    Attributes
    ----------
    plan, model, devices, replicas
        What runs, on how many devices in how many replicas.
    load
        What clients send.
    memory
        Of a replica, in the order of an engine's start-up log.
    steady
        Of a replica, see the class.
    step_parts, prompt_parts
        Where the time of a decoding step goes, and that of a step with a prompt beside it: part -> seconds.
    output_tokens_per_s, output_tokens_per_s_per_device, output_tokens_per_s_per_user
        Throughput of the cluster, of a device, and what one user sees after the first token.
    usd_per_million_output_tokens
        At the price of the devices; None without a price.
    saturated
        Whether requests wait for room or arrive faster than they are served.
    limited_by
        What keeps more sequences from running at a time.
    intervals
        Metric -> 80 % interval.
    assumed
        What nobody said: field -> text.
    """

    plan: ServingPlan
    model: str
    devices: int
    replicas: int
    load: ServingLoad
    memory: ServingMemory
    steady: Steady
    step_parts: Mapping[str, float]
    prompt_parts: Mapping[str, float]
    output_tokens_per_s: float
    output_tokens_per_s_per_device: float
    output_tokens_per_s_per_user: float
    usd_per_million_output_tokens: float | None
    saturated: bool
    limited_by: str
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    assumed: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON wants it, with schema and version."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "plan"}
        plain = {k: asdict(v) if hasattr(v, "__dataclass_fields__") else v for k, v in own.items()}
        return {"schema": SCHEMA, "version": __version__, "plan": self.plan.model_dump(), **plain}
