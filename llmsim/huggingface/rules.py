"""Rules of the family table: how layers alternate, and widths and head counts that follow from other keys."""

from __future__ import annotations

from ..layers.blocks import Parallel
from .attention import Pattern, Positions
from .reader import MOST_LAYERS, Reader

# ---- which layers see a window, and which have experts


def every_layer(r: Reader, layers: int) -> list[str]:
    """One window for all layers, where the file gives one (Mistral, arXiv:2310.06825)."""
    return ["sliding" if r.has("sliding_window") else "full"] * layers


def upper_layers(r: Reader, layers: int, switched: bool = False) -> list[str]:
    """A window from ``max_window_layers`` on, where windows are on at all (Qwen)."""
    on = r.flag("use_sliding_window", switched) and r.has("sliding_window")
    first = r.integer("max_window_layers", None if on else layers, low=0, high=MOST_LAYERS)
    r.unused("sliding_window")
    return ["sliding" if on and i >= first else "full" for i in range(layers)]


def only_listed(r: Reader, layers: int) -> list[str]:
    """No window, unless ``layer_types`` says where."""
    if r.flag("use_sliding_window", False):
        r.missing("layer_types", "a list of the layers that use the window, one word a layer,")
    r.unused("sliding_window", "max_window_layers")
    return ["full"] * layers


def all_or_none(r: Reader, layers: int) -> list[str]:
    used = r.flag("use_sliding_window", False) and r.has("sliding_window")
    r.unused("sliding_window", "max_window_layers")
    return ["sliding" if used else "full"] * layers


def one_in(period: int, others: str = "sliding", field: str = "sliding_window_pattern") -> Pattern:
    """Every ``period``-th layer sees everything, the others do not."""

    def pattern(r: Reader, layers: int) -> list[str]:
        every = r.integer(field, period, high=MOST_LAYERS)
        return [others if (i + 1) % every else "full" for i in range(layers)]

    return pattern


def without_rotation(r: Reader, layers: int) -> list[bool]:
    """Whether each layer rotates: ``no_rope_layers`` holds a 1 for a layer that *does* (Llama 4, SmolLM3)."""
    listed = r.integers("no_rope_layers", low=0, high=1)
    every = r.integer("no_rope_layer_interval", 4, high=MOST_LAYERS)
    if not listed:
        return [(i + 1) % every != 0 for i in range(layers)]
    if len(listed) != layers:
        r.refuse("no_rope_layers", listed, f"has {len(listed)} entries", f"one a layer, {layers} in all")
    return [bool(entry) for entry in listed]


def chunks(r: Reader, layers: int) -> list[str]:
    return ["chunked" if rotates else "full" for rotates in without_rotation(r, layers)]


def minimax_layers(r: Reader, layers: int) -> list[str]:
    """All layers are softmax attention, which ``attn_type_list`` calls 1, unlike in the models before M2."""
    r.integers("attn_type_list", low=1, high=1)
    r.choice("qk_norm_type", {"per_layer": "full"}, "full")
    return ["full"] * layers


def jamba_attention(r: Reader, layers: int) -> list[str]:
    period = r.integer("attn_layer_period", high=MOST_LAYERS)
    offset = r.integer("attn_layer_offset", low=0, high=MOST_LAYERS)
    return ["full" if i % period == offset else "mamba" for i in range(layers)]


def jamba_experts(r: Reader, layers: int) -> list[bool]:
    period = r.integer("expert_layer_period", high=MOST_LAYERS)
    offset = r.integer("expert_layer_offset", low=0, high=MOST_LAYERS)
    return [i % period == offset for i in range(layers)]


def after_the_first(r: Reader, layers: int) -> list[bool]:
    """Dense layers first, then experts (DeepSeek-V2, arXiv:2405.04434)."""
    listed = r.words("mlp_layer_types", {"dense": False, "sparse": True}, layers)
    if listed is not None:
        r.unused("first_k_dense_replace", "moe_layer_freq")
        return listed
    first = r.integer("first_k_dense_replace", low=0)
    every = r.integer("moe_layer_freq", 1, high=MOST_LAYERS)
    return [i >= first and i % every == 0 for i in range(layers)]


def every_step(r: Reader, layers: int) -> list[bool]:
    step = r.integer("decoder_sparse_step", 1, high=MOST_LAYERS)
    dense = set(r.integers("mlp_only_layers", low=0, high=MOST_LAYERS) or [])
    return [(i + 1) % step == 0 and i not in dense for i in range(layers)]


