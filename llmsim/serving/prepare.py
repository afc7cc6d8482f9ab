"""A plan on a cluster as the formulas want it: the model on a rank, the machine, memory, and the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..architecture import Architecture
from ..core.errors import InfeasibleError
from ..core.numeric import Number, maximum, minimum
from ..core.units import counted
from ..hardware.cluster import Cluster
from ..hardware.devices import Device
from ..hardware.fitted import Fit
from ..plans.serving import ServingPlan
from .cache_pool import EngineSettings
from .layer_counts import Degrees
from .memory import ServingMemory, resident_sequences, serving_memory
from .served_model import ServedModel, served_model
from .steady_state import Requests, Server
from .step_time import Machine, machine_of


@dataclass(frozen=True, eq=False)
class Prepared:
    """One replica of a plan.

    Attributes
    ----------
    plan, device, model, machine
        What runs, and on what.
    settings, memory
        Of the engine.
    rates
        Key of the engine's constants -> value.
    replicas
        How many of them the cluster has.
    """

    plan: ServingPlan
    device: Device
    model: ServedModel
    machine: Machine
    settings: EngineSettings
    memory: ServingMemory
    rates: Mapping[str, Number]
    replicas: int

    def server(self, requests: Requests, rates: Mapping[str, Number] | None = None) -> Server:
        """Its closed forms for some requests: as many sequences as the scheduler and the cache take."""
        reserved = 1 if self.plan.profile.defaults.reserves_output else 2
        mean = requests.input_tokens + requests.output_tokens / reserved
        if self.plan.cache_tokens is not None:
            fit = self.plan.cache_tokens / mean
        else:
            fit = resident_sequences(self.model, self.memory, mean)
        limit = self.settings.max_num_seqs * self.model.degrees.attention_data * self.model.degrees.pipeline
        most = maximum(minimum(min(limit, self.plan.profile.defaults.streams or limit), fit), 1.0)
        budget = self.settings.max_num_batched_tokens
        return Server(self.model, self.machine, self.rates if rates is None else rates, budget, most)


def prepare(
    plan: ServingPlan, architecture: Architecture, cluster: Cluster, *, fit: Fit | None = None, longest: int = 0
) -> Prepared:
    """A plan as the formulas want it.

    Parameters
    ----------
    longest
        Tokens of the longest request, which ``max_model_len`` is at least where a plan does not say it.

    Raises
    ------
    InputError
        For degrees that the model or the cluster does not allow.
    UnsupportedError
        For a model that cannot be served.
    """
    plan.check(architecture)
    if plan.ranks > cluster.n_devices:
        raise InfeasibleError(
            f"a replica takes {counted(plan.ranks, 'device')}, the cluster has {cluster.n_devices:,}",
            nearest=f"degrees that multiply to at most {cluster.n_devices}",
        )
    degrees = Degrees(plan.tensor_parallel, plan.attention_data_parallel, plan.expert_parallel, plan.pipeline_parallel)
    model = served_model(architecture, degrees, weights=plan.weights, cache=plan.cache_format)
    engine, device = plan.profile, cluster.profile
    defaults = engine.defaults
    length = plan.max_model_len or max(longest, architecture.max_positions or 0) or 8192
    settings = EngineSettings(
        max_num_seqs=plan.max_num_seqs or defaults.max_num_seqs,
        max_num_batched_tokens=plan.max_num_batched_tokens or defaults.max_num_batched_tokens,
        max_model_len=length,
        utilisation=plan.memory_utilisation or defaults.utilisation,
        of_free=defaults.of == "free",
        block_tokens=defaults.block_tokens,
        graphs_inside=engine.graphs_inside,
        shared_pages=defaults.shared_pages,
        state_pages=defaults.state_pages,
        capacity_of_longest=defaults.capacity_of_longest,
    )
    rates = engine.rates(fit)
    memory = serving_memory(model, device, settings, rates, cache_tokens=plan.cache_tokens)
    machine = machine_of(cluster, model)
    return Prepared(plan, device, model, machine, settings, memory, rates, cluster.n_devices // plan.ranks)
