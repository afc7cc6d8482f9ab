"""The serving plan: how one replica of a model runs in an inference engine, and what makes it invalid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator

from ..architecture import Architecture
from ..core.arguments import of_kind
from ..core.errors import InputError
from ..core.formats import get_format
from ..core.versions import without_schema
from ..hardware.engines import Engine, get_engine
from ..hardware.profiles import Checked, Real, Whole, build, read_yaml

SCHEMA = "llmsim.serving-plan/1"
Degree = Annotated[Whole, Field(ge=1, le=100_000)]
Count = Annotated[Whole, Field(ge=1, le=1_000_000_000)]
Share = Annotated[Real, Field(gt=0, le=1, allow_inf_nan=False)]


class ServingPlan(Checked):
    """How an engine serves a model.

    A replica takes ``tensor_parallel x attention_data_parallel x pipeline_parallel`` devices; a cluster has as many
    replicas as fit.

    Attributes
    ----------
    engine, release
        Engine profile (``vllm``, ``sglang``, ``tensorrt-llm``, ``llama-cpp``); blank for the newest release.
    tensor_parallel, attention_data_parallel, expert_parallel, pipeline_parallel
        Ranks that share the heads of a sequence; groups of such ranks that have sequences of their own and share the
        experts; ranks that share the experts; stages that share the layers.
    weights, kv_cache
        How weights are stored (``bf16``, ``fp8``, ``nvfp4``, ``w4g128``, ``q4_k``, ``experts:nvfp4,attention:bf16``);
        the format of keys, values and latents (``auto``: as checkpoints
        with such weights say, else 16 bits).
    max_num_seqs, max_num_batched_tokens, max_model_len
        Sequences that run at a time; new tokens of a step; tokens of a sequence at most. Unless they are set, what the
        engine takes; of a sequence what the model was made for.
    memory_utilisation
        Share of a device's memory that the engine may use; unless it is set, what the engine takes.
    cache_tokens
        Tokens of cache that the engine reports, where they are known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    schema_version: Literal["llmsim.serving-plan/1"] = "llmsim.serving-plan/1"
    engine: str = "vllm"
    release: str = ""
    tensor_parallel: Degree = 1
    attention_data_parallel: Degree = 1
    expert_parallel: Degree = 1
    pipeline_parallel: Degree = 1
    weights: str = "bf16"
    kv_cache: str = "auto"
    max_num_seqs: Count | None = None
    max_num_batched_tokens: Count | None = None
    max_model_len: Count | None = None
    memory_utilisation: Share | None = None
    cache_tokens: Count | None = None

    @field_validator("kv_cache")
    @classmethod
    def _a_format(cls, value: str) -> str:
        name = value.strip().lower()
        name = {"bfloat16": "bf16", "float16": "fp16", "fp8_e4m3": "fp8", "fp8_e5m2": "fp8"}.get(name, name)
        if name != "auto":
            get_format(name)
        return name

    @property
    def cache_format(self) -> str:
        """The format of the cache: what checkpoints with such weights bring along where nobody says."""
        if self.kv_cache != "auto":
            return self.kv_cache
        return self.profile.cache_formats.get(self.weights, "bf16")

    @property
    def profile(self) -> Engine:
        """The engine's profile."""
        return get_engine(self.engine, self.release)

    @property
    def ranks(self) -> int:
        """Devices of a replica."""
        return self.tensor_parallel * self.attention_data_parallel * self.pipeline_parallel

    @classmethod
    def parse(cls, source: ServingPlan | Mapping[str, Any] | str | Path) -> ServingPlan:
        """A plan from itself, a mapping of its fields, or the path of a YAML file.

        Raises
        ------
        InputError
            For a field that is unknown or out of its range.
        """
        if isinstance(source, ServingPlan):
            return source
        if isinstance(source, Mapping):
            return build(cls, dict(source), "plan")
        path = Path(of_kind(source, (str, Path), "plan", "a ServingPlan, a mapping or the path of a YAML file"))
        data = without_schema(read_yaml(path, "plan"), SCHEMA, f"plan {path}", "write it anew")
        return build(cls, data, f"plan {path}")

    def replace(self, **changes: Any) -> ServingPlan:
        """A validated copy with other fields.

        Raises
        ------
        InputError
            As the constructor.
        """
        return build(type(self), {**self.model_dump(), **changes}, "plan")

    def check(self, architecture: Architecture) -> None:
        """Refuse degrees that the model does not allow.

        Raises
        ------
        InputError
            With the nearest degree that it allows.
        """
        for kind in architecture.kinds.values():
            heads = kind.sizes.get("heads")
            if heads and heads % self.tensor_parallel:
                near = max(d for d in range(1, self.tensor_parallel + 1) if heads % d == 0)
                raise InputError("tensor_parallel", self.tensor_parallel, f"a divisor of {heads} heads", near)
            experts = kind.sizes.get("experts")
            if experts and experts % self.expert_parallel:
                near = max(d for d in range(1, self.expert_parallel + 1) if experts % d == 0)
                raise InputError("expert_parallel", self.expert_parallel, f"a divisor of {experts} experts", near)
        ranks = self.tensor_parallel * self.attention_data_parallel
        if ranks % self.expert_parallel:
            near = max(d for d in range(1, ranks + 1) if ranks % d == 0 and d <= self.expert_parallel)
            raise InputError("expert_parallel", self.expert_parallel, f"a divisor of {ranks} ranks of a stage", near)
        if self.expert_parallel > 1 and not architecture.has_experts:
            raise InputError("expert_parallel", self.expert_parallel, "1, since the model has no experts", 1)
        if self.pipeline_parallel > len(architecture.layers):
            most = len(architecture.layers)
            raise InputError("pipeline_parallel", self.pipeline_parallel, f"at most {most} layers", most)
