"""The attention part of each layer: heads, latent ranks, windows, positions, and linear-time mixers in its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from ..layers.attention import Attention
from ..layers.base import Mixer
from ..layers.mla import LatentAttention
from ..layers.recurrent import GatedDeltaNet, Mamba1
from .blueprint import Part
from .options import Rule, answer
from .reader import LARGEST_CONTEXT, Reader

QkNorm = Literal["none", "head", "full", "gainless"]
Gate = bool | Literal["head"]
Positions = Literal["rotary", "learned", "alibi", "none"]

POSITIONS: Mapping[str, Positions] = {
    "rope": "rotary",
    "rotary": "rotary",
    "learned": "learned",
    "learned_absolute": "learned",
    "absolute": "learned",
    "alibi": "alibi",
    "none": "none",
    "nope": "none",
}

LAYER_TYPES = {
    "full_attention": "full",
    "attention": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "chunked",
    "linear_attention": "linear",
    "mamba": "mamba",
}
"""What ``layer_types`` calls a layer -> what it is here."""

OVERRULED = (
    "sliding_window_pattern",
    "full_attention_interval",
    "use_sliding_window",
    "max_window_layers",
    "sliding_window",
    "attn_layer_period",
    "attn_layer_offset",
)
"""Fields that say how layers alternate, and have nothing left to say where ``layer_types`` lists them."""

Pattern = Callable[[Reader, int], list[str]]


@dataclass(frozen=True)
class AttentionRule:
    """How a family's attention follows from its configuration; the defaults are Llama's.

    Attributes
    ----------
    bias, out_bias, qk_norm, sinks, gate
        As of :class:`~llmsim.layers.attention.Attention`; the output projection has a bias where q, k and v have one,
        unless it is said otherwise.
    kv_heads
        Key/value heads where the file does not say: as many as query heads, or the file must say (``"given"``), or a
        rule.
    head_dim
        Width of a head where the file does not say: hidden / heads, or the file must say. A width that the file does
        say is never overruled.
    types, pattern
        The kinds of layers that the family knows, and their order where ``layer_types`` is absent.
    rotates
        Which layers use rotary positions, where not all do.
    latent, indexer
        Multi-head latent attention, with the indexer of sparse attention.
    of_kind
        Heads, key/value heads and widths that layers of a kind have otherwise than the rest.
    shared_kv, v_norm
        As of :class:`~llmsim.layers.attention.Attention`, by the kind of layer.
    longer
        Whether ``layer_types`` goes on with the layers of prediction modules.
    """

    bias: Rule[bool] = False
    out_bias: Rule[bool] | None = None
    qk_norm: Rule[QkNorm] = "none"
    sinks: bool = False
    gate: Rule[Gate] = False
    kv_heads: Literal["heads", "given"] | Callable[[Reader, int], int] = "heads"
    head_dim: Literal["derived", "given"] = "derived"
    types: tuple[str, ...] = ("full",)
    pattern: Pattern = lambda r, layers: ["full"] * layers
    rotates: Callable[[Reader, list[str]], list[bool]] = lambda r, kinds: [True] * len(kinds)
    latent: bool = False
    indexer: bool = False
    of_kind: Callable[[Reader, str], Mapping[str, int]] = lambda r, kind: {}
    shared_kv: Callable[[Reader, str], bool] = lambda r, kind: False
    v_norm: bool = False
    longer: bool = False


def read_attention(r: Reader, rule: AttentionRule, layers: int, hidden: int, positions: Positions) -> list[Part]:
    """The attention part of each layer."""
    known = {word: kind for word, kind in LAYER_TYPES.items() if kind in rule.types}
    if rule.indexer:
        known["indexed_attention"] = "full"
    modules = (r.optional("num_nextn_predict_layers", low=0, high=LARGEST_CONTEXT) or 0) if rule.longer else 0
    kinds = r.words("layer_types", known, layers + modules)
    if kinds is None:
        kinds = rule.pattern(r, layers)
    else:
        r.unused(*OVERRULED)
    kinds = kinds[:layers]
    rotates = rule.rotates(r, kinds) if positions == "rotary" else [False] * layers
    if rule.latent:
        r.words("indexer_types", {"full": None}, layers)  # layers that share the choice of another are not modelled
        return [_latent(r, rule)] * layers
    softmax = softmax_attention(r, rule, hidden, rotary_elsewhere=any(rotates))
    linear = {"linear": _delta_net, "mamba": _mamba1}
    made = {
        (kind, rotary): linear[kind](r, hidden) if kind in linear else softmax(kind, rotary)
        for kind, rotary in dict.fromkeys(zip(kinds, rotates, strict=True))
    }
    return [made[key] for key in zip(kinds, rotates, strict=True)]


def softmax_attention(
    r: Reader, rule: AttentionRule, hidden: int, *, rotary_elsewhere: bool = False
) -> Callable[[str, bool], Part]:
    """The softmax attention of a model: a function from the kind of layer, and whether it rotates, to the part."""
    heads = r.integer("num_attention_heads")
    kv_heads = _kv_heads(r, rule, heads)
    head_dim = _head_dim(r, rule, hidden, heads)
    norm: QkNorm = answer(rule.qk_norm, r)
    bias = answer(rule.bias, r)
    gate: Gate = answer(rule.gate, r)
    out_bias = bias if rule.out_bias is None else answer(rule.out_bias, r)
    usual = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}

    def part(kind: str, rotary: bool) -> Part:
        window = _window(r, kind)
        sizes = {**usual, **rule.of_kind(r, kind)}
        own = sizes["kv_heads"]
        sharing = "mha" if own == sizes["heads"] else "mqa" if own == 1 else "gqa"
        # Llama 4 norms queries and keys behind the rotation, and only where it rotates.
        own_norm: QkNorm = "none" if norm == "gainless" and not rotary else norm
        shared = rule.shared_kv(r, kind)
        mixer = Attention(rotary, bias, out_bias, own_norm, rule.sinks, gate, shared, rule.v_norm)
        name = f"{kind}-{sharing}" if window is not None else sharing
        name = f"nope-{name}" if rotary_elsewhere and not rotary else name
        return Part(name, "attention", mixer, tuple(sizes.items()), window)

    return part


def _kv_heads(r: Reader, rule: AttentionRule, heads: int) -> int:
    if callable(rule.kv_heads):
        kv_heads = rule.kv_heads(r, heads)
    else:
        kv_heads = r.integer("num_key_value_heads", heads if rule.kv_heads == "heads" else None)
    if heads % kv_heads:
        key, _ = r.find("num_key_value_heads") or ("num_key_value_heads", None)
        divisors = [d for d in range(1, heads + 1) if heads % d == 0] if heads <= 4096 else [1, heads]
        nearest = min(divisors, key=lambda d: abs(d - kv_heads))
        r.refuse(key, kv_heads, "does not divide the query heads", f"a divisor of {heads}", nearest)
    return kv_heads


def _head_dim(r: Reader, rule: AttentionRule, hidden: int, heads: int) -> int:
    given = r.optional("head_dim")
    if given is not None:
        return given
    if rule.head_dim == "given":
        r.missing("head_dim", "a whole number")
    if hidden % heads:
        key, _ = r.find("hidden_size") or ("hidden_size", None)
        why = f"is not a multiple of the {heads} heads, and head_dim is absent"
        r.refuse(key, hidden, why, f"a multiple of {heads}, or head_dim", max(round(hidden / heads), 1) * heads)
    return hidden // heads


def _window(r: Reader, kind: str) -> int | None:
    if kind == "sliding":
        return r.integer("sliding_window", high=LARGEST_CONTEXT)
    if (
        kind == "chunked"
    ):  # taken as a window: exact up to one chunk, beyond it more than is seen (half a chunk, in mean)
        return r.optional("attention_chunk_size", high=LARGEST_CONTEXT)
    return None


def _latent(r: Reader, rule: AttentionRule) -> Part:
    # These are shapes of the expanded form; files give them other values, which nothing uses.
    r.unused("num_key_value_heads", "head_dim", "qk_head_dim")
    nope, rope = r.integer("qk_nope_head_dim"), r.integer("qk_rope_head_dim")
    q_rank = r.optional("q_lora_rank")
    sizes = {
        "heads": r.integer("num_attention_heads"),
        "kv_rank": r.integer("kv_lora_rank"),
        "nope_dim": nope,
        "rope_dim": rope,
        "qk_dim": nope + rope,
        "v_dim": r.integer("v_head_dim"),
    }
    if q_rank is not None:
        sizes["q_rank"] = q_rank
    if rule.indexer:
        if q_rank is None:
            r.missing("q_lora_rank", "a whole number, since the indexer reads the query latent,")
        # The defaults are the class's own; the published GLM-5 file leaves them out.
        sizes["index_heads"] = r.integer("index_n_heads", 32)
        sizes["index_dim"] = r.integer("index_head_dim", 128)
        sizes["index_top_k"] = r.integer("index_topk", 2048, high=LARGEST_CONTEXT)
    mixer: Mixer = LatentAttention(q_rank is not None, answer(rule.bias, r), rule.indexer)
    # Attention to the positions that an indexer leaves costs what a window of as many would.
    return Part("mla", "attention", mixer, tuple(sizes.items()), sizes.get("index_top_k"))


DELTA_CHUNK = 64
"""Positions of a chunk in the kernels of the gated delta rule; no file says it."""


def _delta_net(r: Reader, hidden: int) -> Part:
    k_heads, v_heads = r.integer("linear_num_key_heads"), r.integer("linear_num_value_heads")
    if v_heads % k_heads:
        near = max(round(v_heads / k_heads), 1) * k_heads
        r.refuse("linear_num_value_heads", v_heads, "", f"a multiple of linear_num_key_heads = {k_heads}", near)
    sizes = {
        "ssm_heads": k_heads,
        "scan_heads": k_heads,
        "head_share": v_heads // k_heads,
        "linear_k_dim": r.integer("linear_key_head_dim"),
        "linear_v_dim": r.integer("linear_value_head_dim"),
        "conv_kernel": r.integer("linear_conv_kernel_dim"),
        "chunk": DELTA_CHUNK,
        "chunk_context": DELTA_CHUNK,
    }
    return Part("delta-net", "attention", GatedDeltaNet(), tuple(sizes.items()))


def _mamba1(r: Reader, hidden: int) -> Part:
    inner = r.integer("ssm_expand") * hidden
    sizes = {
        "ssm_heads": inner,
        "scan_heads": inner,
        "ssm_state": r.integer("ssm_state_size"),
        "dt_rank": r.integer("mamba_dt_rank", -(-hidden // 16)),
        "conv_kernel": r.integer("conv_kernel"),
    }
    mixer = Mamba1(r.flag("ssm_bias", False), r.flag("ssm_conv_bias", True))
    return Part("mamba", "attention", mixer, tuple(sizes.items()))
