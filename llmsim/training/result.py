"""The answer to "how long does a step of this plan take, and what does it need": a plain record, ready for JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from ..core.deferred import Deferred
from ..plans.training import TrainingPlan
from ..timing.intervals import around
from .prior_uncertainty import PriorUncertainty

SCHEMA = "llmsim.training-result/1"


@dataclass(frozen=True)
class StageReport:
    """One run of equal pipeline stages.

    Attributes
    ----------
    first, repeats
        Index of the first stage of the run, and how many there are.
    layers
        Layer kind -> number in one stage.
    forward_s, backward_s
        One micro-batch.
    memory_bytes
        Part -> bytes allocated at the peak.
    allocated_bytes, reserved_bytes, device_bytes
        Their sum; what the caching allocator holds; what the driver sees.
    owner, moment
        The largest part, and when the peak is.
    parameters
        Elements on one rank before data-parallel sharding.
    host_bytes
        Offloaded to the host's memory by one rank.
    """

    first: int
    repeats: int
    layers: dict[str, int]
    forward_s: float
    backward_s: float
    memory_bytes: dict[str, float]
    allocated_bytes: float
    reserved_bytes: float
    device_bytes: float
    owner: str
    moment: str
    parameters: int
    host_bytes: float = 0.0


@dataclass(frozen=True)
class OffloadReport:
    """What offloading moves, whether it is hidden, and what the host holds.

    Attributes
    ----------
    activation_bytes
        One way, one micro-batch, of the stage that sends the most.
    required_bytes_per_s, available_bytes_per_s
        Bandwidth between device and host at which activations would be hidden on every stage, and what there is.
    exposed_s
        What a step waits for activations.
    update_s
        The host's part of the update, beside the device's.
    host_bytes, host_limit_bytes
        Of the rank that offloads the most, and the device's share of the host's memory.
    """

    activation_bytes: float
    required_bytes_per_s: float
    available_bytes_per_s: float
    exposed_s: float
    update_s: float
    host_bytes: float
    host_limit_bytes: float


@dataclass(frozen=True)
class MemoryReport:
    """What a step needs: its stages, what is offloaded, and how sure that is; see :class:`TrainingResult`."""

    stages: list[StageReport]
    offload: OffloadReport | None
    interval_bytes: tuple[float, float] | None
    out_of_memory_chance: float | None


@dataclass(frozen=True)
class TrainingDetails:
    """What an answer says besides times, each part computed when it is first read: see :class:`TrainingResult`."""

    memory: Deferred[MemoryReport]
    provenance: Deferred[dict[str, float]]
    assumed: Deferred[dict[str, str]]


@dataclass(frozen=True)
class TrainingResult:
    """One simulated training step. Its time is there at once, memory and origins when they are first read.

    Attributes
    ----------
    plan
        What was simulated.
    model, cluster
        Names.
    n_devices
        How many devices.
    step_time_s
        Seconds of a step.
    residual_width
        Half the width of its 80 % interval as a logarithm, from predictions of measured runs that no constant had seen;
        None where there are too few like it.
    prior_uncertainty
        What is added to that because of constants that no run has moved.
    breakdown_s
        Part -> seconds; they sum to the step.
    tokens_per_s_per_device, tokens_per_step
        Throughput.
    flops_per_token
        Convention -> FLOPs per token, forward and backward.
    mfu, mfu_convention
        Model FLOPs per second over the dense peak, under the convention named.
    peak_flops_per_s
        That peak, and its format in ``peak_format``.
    memory_limit_bytes
        What the device offers less the headroom.
    details
        The rest, which the properties below read.
    """

    plan: TrainingPlan
    model: str
    cluster: str
    n_devices: int
    step_time_s: float
    residual_width: float | None
    prior_uncertainty: PriorUncertainty
    breakdown_s: dict[str, float]
    tokens_per_step: int
    tokens_per_s_per_device: float
    flops_per_token: dict[str, float]
    mfu: float
    mfu_convention: str
    peak_flops_per_s: float
    peak_format: str
    memory_limit_bytes: float
    details: TrainingDetails

    @property
    def stages(self) -> list[StageReport]:
        """Memory and time by run of stages."""
        return self.details.memory.value.stages

    @property
    def offload(self) -> OffloadReport | None:
        """Of a plan that offloads."""
        return self.details.memory.value.offload

    @property
    def memory_interval_bytes(self) -> tuple[float, float] | None:
        """80 % interval of the fullest stage's memory, from runs that report what they used; None where there are
        none."""
        return self.details.memory.value.interval_bytes

    @property
    def out_of_memory_chance(self) -> float | None:
        """The chance that the fullest stage needs more than the device has, from the same runs."""
        return self.details.memory.value.out_of_memory_chance

    @property
    def assumed(self) -> dict[str, str]:
        """What the caller did not say: field -> what was taken, and from where."""
        return self.details.assumed.value

    @property
    def provenance(self) -> dict[str, float]:
        """Kind of origin -> share of the step that rests on rates of that origin."""
        return self.details.provenance.value

    @cached_property
    def step_width(self) -> float | None:
        """Half the width of the 80 % interval of the step time as a logarithm; None where nothing is known."""
        return None if self.residual_width is None else self.prior_uncertainty.widened(self.residual_width)

    @property
    def step_interval_s(self) -> tuple[float, float] | None:
        """80 % interval of the step time, seconds; None where nothing is known."""
        return None if self.step_width is None else around(self.step_time_s, self.step_width)

    @property
    def fullest(self) -> StageReport:
        """The stage that needs the most memory."""
        return max(self.stages, key=lambda s: s.device_bytes)

    @property
    def device_bytes(self) -> float:
        """Memory of the fullest stage as the driver sees it."""
        return self.fullest.device_bytes

    @property
    def fits(self) -> bool:
        """Whether the fullest stage stays below the limit, and what is offloaded below the host's."""
        host = self.offload is None or self.offload.host_bytes <= self.offload.host_limit_bytes
        return host and self.device_bytes <= self.memory_limit_bytes

    def to_dict(self) -> dict[str, Any]:
        """As JSON wants it, with a schema version."""
        told = {name: dict(v) if isinstance(v := getattr(self, name), dict) else v for name in _TOLD}
        stages = [asdict(stage) for stage in self.stages]
        offload = None if self.offload is None else asdict(self.offload)
        return {"schema": SCHEMA, **told, "plan": self.plan.model_dump(), "stages": stages, "offload": offload}


_TOLD = (
    "plan", "model", "cluster", "n_devices", "step_time_s", "breakdown_s", "tokens_per_step", "tokens_per_s_per_device",
    "flops_per_token", "mfu", "mfu_convention", "peak_flops_per_s", "peak_format", "stages", "memory_limit_bytes",
    "assumed", "provenance", "offload", "memory_interval_bytes", "out_of_memory_chance", "step_interval_s", "fits",
)  # fmt: skip
"""Attributes that are told as JSON, in order."""