def interleaved(r: Reader, layers: int) -> list[bool]:
    step = r.integer("interleave_moe_layer_step", 1, high=MOST_LAYERS)
    listed = r.integers("moe_layers", low=0, high=layers - 1)
    return [(i in listed) if listed is not None else (i + 1) % step == 0 for i in range(layers)]


def numbered(r: Reader, layers: int) -> list[bool]:
    """``moe_layers_enum`` names the layers with experts, as text; from the fourth on where it is absent (Step-3.5)."""
    found = r.find("moe_layers_enum")
    if found is None:
        return [i >= 3 for i in range(layers)]
    key, value = found
    text = value.split(",") if isinstance(value, str) else value
    if not isinstance(text, (list, tuple)) or not all(str(item).strip().isdigit() for item in text):
        r.refuse(key, value, allowed="numbers of layers between commas")
    listed = {int(item) for item in text}
    return [i in listed for i in range(layers)]


# ---- widths and heads


def global_heads(r: Reader, kind: str) -> dict[str, int]:
    """Layers that see everything have wider heads (Gemma 4)."""
    if kind != "full":
        return {}
    sizes = {"head_dim": r.integer("global_head_dim")}
    kv_heads = r.optional("num_global_key_value_heads")
    return {**sizes, "kv_heads": kv_heads} if kv_heads is not None and r.flag("attention_k_eq_v", False) else sizes


def global_keys_are_values(r: Reader, kind: str) -> bool:
    return r.flag("attention_k_eq_v", False) and kind == "full"


def sliding_heads(r: Reader, kind: str) -> dict[str, int]:
    """Layers with a window have heads of their own (Step-3.5)."""
    inner = r.nested("attention_other_setting")
    if inner is None or kind != "sliding":
        return {}
    fields = {"heads": "num_attention_heads", "kv_heads": "num_key_value_heads", "head_dim": "head_dim"}
    sizes = {size: value for size, field in fields.items() if (value := inner.optional(field)) is not None}
    inner.unused("attention_type", "true_head_dim")
    inner.finish()
    return sizes


def share_expert_dim(r: Reader, width: int) -> int:
    return r.optional("share_expert_dim", low=0) or 0


def four_times(r: Reader, hidden: int) -> int:
    return 4 * hidden


def expansion(r: Reader, hidden: int) -> int:
    ratio = r.optional("expansion_ratio", high=1000)
    width = r.optional("intermediate_size")
    if ratio is not None and width is not None and ratio * hidden != width:
        r.refuse("expansion_ratio", ratio, f"contradicts the MLP width {width}")
    return (ratio or 4) * hidden


def shared_experts(r: Reader, width: int) -> int:
    return (r.optional("n_shared_experts", low=0, high=1000) or 0) * width


def shared_width(r: Reader, width: int) -> int:
    return r.optional("shared_expert_intermediate_size", low=0) or 0


def falcon_kv_heads(r: Reader, heads: int) -> int:
    """Falcon-7B states 71 key/value heads and has one: the number counts in the newer decoder only."""
    one = r.flag("multi_query", True)
    if r.flag("new_decoder_architecture", False):
        return r.integer("num_key_value_heads", heads)
    r.unused("num_key_value_heads")
    return 1 if one else heads


def bigcode_kv_heads(r: Reader, heads: int) -> int:
    r.unused("num_key_value_heads")
    return 1 if r.flag("multi_query", True) else heads


def falcon_parallel(r: Reader) -> Parallel:
    newer, parallel = r.flag("new_decoder_architecture", False), r.flag("parallel_attn", True)
    norms = r.integer("num_ln_in_parallel_attn", 2 if newer else 1, high=2)
    if not newer and not parallel:
        return "no"
    return "separate" if newer and norms == 2 else "shared"


def mpt_positions(r: Reader) -> Positions:
    inner, learned = r.nested("attn_config"), r.flag("learned_pos_emb", True)
    if inner is None:  # llm-foundry then learns positions, transformers uses alibi
        return "learned" if r.has("position_embedding_type") else r.missing("attn_config", "an object with alibi")
    alibi = inner.flag("alibi", False)
    inner.choice("attn_type", {"multihead_attention": None}, None)
    inner.unused("attn_impl")
    inner.finish()
    return "alibi" if alibi else "learned" if learned else "none"


def not_bare(r: Reader) -> bool:
    return not r.flag("no_bias", True)
