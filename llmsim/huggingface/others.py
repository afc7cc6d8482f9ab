"""Families that are no stack of attention and MLP: state-space models, and encoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..layers.attention import Attention
from ..layers.base import Norm
from ..layers.blocks import Block, embedding_operators, head_operators
from ..layers.encoders import (
    CrossAttention,
    encoder_decoder_head_operators,
    masked_head_operators,
    relative_embedding_operators,
)
from ..layers.mlp import Mlp
from ..layers.moe import MixtureOfExperts
from ..layers.recurrent import Mamba2
from .attention import AttentionRule, softmax_attention
from .blueprint import Blueprint, Part
from .decoder import MOST_MODULES
from .feed_forward import FeedForwardRule, dense_mlp, expert_sizes
from .options import flag
from .reader import LARGEST_CONTEXT, MOST_LAYERS, Reader

NEMOTRON_LAYERS = {
    "M": "mamba",
    "*": "attention",
    "-": "mlp",
    "E": "moe",
    "mamba": "mamba",
    "linear_attention": "mamba",
    "attention": "attention",
    "full_attention": "attention",
    "mlp": "mlp",
    "moe": "moe",
}
"""The letters of ``hybrid_override_pattern`` and the words of ``layers_block_type``."""


NEMOTRON_FIELDS = (
    "intermediate_size", "mlp_bias", "gated_mlp", "num_attention_heads", "num_key_value_heads", "head_dim",
    "attention_bias", "ssm_heads", "mamba_head_dim", "ssm_state_size", "ssm_expand", "n_groups", "conv_kernel",
    "ssm_bias", "ssm_conv_bias", "chunk_size", "moe_intermediate_size", "moe_shared_expert_intermediate_size",
    "n_shared_experts", "moe_latent_size", "num_experts", "num_experts_per_tok",
)  # fmt: skip
"""Fields of parts that a model may lack; ``expand`` has no effect in any."""


def read_mamba2(r: Reader) -> Blueprint:
    """Mamba-2: a stack of state-space mixers alone."""
    hidden, layers = r.integer("hidden_size"), r.integer("num_hidden_layers", high=MOST_LAYERS)
    heads, width = r.integer("ssm_heads"), r.integer("head_dim")
    inner = r.integer("ssm_expand") * hidden
    if heads * width != inner:
        why = f"of {width} make {heads * width}, and expand x hidden is {inner}"
        r.refuse("num_heads", heads, why, f"{inner // width}, if head_dim is {width}")
    part = _mamba2(r, heads, width, chunk=256)
    return _decoder(r, [(part,)] * layers, hidden, tied=False)


def read_nemotron_h(r: Reader) -> Blueprint:
    """Nemotron-H (arXiv:2504.03624): each layer is one mixer, as the pattern says."""
    hidden = r.integer("hidden_size")
    layers = r.optional("num_hidden_layers", high=MOST_LAYERS)
    names = r.words("layer_types", NEMOTRON_LAYERS, layers)
    if names is None:
        r.missing("layer_types", "the kind of each layer")
    made = {name: part(r, hidden) for name, part in _NEMOTRON_PARTS.items() if name in names}
    count = r.optional("num_nextn_predict_layers", low=0, high=MOST_MODULES) or 0
    module = r.words("mtp_layer_types", NEMOTRON_LAYERS) or ["attention", "moe"]
    if len(set(module)) < len(module):
        r.refuse("mtp_layer_types", module, "repeats a kind of layer", "each kind at most once")
    inside = {name: made.get(name) or _NEMOTRON_PARTS[name](r, hidden) for name in module} if count else {}
    r.unused(*NEMOTRON_FIELDS)
    mtp = [tuple(inside[name] for name in module)] * count if count else []
    return _decoder(r, [(made[name],) for name in names], hidden, tied=False, mtp=mtp)


def _nemotron_mamba(r: Reader, hidden: int) -> Part:
    return _mamba2(r, r.integer("ssm_heads"), r.integer("mamba_head_dim"), chunk=128)


def _nemotron_attention(r: Reader, hidden: int) -> Part:
    rule = AttentionRule(bias=flag("attention_bias"), kv_heads="given", head_dim="given")
    return softmax_attention(r, rule, hidden)("full", False)


def _nemotron_mlp(r: Reader, hidden: int) -> Part:
    gated = r.flag("gated_mlp", False)
    return dense_mlp(r, FeedForwardRule(bias=flag("mlp_bias")), hidden, gated)


def _nemotron_moe(r: Reader, hidden: int) -> Part:
    width = r.integer("moe_intermediate_size")
    count = r.optional("n_shared_experts", low=0, high=1000) or 0
    shared = r.optional("moe_shared_expert_intermediate_size") or count * width
    latent = r.optional("moe_latent_size")
    if r.flag("mlp_bias", False):
        r.refuse("mlp_bias", True, "is not modelled for experts", "false")
    mixer = MixtureOfExperts(r.flag("gated_mlp", False), shared=shared > 0, latent=latent is not None)
    sizes = dict(expert_sizes(r, width))
    if shared:
        sizes["shared_ffn"] = shared
    if latent is not None:
        sizes["latent"] = latent
    return Part("moe", "mlp", mixer, tuple(sizes.items()))


_NEMOTRON_PARTS: Mapping[str, Callable[[Reader, int], Part]] = {
    "mamba": _nemotron_mamba,
    "attention": _nemotron_attention,
    "mlp": _nemotron_mlp,
    "moe": _nemotron_moe,
}


def _mamba2(r: Reader, heads: int, width: int, chunk: int) -> Part:
    groups = r.integer("n_groups")
    if heads % groups:
        near = max(round(heads / groups), 1) * groups
        key, _ = r.find("ssm_heads") or ("num_heads", None)
        r.refuse(key, heads, f"is not divided by the {groups} groups", f"a multiple of n_groups = {groups}", near)
    sizes = {
        "ssm_heads": groups,
        "scan_heads": groups,
        "group_heads": heads // groups,
        "ssm_width": width,
        "ssm_state": r.integer("ssm_state_size"),
        "conv_kernel": r.integer("conv_kernel"),
        "chunk_context": r.integer("chunk_size", chunk),
    }
    mixer = Mamba2(r.flag("ssm_bias", False), r.flag("ssm_conv_bias", True))
    return Part("mamba2", "mamba", mixer, tuple(sizes.items()))


def _decoder(
    r: Reader, layers: list[tuple[Part, ...]], hidden: int, *, tied: bool, mtp: list[tuple[Part, ...]] | None = None
) -> Blueprint:
    """A pre-norm stack without positions."""
    tied, norm = r.flag("tie_word_embeddings", tied), Norm()
    return Blueprint(
        layers=layers,
        block=Block((), norm),
        embedding=embedding_operators(False, False, None, False),
        head=head_operators(tied, norm, False, False),
        sizes={"hidden": hidden, "vocab": r.integer("vocab_size")},
        tied=tied,
        max_positions=r.optional("max_position_embeddings", high=LARGEST_CONTEXT),
        mtp=mtp or [],
    )


def read_bert(r: Reader) -> Blueprint:
    """BERT with its pooler (arXiv:1810.04805): an encoder, norms after the residual."""
    hidden, layers = r.integer("hidden_size"), r.integer("num_hidden_layers", high=MOST_LAYERS)
    positions = r.integer("max_position_embeddings", high=LARGEST_CONTEXT)
    r.choice("position_embedding_type", {"absolute": "learned"}, "learned")
    rule = AttentionRule(bias=True)
    attention = softmax_attention(r, rule, hidden)("full", False)
    attention = Part(attention.name, "attention", attention.mixer, attention.sizes, causal=False)
    mlp = dense_mlp(r, FeedForwardRule(bias=True), hidden, gated=False)
    norm = Norm("layer_norm", bias=True)
    trained = r.find("architectures")
    transform = trained is not None and trained[1] == ["BertForMaskedLM"]
    tied = r.flag("tie_word_embeddings", True)
    return Blueprint(
        layers=[(attention, mlp)] * layers,
        block=Block((), norm, "after"),
        embedding=embedding_operators(True, True, norm, False),
        head=masked_head_operators(pooler=not transform, transform=transform, tied=tied or not transform, norm=norm),
        sizes={
            "hidden": hidden,
            "vocab": r.integer("vocab_size"),
            "positions": positions,
            "token_types": r.integer("type_vocab_size"),
            "pooled": hidden,
            "transformed": hidden,
        },
        tied=tied,
        max_positions=positions,
    )


def read_t5(r: Reader) -> Blueprint:
    """T5 (arXiv:1910.10683): encoder and decoder, relative positions, heads wider or narrower than hidden / heads."""
    hidden = r.integer("hidden_size")
    encoder_layers = r.integer("num_hidden_layers", high=MOST_LAYERS)
    decoder_layers = r.integer("num_decoder_layers", encoder_layers, high=MOST_LAYERS)
    heads, head_dim = r.integer("num_attention_heads"), r.integer("head_dim")
    gated = r.choice("feed_forward_proj", {"relu": False, "gelu": False, "gated-gelu": True, "gated-silu": True}, False)
    gated = r.flag("is_gated_act", gated)
    sizes = (("heads", heads), ("kv_heads", heads), ("head_dim", head_dim))
    mixer = Attention(rotary=False)
    encode = Part("encoder-mha", "attention", mixer, sizes, causal=False)
    decode = Part("mha", "attention", mixer, sizes)
    cross = Part("cross", "cross", CrossAttention(), sizes)
    mlp = Part("mlp", "mlp", Mlp(gated), (("ffn", r.integer("intermediate_size")),))
    tied, norm = r.flag("tie_word_embeddings", True), Norm()
    return Blueprint(
        layers=[*[(encode, mlp)] * encoder_layers, *[(decode, cross, mlp)] * decoder_layers],
        block=Block((), norm),
        embedding=relative_embedding_operators(),
        head=encoder_decoder_head_operators(tied, norm),
        sizes={
            "hidden": hidden,
            "vocab": r.integer("vocab_size"),
            "heads": heads,
            "position_buckets": r.integer("relative_attention_num_buckets", 32),
        },
        tied=tied,
        max_positions=r.optional("max_position_embeddings", high=LARGEST_CONTEXT),
    )


OTHERS: Mapping[str, Callable[[Reader], Blueprint]] = {
    "mamba2": read_mamba2,
    "nemotron_h": read_nemotron_h,
    "bert": read_bert,
    "t5": read_t5,
}
"""``model_type`` -> reader."""
