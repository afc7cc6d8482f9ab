"""The answer to "how long does a step of this plan take, and what does it need": a plain record, ready for JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from ..plans.training import TrainingPlan
from ..timing.intervals import around
from .prior_uncertainty import NO_PRIOR_UNCERTAINTY, PriorUncertainty

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
class TrainingResult:
    """One simulated training step.

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
    stages
        Memory and time by run of stages.
    memory_interval_bytes, out_of_memory_chance
        80 % interval of the fullest stage's memory, and the chance that it needs more than the device has, both from
        runs that report what they used; None where there are none.
    memory_limit_bytes, fits
        What the device offers less the headroom, and whether the fullest stage stays below.
    assumed
        What the caller did not say: field -> what was taken, and from where.
    provenance
        Kind of origin -> share of the step that rests on rates of that origin.
    offload
        Of a plan that offloads.
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
    stages: list[StageReport]
    memory_limit_bytes: float
    assumed: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, float] = field(default_factory=dict)
    offload: OffloadReport | None = None
    memory_interval_bytes: tuple[float, float] | None = None
    out_of_memory_chance: float | None = None

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
        data = asdict(replace(self, prior_uncertainty=NO_PRIOR_UNCERTAINTY))
        del data["residual_width"], data["prior_uncertainty"]
        data["plan"] = self.plan.model_dump()
        data["step_interval_s"] = self.step_interval_s
        data["fits"] = self.fits
        return {"schema": SCHEMA, **data}
