"""The families of decoder-only models, each by what it does otherwise than Llama.

Defaults that a file may leave out are those of the family's configuration class where they are structure (whether a
bias exists, how layers alternate), never where they are sizes: a size that is absent is an error.
"""

from __future__ import annotations

from dataclasses import replace

from ..layers.base import Arrangement
from ..layers.blocks import Parallel
from . import rules
from .attention import AttentionRule, Gate, Positions, QkNorm
from .decoder import Decoder
from .feed_forward import ExpertsRule, FeedForwardRule
from .options import Switch, flag

_BIAS, _MLP_BIAS = flag("attention_bias"), flag("mlp_bias")
_WINDOWED = AttentionRule(kv_heads="given", types=("full", "sliding"), pattern=rules.every_layer)
_QWEN = AttentionRule(kv_heads="given", types=("full", "sliding"), pattern=rules.upper_layers)
_QWEN3 = replace(_QWEN, bias=_BIAS, qk_norm="head", head_dim="given")
_GEMMA = AttentionRule(bias=_BIAS, kv_heads="given", head_dim="given")
_DELTA = replace(
    _QWEN3,
    types=("full", "linear"),
    pattern=rules.one_in(4, "linear", "full_attention_interval"),
    gate=flag("attn_output_gate", True),
)
_MIXTRAL_EXPERTS = ExpertsRule(width="intermediate_size")
_QWEN_EXPERTS = ExpertsRule(sparse=rules.every_step, shared=rules.shared_width, shared_gate=True)
_DEEPSEEK_EXPERTS = ExpertsRule(sparse=rules.after_the_first, shared=rules.shared_experts, optional=True)
_DEEPSEEK = Decoder(
    attention=AttentionRule(bias=_BIAS, latent=True), mlp=FeedForwardRule(experts=_DEEPSEEK_EXPERTS), mtp=True
)
_GLM_MOE = Decoder(
    attention=AttentionRule(
        bias=_BIAS, out_bias=False, kv_heads="given", qk_norm=Switch[QkNorm]("use_qk_norm", False, "head", "none")
    ),
    mlp=FeedForwardRule(experts=_DEEPSEEK_EXPERTS),
    mtp=True,
)
_GLM = Decoder(
    attention=AttentionRule(bias=flag("attention_bias", True), out_bias=False, kv_heads="given", head_dim="given")
)
_QWEN_NEXT = Decoder(attention=_DELTA, mlp=FeedForwardRule(experts=_QWEN_EXPERTS), mtp=True)
_LLAMA = Decoder(
    attention=AttentionRule(bias=_BIAS), mlp=FeedForwardRule(bias=_MLP_BIAS)
)  # fmt: skip
_GPT = Decoder(
    attention=AttentionRule(bias=flag("attention_bias", True)),
    mlp=FeedForwardRule(gated=False, bias=flag("mlp_bias", True), default_width=rules.four_times),
    norm="layer_norm",
    norm_bias=True,
)
_COHERE = replace(
    _LLAMA,
    # Each head's queries and keys are normed, with a gain for every channel of every head.
    attention=AttentionRule(bias=_BIAS, qk_norm=Switch[QkNorm]("use_qk_norm", False, "full", "none")),
    norm="layer_norm",
    parallel="shared",
    tied=True,
    mlp=FeedForwardRule(),
)

