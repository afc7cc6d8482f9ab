"""Published models as ``transformers`` builds them from the bundled config.json, on fake tensors: parameters and FLOPs.

``derived`` reads the same file with :meth:`Architecture.from_config` and counts from our operators. Where the code of
``transformers`` multiplies more or less than the operators say, :data:`DIFFERENCES` states by how much and why; the two
sides are compared with ``==`` after that, never with a tolerance. Needs the extra ``transformers``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch._subclasses import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..architecture import Architecture
from ..core.sharding import mesh_sharding
from ..core.terms import Sizes
from ..core.work import Work, derive_work
from ..hardware.software import get_software
from ..huggingface.files import find_config, read_json
from ..layers.base import LayerKind
from ..timing.columns import Columns, kind_sizes
from ..timing.structure import Structure
from .counters import WorkCounter

DEPTHS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "num_decoder_layers")
PATTERN = "hybrid_override_pattern"
DROPOUTS = (
    "attention_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop", "hidden_dropout_prob", "hidden_dropout", "dropout",
    "attention_probs_dropout_prob", "dropout_rate",
)  # fmt: skip
OWN_KEYS = frozenset({"gated_mlp"})
"""Keys that llmsim alone knows."""

Attention = Literal["flash", "math", "eager"]
"""Kernel of torch's attention, or products of the model's own code."""


class ModelCounts(NamedTuple):
    """Distinct parameters, and multiply-adds x 2 of each pass."""

    parameters: int
    forward_flops: int
    backward_flops: int


@dataclass(frozen=True)
class PublishedModel:
    """One model and one batch.

    Attributes
    ----------
    name
        A bundled configuration.
    attention
        Which kernel computes attention.
    layers
        Depth that it is cut to; 0 leaves it whole.
    batch, sequence
        Sequences and tokens of each.
    """

    name: str
    attention: Attention = "flash"
    layers: int = 0
    batch: int = 1
    sequence: int = 128

    def configuration(self) -> dict[str, Any]:
        """The file's contents, cut to depth."""
        values = {k: v for k, v in read_json(find_config(self.name, ())[0]).items() if not k.startswith("_")}
        values = dict(values.get("text_config", values))
        if values["model_type"] == "bert":
            values["architectures"] = ["BertForMaskedLM"]  # the file describes the model without its loss
        if self.layers:
            depth = next(values[k] for k in DEPTHS if k in values)
            for key, value in values.items():
                if key in DEPTHS:
                    values[key] = self.layers
                elif key == PATTERN or (isinstance(value, list) and len(value) == depth):
                    values[key] = value[: self.layers]
        return values


# --- operators ------------------------------------------------------------------------------------------------------


def derived(model: PublishedModel) -> ModelCounts:
    """The counts from our operators, differences included."""
    architecture = Architecture.from_config(model.configuration())
    forward = backward = 0
    for kind, count in _kinds(architecture):
        sizes = _sizes(kind, model)
        ahead, back = _flops(_work(kind, model.attention), sizes)
        for difference in DIFFERENCES:
            if difference.applies(architecture.model_type, kind):
                more, more_back = difference.flops(kind, sizes)
                ahead, back = ahead + more, back + more_back
        forward, backward = forward + count * ahead, backward + count * back
    return ModelCounts(architecture.parameters, forward, backward)


def _kinds(architecture: Architecture) -> list[tuple[LayerKind, int]]:
    body = [(architecture.kinds[name], count) for name, count in Counter(architecture.layers).items()]
    return [*body, (architecture.embedding, 1), (architecture.head, 1)]


def _sizes(kind: LayerKind, model: PublishedModel) -> Sizes:
    return kind_sizes(kind, Columns(model.sequence, model.batch, 1), Structure("torch-eager"))


def _work(kind: LayerKind, attention: Attention) -> list[Work]:
    inventory = get_software("torch-eager").stack.inventory(attention="math" if attention == "eager" else attention)
    work = derive_work(kind.operators, mesh_sharding(sequence_parallel=False), inventory)
    return [w for w in work if w.kind != "recurrence"]  # element by element: no products for anyone who counts them


def _flops(work: list[Work], sizes: Sizes) -> tuple[int, int]:
    ahead = sum(sizes.count(w.flops) for w in work if w.phase == "forward")
    return ahead, sum(sizes.count(w.flops) for w in work if w.phase != "forward")


