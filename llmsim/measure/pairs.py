"""The same block twice: as operators over named dimensions, and as a module of plain torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed import ProcessGroup

from ..core.formats import get_format
from ..core.inventory import Inventory
from ..core.operators import LayerBuilder, Operator
from ..core.saved import Region
from ..core.terms import Sizes
from ..hardware.software import kernel_rows
from ..layers.attention import Attention
from ..layers.base import Arrangement, Mixer, Norm, layer_input, residual
from ..layers.embedding_and_head import embedding, head
from ..layers.encoders import CrossAttention
from ..layers.mla import LatentAttention
from ..layers.mlp import Mlp
from ..layers.moe import MixtureOfExperts
from ..layers.recurrent import GatedDeltaNet, Mamba1, Mamba2
from ..plans.adapters import RANK, adapted_operators, parse_adapter
from ..plans.recompute import parse_recompute
from ..plans.recompute import regions as recompute_regions
from . import blocks, encoders, mixers, sparse
from .low_rank import adapt

Family = Literal["llama", "gpt2", "mixtral", "mla", "mamba2", "mamba1", "delta_net", "bert", "t5", "dsa"]
Precision = Literal["bf16", "autocast", "fp32"]


def _classes(activation: str, rest: str) -> dict[str, str]:
    names = ("residual", "normed", "weight", "weight_high", "gradient")
    return {"activation": activation, **dict.fromkeys(names, rest)}


CLASSES: Mapping[Precision, dict[str, str]] = {
    "bf16": _classes("bf16", "bf16"),
    "fp32": _classes("fp32", "fp32"),
    "autocast": _classes("bf16", "fp32"),
}
"""Storage class -> format. Autocast computes products in 16 bits; the residual stream, the outputs of norms and the
parameters stay as they are."""

DROPOUT = 0.1


@dataclass(frozen=True)
class BlockSpec:
    """One block.

    Attributes
    ----------
    family, kernel, precision
        Which block, which attention kernel, which precision recipe.
    sizes
        Dimension -> size of one rank's micro-batch.
    recompute
        The part that is checkpointed.
    norm
        Implementation of the root-mean-square norms.
    fused
        Whether q, k, v come out of one product, gate and up out of another (MLA: latent and rotary key, keys and
        values).
    dropout
        Behind the embedding and both branches, and on the attention weights of the eager kernel.
    adapter
        As plans say it: low-rank adapters of a frozen block.
    mixer
        Options of its attention beside the family's, for cells that run attention of their own.
    """

    family: Family
    kernel: blocks.AttentionKernel
    precision: Precision
    sizes: Mapping[str, int]
    recompute: blocks.Checkpointed = "none"
    norm: Literal["eager", "eager_fp32"] = "eager"
    fused: bool = False
    dropout: bool = False
    adapter: str = "none"
    mixer: tuple[tuple[str, Any], ...] = ()

    @property
    def dtype(self) -> torch.dtype:
        """Element type of the parameters."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    @property
    def compute_dtype(self) -> torch.dtype:
        """Element type of the products."""
        return torch.float32 if self.precision == "fp32" else torch.bfloat16

    @property
    def positions(self) -> bool:
        """Whether the model has learned positions."""
        return "positions" in self.sizes

    def dims(self) -> dict[str, int]:
        """All dimension sizes, those that follow from others included."""
        s = dict(self.sizes)
        s |= dict.fromkeys(("context", "index_context", "memory"), s["sequence"])
        if "experts" in s:
            s.setdefault("router_experts", s["experts"])
            s.setdefault("slots", s["batch"] * s["sequence"] * s["top_k"])
        if "nope_dim" in s:
            s.setdefault("qk_dim", s["nope_dim"] + s["rope_dim"])
        if "ssm_heads" in s:
            s |= {"scan_heads": s["ssm_heads"], "steps": s["sequence"]}
            s["conv_span"] = s["sequence"] + s["conv_kernel"] - 1
        if adapters := parse_adapter(self.adapter):
            s[RANK] = adapters.rank
        if "chunk_context" in s:
            s |= {"chunk": s["chunk_context"], "chunks": s["sequence"] // s["chunk_context"]}
        return s

    def values(self, degrees: Mapping[str, int] | None = None, **dims: int) -> Sizes:
        """Sizes and formats to evaluate terms with."""
        formats = {name: get_format(format) for name, format in CLASSES[self.precision].items()}
        return Sizes({**self.dims(), **dims}, degrees or {}, formats)


# --- operators ------------------------------------------------------------------------------------------------------

_FUSED: Mapping[Family, tuple[tuple[str, ...], ...]] = {
    "llama": (("q", "k", "v"), ("gate", "up")),
    "gpt2": (("q", "k", "v"),),
    "mixtral": (("q", "k", "v"),),
    "mla": (("kv_down", "k_rope"), ("k_up", "v_up"), ("gate", "up")),
    "dsa": (("kv_down", "k_rope"), ("k_up", "v_up"), ("gate", "up")),
    "mamba2": (
        ("ssm_z", "ssm_x", "ssm_b", "ssm_c", "ssm_dt"),
        ("ssm_conv_x", "ssm_conv_b", "ssm_conv_c"),
        ("gate", "up"),
    ),
    "bert": (("q", "k", "v"),),
    "t5": (("q", "k", "v"), ("cross_k", "cross_v"), ("gate", "up")),
    "mamba1": (("mamba_z", "mamba_x"), ("mamba_low_dt", "mamba_low_b", "mamba_low_c"), ("gate", "up")),
    "delta_net": (
        ("delta_q", "delta_k", "delta_v", "delta_z"),
        ("delta_b", "delta_a"),
        ("delta_conv_q", "delta_conv_k", "delta_conv_v"),
        ("gate", "up"),
    ),
}


def inventory(spec: BlockSpec, **implementations: str) -> Inventory:
    """The kernels that the torch block of this specification runs on a CPU."""
    chosen = kernel_choices(spec, **implementations)
    rows = {kind: kernel_rows()[kind][implementation] for kind, implementation in chosen.items()}
    return Inventory(rows, _FUSED[spec.family] if spec.fused else ())


def kernel_choices(spec: BlockSpec, **implementations: str) -> dict[str, str]:
    """Operator kind -> row."""
    return {
        **dict.fromkeys(("add", "concat", "embedding", "activation", "dropout", "scale"), "plain"),
        "contract": "autocast" if spec.precision == "autocast" else "plain",
        "norm": spec.norm,
        "layer_norm": "native_cpu",
        "attention": f"{spec.kernel}_dropout" if spec.dropout and spec.kernel == "eager" else spec.kernel,
        **dict.fromkeys(("rotary", "gate", "loss", "route", "dispatch", "combine"), "eager"),
        **dict.fromkeys(("convolution", "ssm_scan", "delta_rule", "selective_scan", "index_select"), "eager"),
        "gated_norm": "eager_norm_first" if spec.family == "delta_net" else "eager",
        **implementations,
    }


def block_mixers(spec: BlockSpec) -> dict[str, Mixer]:
    """The branches of the block: name -> mixer."""
    attention, mlp, _ = _mixers(spec)
    return {"attention": attention, **({"cross": CrossAttention()} if spec.family == "t5" else {}), "mlp": mlp}


def _mixers(spec: BlockSpec) -> tuple[Mixer, Mixer, Norm]:
    rms = Norm("norm")
    match spec.family:
        case "llama":
            return Attention(**dict(spec.mixer)), Mlp(), rms
        case "t5":
            return Attention(rotary=False), Mlp(), rms
        case "gpt2" | "bert":
            return Attention(rotary=False, bias=True, out_bias=True), Mlp(False, True), Norm("layer_norm", True)
        case "mixtral":
            return Attention(), MixtureOfExperts(), rms
        case "mla":
            return LatentAttention(), Mlp(), rms
        case "dsa":
            return LatentAttention(indexer=True), Mlp(), rms
        case "mamba2":
            return Mamba2(bias=False, conv_bias=True), Mlp(), rms
        case "mamba1":
            return Mamba1(), Mlp(), rms
        case "delta_net":
            return GatedDeltaNet(), Mlp(), rms


def layer_operators(spec: BlockSpec) -> tuple[Operator, ...]:
    """The operators of the block."""
    norm = _mixers(spec)[2]
    b, x = LayerBuilder(), layer_input()
    where: Arrangement = "after" if spec.family == "bert" else "pre"
    for name, mixer in block_mixers(spec).items():
        x = residual(b, x, name, mixer, norm, where, dropout=spec.dropout and name != "cross")
    adapters = parse_adapter(spec.adapter)
    return tuple(b.operators) if adapters is None else adapted_operators(b.operators, adapters)


def model_parts(spec: BlockSpec, layers: int) -> list[tuple[Sequence[Operator], int, bool]]:
    """(operators, how often, whether a block) of embedding, blocks and head."""
    norm = _mixers(spec)[2]
    return [
        (embedding(positions=spec.positions, dropout=spec.dropout).operators, 1, False),
        (layer_operators(spec), layers, True),
        (head(tied=False, norm=norm).operators, 1, False),
    ]


def regions(spec: BlockSpec, operators: Sequence[Operator]) -> tuple[Region, ...]:
    """What the checkpoint computes again: as plans say it, or one branch from its norm to its last product."""
    names = [op.name for op in operators]
    named = {"none": "none", "block": "full"}.get(spec.recompute, f"selective:{spec.recompute}")
    if spec.recompute not in ("attention", "mlp"):
        return recompute_regions(operators, parse_recompute(named))
    outside = {"attention_residual", "mlp_residual", "dropout_attention", "dropout_mlp"}
    border = names.index("mlp_norm")
    inside = names[:border] if spec.recompute == "attention" else names[border:]
    return (Region(frozenset(inside) - outside),)


# --- modules --------------------------------------------------------------------------------------------------------


def _attention_module(spec: BlockSpec, norm: Callable[[int], nn.Module]) -> nn.Module:
    s = spec.dims()
    if spec.family in ("mla", "dsa"):
        return _latent_module(spec, norm)
    if spec.family in ("mamba2", "mamba1", "delta_net"):
        return _recurrent_module(spec, norm)
    plain = spec.family in ("gpt2", "bert")
    return blocks.Attention(
        s["hidden"],
        s["heads"],
        s["kv_heads"],
        s["head_dim"],
        spec.dtype,
        kernel=spec.kernel,
        rotary=None
        if plain or spec.family == "t5"
        else blocks.RotaryTable(s["sequence"], s["head_dim"], spec.compute_dtype),
        fused=spec.fused,
        bias=plain,
        dropout=DROPOUT * spec.dropout,
        causal=spec.family != "bert",
    )


def _latent_module(spec: BlockSpec, norm: Callable[[int], nn.Module]) -> nn.Module:
    s = spec.dims()
    module = (sparse.SparseLatentAttention if spec.family == "dsa" else blocks.LatentAttention)(
        s["hidden"],
        s["heads"],
        s["q_rank"],
        s["kv_rank"],
        s["nope_dim"],
        s["rope_dim"],
        s["v_dim"],
        spec.dtype,
        norm=norm,
        rotary=blocks.RotaryTable(s["sequence"], s["rope_dim"], spec.compute_dtype),
        kernel=spec.kernel,
        fused=spec.fused,
    )
    if isinstance(module, sparse.SparseLatentAttention):
        module.indexer = sparse.Indexer(s["hidden"], s["q_rank"], s["index_heads"], s["index_dim"], spec.dtype)
        module.top_k = s["index_top_k"]
    return module


def _recurrent_module(spec: BlockSpec, norm: Callable[[int], nn.Module]) -> nn.Module:
    s = spec.dims()
    if spec.family == "mamba2":
        return mixers.Mamba2(
            s["hidden"], s["ssm_heads"], s["group_heads"], s["ssm_width"], s["ssm_state"], s["conv_kernel"],
            s["chunk_context"], spec.dtype,
        )  # fmt: skip
    if spec.family == "mamba1":
        norms = [norm(s[width]) for width in ("dt_rank", "ssm_state", "ssm_state")]
        return mixers.Mamba1(
            s["hidden"], s["ssm_heads"], s["ssm_state"], s["dt_rank"], s["conv_kernel"], spec.dtype, norms=norms
        )
    return mixers.GatedDeltaNet(
        s["hidden"], s["ssm_heads"], s["head_share"], s["linear_k_dim"], s["linear_v_dim"], s["conv_kernel"],
        s["chunk_context"], spec.dtype,
    )  # fmt: skip


def _mlp_module(spec: BlockSpec, group: ProcessGroup | None) -> nn.Module:
    s = spec.dims()
    if spec.family == "mixtral":
        return blocks.Experts(
            s["hidden"], s["moe_ffn"], s["experts"], s["top_k"], spec.dtype,
            compute_dtype=spec.compute_dtype, group=group,
        )  # fmt: skip
    if spec.family in ("gpt2", "bert"):
        return blocks.Mlp(s["hidden"], s["ffn"], spec.dtype)
    return blocks.GatedMlp(s["hidden"], s["ffn"], spec.dtype, fused=spec.fused)


def norm_module(spec: BlockSpec, width: int) -> nn.Module:
    """A norm of the family's kind."""
    if spec.family in ("gpt2", "bert"):
        return nn.LayerNorm(width, dtype=spec.dtype)
    return blocks.RmsNorm(width, "fp32" if spec.norm == "eager_fp32" else "activation", spec.dtype)


def block_module(spec: BlockSpec, group: ProcessGroup | None = None) -> blocks.Block:
    """The block; its experts are spread over ``group`` if one is given."""

    def norm(width: int = spec.sizes["hidden"]) -> nn.Module:
        return norm_module(spec, width)

    attention, mlp = _attention_module(spec, norm), _mlp_module(spec, group)
    if spec.family == "t5":
        return _decoder_block(spec, norm, attention, mlp)
    kind = encoders.EncoderBlock if spec.family == "bert" else blocks.Block
    block = kind(norm, attention, mlp, checkpointed=spec.recompute, dropout=DROPOUT * spec.dropout)
    adapters = parse_adapter(spec.adapter)
    if adapters is not None:
        plain = layer_operators(replace(spec, adapter="none"))
        adapt(block, adapters, frozenset(op.name for op in plain if adapters.adapts(op)))
    return block


def _decoder_block(
    spec: BlockSpec, norm: Callable[[], nn.Module], attention: nn.Module, mlp: nn.Module
) -> encoders.DecoderBlock:
    s = spec.dims()
    cross = encoders.CrossAttention(s["hidden"], s["heads"], s["head_dim"], spec.dtype, kernel=spec.kernel)
    block = encoders.DecoderBlock(norm, attention, mlp, cross, checkpointed=spec.recompute)
    block.encoded = torch.zeros(s["batch"], s["sequence"], s["hidden"], dtype=spec.dtype, requires_grad=True)
    return block


def model_module(spec: BlockSpec, layers: int) -> blocks.Model:
    """Embedding, blocks and head."""
    s = spec.dims()
    stack = [block_module(spec) for _ in range(layers)]
    return blocks.Model(
        s["vocab"],
        s["hidden"],
        stack,
        norm_module(spec, s["hidden"]),
        spec.dtype,
        positions=s["positions"] if spec.positions else 0,
        dropout=DROPOUT * spec.dropout,
    )


def token_batch(spec: BlockSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels."""
    shape = (spec.sizes["batch"], spec.sizes["sequence"])
    return torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