DECODERS: dict[str, Decoder] = {
    "llama": _LLAMA,
    "granite": _LLAMA,
    "internlm": replace(_LLAMA, attention=AttentionRule(bias=flag("bias", True))),
    "internlm2": replace(_LLAMA, attention=AttentionRule(bias=flag("bias", True), kv_heads="given")),
    "mistral": Decoder(attention=_WINDOWED),
    "ministral": Decoder(attention=_WINDOWED),
    "phi3": Decoder(attention=replace(_WINDOWED, kv_heads="heads")),
    "olmo2": Decoder(attention=AttentionRule(bias=_BIAS, qk_norm="full"), arrangement="post"),
    "olmo3": Decoder(
        attention=AttentionRule(bias=_BIAS, qk_norm="full", types=("full", "sliding"), pattern=rules.one_in(4)),
        arrangement="post",
    ),
    "seed_oss": Decoder(
        attention=AttentionRule(
            bias=flag("attention_bias", True), out_bias=flag("attention_out_bias"), kv_heads="given", head_dim="given"
        ),
        mlp=FeedForwardRule(bias=_MLP_BIAS),
    ),
    "exaone4": Decoder(
        attention=AttentionRule(
            qk_norm="head",
            kv_heads="given",
            types=("full", "sliding"),
            pattern=rules.only_listed,
            rotates=lambda r, kinds: [kind == "sliding" or "sliding" not in kinds for kind in kinds],
        ),
        arrangement="post",
    ),
    "smollm3": replace(
        _LLAMA,
        attention=replace(
            _QWEN,
            bias=_BIAS,
            pattern=rules.only_listed,
            rotates=lambda r, kinds: rules.without_rotation(r, len(kinds)),
        ),
        tied=True,
    ),
    "ernie4_5": Decoder(
        attention=AttentionRule(bias=flag("use_bias"), kv_heads="given", head_dim="given"),
        mlp=FeedForwardRule(bias=flag("use_bias")),
        tied=True,
    ),
    "gemma": Decoder(attention=_GEMMA, tied=True),
    "gemma2": Decoder(
        attention=replace(_GEMMA, types=("full", "sliding"), pattern=rules.one_in(2)), arrangement="sandwich", tied=True
    ),
    "gemma3_text": Decoder(
        attention=replace(_GEMMA, qk_norm="head", types=("full", "sliding"), pattern=rules.one_in(6)),
        arrangement="sandwich",
        tied=True,
    ),
    "gemma4_text": Decoder(
        attention=replace(
            _GEMMA,
            qk_norm="head",
            types=("full", "sliding"),
            pattern=rules.one_in(6),
            of_kind=rules.global_heads,
            shared_kv=rules.global_keys_are_values,
            v_norm=True,
        ),
        # The dense MLP beside the experts counts as a shared one; a scale for each expert as the router's bias.
        mlp=FeedForwardRule(
            experts=ExpertsRule(
                shared=lambda r, width: r.integer("intermediate_size"),
                router_bias=True,
                normed=flag("enable_moe_block"),
                optional=True,
            )
        ),
        arrangement="sandwich",
        tied=True,
        # Of images alone, and of embeddings a layer, which a model with a width of 0 does not have.
        unused=("use_bidirectional_attention", "vocab_size_per_layer_input", "num_global_key_value_heads"),
    ),
    "step3p5": Decoder(
        attention=AttentionRule(
            bias=_BIAS,
            qk_norm="head",
            gate=Switch[Gate]("use_head_wise_attn_gate", True, "head", False),
            kv_heads="given",
            head_dim="given",
            types=("full", "sliding"),
            of_kind=rules.sliding_heads,
            longer=True,
        ),
        mlp=FeedForwardRule(experts=ExpertsRule(sparse=rules.numbered, shared=rules.share_expert_dim)),
        # Clamps, rotary variants and scores of experts; prediction modules have a form of their own and are left out.
        unused=(
            "swiglu_limits",
            "swiglu_limits_shared",
            "partial_rotary_factors",
            "yarn_only_types",
            "att_impl_type",
            "use_moe",
            "need_fp32_gate",
            "moe_router_activation",
            "moe_router_scaling_factor",
            "use_qk_norm",
            "num_nextn_predict_layers",
            "share_expert_dims",
            "zero_centered",
        ),
    ),
    "cohere": _COHERE,
    "cohere2": replace(
        _COHERE,
        attention=replace(
            _LLAMA.attention,
            types=("full", "sliding"),
            pattern=rules.one_in(4),
            rotates=lambda r, kinds: [kind == "sliding" for kind in kinds],
        ),
    ),
    "qwen2": Decoder(attention=replace(_QWEN, bias=True, out_bias=False)),
    "qwen3": Decoder(attention=_QWEN3),
    "qwen2_moe": Decoder(
        attention=replace(_QWEN, bias=flag("qkv_bias", True), out_bias=False, pattern=rules.only_listed),
        mlp=FeedForwardRule(experts=_QWEN_EXPERTS),
    ),
    "qwen3_moe": Decoder(
        attention=replace(
            _QWEN3,
            head_dim="derived",
            pattern=rules.all_or_none,
            qk_norm=Switch[QkNorm]("use_qk_norm", True, "head", "none"),
        ),
        mlp=FeedForwardRule(experts=_QWEN_EXPERTS),
    ),
    "qwen3_next": _QWEN_NEXT,
    "qwen3_5_moe_text": _QWEN_NEXT,
    "qwen3_5_text": replace(_QWEN_NEXT, mlp=FeedForwardRule()),
    "mixtral": Decoder(attention=_WINDOWED, mlp=FeedForwardRule(experts=_MIXTRAL_EXPERTS)),
    "granitemoe": replace(_LLAMA, mlp=FeedForwardRule(experts=_MIXTRAL_EXPERTS)),
    "phimoe": Decoder(
        attention=replace(_WINDOWED, bias=_BIAS),
        mlp=FeedForwardRule(experts=_MIXTRAL_EXPERTS),
        norm="layer_norm",
        norm_bias=True,
        head_bias=flag("lm_head_bias"),
    ),
    "minimax_m2": Decoder(
        attention=AttentionRule(
            qk_norm=Switch[QkNorm]("use_qk_norm", True, "full", "none"),
            kv_heads="given",
            head_dim="given",
            pattern=rules.minimax_layers,
        ),
        mlp=FeedForwardRule(experts=_MIXTRAL_EXPERTS),
        # The prediction modules that the file announces are not in the release, and their shape is not published.
        unused=("use_mtp", "num_mtp_modules", "mtp_transformer_layers"),
    ),
    "olmoe": Decoder(
        attention=AttentionRule(bias=_BIAS, qk_norm="full"),
        mlp=FeedForwardRule(experts=_MIXTRAL_EXPERTS),
    ),
    "gpt_oss": Decoder(
        attention=AttentionRule(
            bias=flag("attention_bias", True),
            sinks=True,
            kv_heads="given",
            head_dim="given",
            types=("full", "sliding"),
            pattern=rules.one_in(2),
        ),
        mlp=FeedForwardRule(experts=replace(_MIXTRAL_EXPERTS, router_bias=True, expert_bias=True, clamped=True)),
    ),
    "grok-1": Decoder(
        attention=AttentionRule(kv_heads="given"), mlp=FeedForwardRule(experts=ExpertsRule()), arrangement="sandwich"
    ),
    "llama4_text": Decoder(
        attention=AttentionRule(
            bias=_BIAS,
            qk_norm=Switch[QkNorm]("use_qk_norm", True, "gainless", "none"),
            kv_heads="given",
            head_dim="given",
            types=("full", "chunked"),
            pattern=rules.chunks,
            rotates=lambda r, kinds: rules.without_rotation(r, len(kinds)),
        ),
        mlp=FeedForwardRule(
            width="intermediate_size_mlp",
            experts=ExpertsRule("intermediate_size", sparse=rules.interleaved, shared=lambda r, width: width),
        ),
    ),
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "deepseek_v32": replace(_DEEPSEEK, attention=AttentionRule(bias=_BIAS, latent=True, indexer=True)),
    "glm_moe_dsa": replace(_DEEPSEEK, attention=AttentionRule(bias=_BIAS, latent=True, indexer=True)),
    "glm4_moe_lite": _DEEPSEEK,
    "hy_v3": Decoder(
        attention=AttentionRule(
            bias=_BIAS,
            kv_heads="given",
            head_dim="given",
            qk_norm=Switch[QkNorm]("qk_norm", True, "head", "none"),
        ),
        mlp=FeedForwardRule(bias=_MLP_BIAS, experts=_DEEPSEEK_EXPERTS),
        mtp=True,
        # Formats of sums, and how scores become weights; an expert's width stands under two names.
        unused=(
            "enable_attention_fp32_softmax",
            "enable_lm_head_fp32",
            "enable_moe_fp32_combine",
            "expert_hidden_dim",
            "moe_router_use_sigmoid",
            "route_norm",
            "router_scaling_factor",
            "use_grouped_mm",
        ),
    ),
    "glm4_moe": _GLM_MOE,
    "dots1": replace(
        _GLM_MOE,
        attention=replace(
            _QWEN,
            bias=_BIAS,
            qk_norm="head",
            pattern=lambda r, layers: rules.upper_layers(r, layers, switched=True),
        ),
    ),
    "glm": _GLM,
    "glm4": replace(_GLM, arrangement="sandwich"),
    "jamba": Decoder(
        attention=AttentionRule(kv_heads="given", types=("full", "mamba"), pattern=rules.jamba_attention),
        mlp=FeedForwardRule(experts=ExpertsRule("intermediate_size", sparse=rules.jamba_experts)),
        positions="none",
    ),
    "gpt2": replace(_GPT, positions="learned", tied=True),
    "gpt_bigcode": replace(
        _GPT,
        attention=replace(_GPT.attention, kv_heads=rules.bigcode_kv_heads),
        positions="learned",
        tied=True,
    ),
    "gptj": replace(_GPT, attention=AttentionRule(), parallel="shared", head_bias=True),
    "phi": replace(
        _GPT,
        attention=AttentionRule(bias=True),
        mlp=FeedForwardRule(gated=False, bias=True),
        parallel="shared",
        head_bias=True,
    ),
    "gpt_neox": replace(
        _GPT,
        mlp=FeedForwardRule(gated=False, bias=True),
        parallel=Switch[Parallel]("use_parallel_residual", True, "separate", "no"),
    ),
    "bloom": replace(_GPT, positions="alibi", embedding_norm=True, tied=True),
    "opt": replace(
        _GPT,
        attention=AttentionRule(bias=flag("enable_bias", True)),
        mlp=FeedForwardRule(gated=False, bias=flag("enable_bias", True)),
        arrangement=Switch[Arrangement]("do_layer_norm_before", True, "pre", "after"),
        positions="learned",
        extra_positions=2,
        embed_width=lambda r: r.optional("word_embed_proj_dim"),
        final_norm=lambda r: r.flag("do_layer_norm_before", True) and not r.flag("_remove_final_layer_norm", False),
        tied=True,
    ),
    "falcon": replace(
        _GPT,
        attention=AttentionRule(bias=flag("bias"), kv_heads=rules.falcon_kv_heads),
        mlp=FeedForwardRule(gated=False, bias=flag("bias"), default_width=rules.four_times),
        parallel=rules.falcon_parallel,
        positions=Switch[Positions]("alibi", False, "alibi", "rotary"),
        tied=True,
    ),
    "mpt": replace(
        _GPT,
        attention=AttentionRule(
            bias=lambda r: r.flag("attention_bias", rules.not_bare(r)),
        ),
        mlp=FeedForwardRule(
            gated=False, bias=lambda r: r.flag("mlp_bias", rules.not_bare(r)), default_width=rules.expansion
        ),
        norm_bias=rules.not_bare,
        positions=rules.mpt_positions,
        tied=True,
    ),
    "starcoder2": replace(
        _GPT,
        attention=replace(_WINDOWED, bias=flag("use_bias", True)),
        mlp=FeedForwardRule(gated=False, bias=flag("use_bias", True)),
        tied=True,
    ),
    "stablelm": replace(
        _LLAMA,
        attention=AttentionRule(bias=flag("use_qkv_bias"), out_bias=False),
        mlp=FeedForwardRule(),
        norm="layer_norm",
        norm_bias=True,
        parallel=Switch[Parallel]("use_parallel_residual", False, "shared", "no"),
    ),
    "nemotron": Decoder(
        attention=AttentionRule(bias=_BIAS, head_dim="given"),
        mlp=FeedForwardRule(gated=False, bias=_MLP_BIAS),
        norm="layer_norm",
        norm_bias=True,
    ),
}
"""``model_type`` -> family."""