# --- differences ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """What the code of ``transformers`` multiplies beside our operators, or instead of them.

    Attributes
    ----------
    operator
        Kind of operator that it is about: it holds in every layer that has one.
    reason
        Why, in words.
    flops
        (forward, backward) of one layer, from the layer's kind and sizes; negative where it multiplies less.
    families
        Model types that it is restricted to; none: all.
    """

    operator: str
    reason: str
    flops: Callable[[LayerKind, Sizes], tuple[int, int]]
    families: tuple[str, ...] = ()

    def applies(self, model_type: str, kind: LayerKind) -> bool:
        """Whether a layer of a model has it."""
        return (not self.families or model_type in self.families) and self.operator in {
            op.kind for op in kind.operators
        }


def _of(kind: LayerKind, *operators: str) -> list[Work]:
    return [w for w in _work(kind, "math") if w.source in operators]


def _volume(sizes: Sizes, dims: str) -> int:
    result = 1
    for dim in dims.split():
        result *= int(sizes.dims[dim])
    return result


def _padded_convolution(kind: LayerKind, sizes: Sizes) -> tuple[int, int]:
    return _flops(_of(kind, "convolution"), sizes.with_dims(steps=sizes.dims["conv_kernel"] - 1))


def _state_products(kind: LayerKind, sizes: Sizes) -> tuple[int, int]:
    read = 2 * _volume(sizes, "batch steps ssm_heads ssm_state")
    return read, 2 * read


def _scores_of_heads(kind: LayerKind, sizes: Sizes) -> tuple[int, int]:
    scores = 2 * _volume(sizes, "batch steps ssm_heads chunk_context ssm_state") * (sizes.dims["group_heads"] - 1)
    chunks = int(sizes.dims["chunks"]) + 1
    states = 2 * chunks**2 * _volume(sizes, "batch ssm_heads group_heads ssm_width ssm_state")
    return scores + states, 2 * (scores + states)


def _solved_delta_rule(kind: LayerKind, sizes: Sizes) -> tuple[int, int]:
    heads = "batch steps ssm_heads head_share"
    inverse = _volume(sizes, f"{heads} chunk_context chunk")
    solved = sum(_volume(sizes, f"{heads} chunk_context {width}") for width in ("linear_k_dim", "linear_v_dim"))
    state = 2 * _volume(sizes, "batch ssm_heads head_share chunk_context linear_k_dim linear_v_dim")
    return -inverse - solved, -3 * inverse - solved - 4 * state


def _untrained_indexer(kind: LayerKind, sizes: Sizes) -> tuple[int, int]:
    names = {op.name for op in kind.operators if op.name.startswith("index_")}
    own = [w for w in _work(kind, "math") if names.issuperset(w.operators)]
    return 2 * _volume(sizes, "batch sequence index_context index_heads"), -_flops(own, sizes)[1]


def _every_expert(kind: LayerKind, sizes: Sizes) -> tuple[int, int]:
    experts = [w for w in _work(kind, "math") if w.kind == "grouped_gemm"]
    chosen = _flops(experts, sizes)
    every = _flops(experts, sizes.with_dims(slots=_volume(sizes, "batch sequence experts")))
    return every[0] - chosen[0], every[1] - chosen[1]


DIFFERENCES = (
    Difference(
        "convolution",
        "convolves a sequence padded at both ends and cuts off what lies behind it: taps - 1 positions more",
        _padded_convolution,
    ),
    Difference(
        "selective_scan",
        "reads each state by a product, 2 a step, channel and state row; the rest of the recurrence, which we count as "
        "a whole, is element by element on both sides and in neither count",
        _state_products,
    ),
    Difference(
        "ssm_scan",
        "repeats the inputs and outputs of a group for each of its heads, so that scores are computed once a head; and "
        "hands states from chunk to chunk by a product over all pairs of chunks",
        _scores_of_heads,
    ),
    Difference(
        "delta_rule",
        "solves the triangular system for keys and for values (half a product each) where kernels invert it and "
        "multiply; and drops the state behind the last chunk, while the zeros before the first have no gradient",
        _solved_delta_rule,
    ),
    Difference(
        "index_select",
        "runs the indexer without gradients, and sums its scores over heads by a product",
        _untrained_indexer,
    ),
    Difference(
        "dispatch",
        "sends every token to every expert with the score zero where it was not chosen",
        _every_expert,
        families=("llama4_text",),
    ),
)  # fmt: skip
"""Every one of them concerns code that runs without its fused kernels, which are not for CPUs."""


# --- transformers ---------------------------------------------------------------------------------------------------


def executed(model: PublishedModel) -> ModelCounts:
    """The counts of the model that ``transformers`` builds, run by torch on fake tensors."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        module = build(model)
        tokens = torch.zeros(model.batch, model.sequence, dtype=torch.long)
        cache = {} if module.config.model_type in ("bert", "t5") else {"use_cache": False}
        counter = WorkCounter()
        with counter, _kernel(model.attention):
            module(input_ids=tokens, labels=tokens, **cache).loss.backward()
    return ModelCounts(_parameters(module), counter.flops["forward"], counter.flops["backward"])


def built_parameters(model: PublishedModel) -> int:
    """Distinct parameters of the model that ``transformers`` builds."""
    with FakeTensorMode():
        return _parameters(build(model))


def derived_parameters(model: PublishedModel) -> int:
    """The same as we count them."""
    return Architecture.from_config(model.configuration()).parameters


def _parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _kernel(attention: Attention) -> AbstractContextManager[Any]:
    """The one attention kernel that may run; a model that cannot use it fails."""
    if attention == "eager":
        return nullcontext()
    return sdpa_kernel(SDPBackend.FLASH_ATTENTION if attention == "flash" else SDPBackend.MATH)


def build(model: PublishedModel) -> torch.nn.Module:
    """The module, in bf16 and without dropout; call it under fake tensors."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import transformers

    transformers.logging.set_verbosity_error()
    values = {k: v for k, v in model.configuration().items() if k not in OWN_KEYS}
    family = values.pop("model_type")
    family = {"kimi_k2": "deepseek_v3"}.get(family, family)  # a name of its own for the same code
    values |= {"decoder_start_token_id": 0, "pad_token_id": 0} if family == "t5" else {}
    config = transformers.AutoConfig.for_model(family, **values)
    for key in DROPOUTS:
        if hasattr(config, key):
            setattr(config, key, 0.0)
    head = {"bert": transformers.AutoModelForMaskedLM, "t5": transformers.AutoModelForSeq2SeqLM}
    loader = head.get(family, transformers.AutoModelForCausalLM)
    implementation = "eager" if model.attention == "eager" else "sdpa"
    module: torch.nn.Module = loader.from_config(config, dtype=torch.bfloat16, attn_implementation=implementation)
    return module.train()
