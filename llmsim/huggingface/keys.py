"""The keys of config.json files: spellings of one field, and keys that change no cost."""

from __future__ import annotations

import re
from typing import Any

SPELLINGS: dict[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_size", "n_embd", "n_embed", "d_model", "dim"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "num_key_value_heads": (
        "num_key_value_heads",
        "num_kv_heads",
        "n_kv_heads",
        "n_head_kv",
        "num_attention_groups",
    ),
    "head_dim": ("head_dim", "d_kv", "kv_channels", "attention_head_dim"),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size"),
    "vocab_size": ("vocab_size", "n_vocab"),
    "max_position_embeddings": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"),
    "num_experts": ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    "num_experts_per_tok": (
        "num_experts_per_tok",
        "num_experts_per_token",
        "experts_per_token",
        "moe_top_k",
        "moe_k",
        "top_k_experts",
    ),
    "n_shared_experts": ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"),
    "num_nextn_predict_layers": ("num_nextn_predict_layers", "mtp_num_hidden_layers"),
    "sliding_window_pattern": ("sliding_window_pattern", "_sliding_window_pattern"),
    "layer_types": ("layer_types", "layers_block_type", "hybrid_override_pattern"),
    "mtp_layer_types": ("mtp_layers_block_type", "mtp_hybrid_override_pattern"),
    "conv_kernel": ("conv_kernel", "mamba_d_conv"),
    "n_groups": ("n_groups", "mamba_n_groups"),
    "ssm_state_size": ("ssm_state_size", "state_size", "mamba_d_state"),
    "ssm_expand": ("expand", "mamba_expand"),
    "chunk_size": ("chunk_size", "mamba_chunk_size"),
    "ssm_heads": ("mamba_num_heads", "num_heads"),
    "ssm_bias": ("use_bias", "mamba_proj_bias"),
    "ssm_conv_bias": ("use_conv_bias", "mamba_conv_bias"),
}
"""Canonical field -> its spellings, the canonical one first where it is a key. Fields not in here have one spelling."""

_NEUTRAL_WORDS = """
    # bookkeeping of transformers and of the repository
    model_type architectures auto_map transformers_version name_or_path torch_dtype dtype use_cache return_dict
    output_attentions output_hidden_states output_router_logits torchscript use_bfloat16 tf_legacy_loss problem_type
    id2label label2id finetuning_task task_specific_params is_decoder is_encoder_decoder gradient_checkpointing
    keys_to_ignore_at_inference prefix sep_token_id chunk_size_feed_forward tokenizer_class language custom_pipelines
    base_model_tp_plan base_model_pp_plan pretraining_tp ep_size use_mamba_kernels use_mambapy use_associative_scan
    use_mem_eff_path num_logits_to_keep use_flash_attn use_flash_attention attn_implementation _attn_implementation
    init_device verbose tokenizer_name for_llm_compressor calc_logits_for_entire_prompt use_mrope mamba_inner_layernorms
    # generation
    max_length min_length max_new_tokens do_sample early_stopping num_beams num_beam_groups diversity_penalty
    temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size bad_words_ids
    encoder_no_repeat_ngram_size num_return_sequences remove_invalid_values suppress_tokens begin_suppress_tokens
    exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id output_scores return_dict_in_generate
    # storage formats: a matter of the plan's precision
    quantization_config compression_config quantization fp8_config
    # which smooth function stands between matrices; gating is structure and is read per family
    hidden_act hidden_activation activation activation_function mlp_hidden_act mamba_hidden_act dense_act_fn
    swiglu_limit swiglu_alpha
    # scalars that scale, cap or clip
    embedding_multiplier logits_scaling residual_multiplier attention_multiplier logit_scale attn_logit_softcapping
    final_logit_softcapping query_pre_attn_scalar attn_scale floor_scale attn_temperature_tuning scale_attn_weights
    scale_attn_by_inverse_layer_idx reorder_and_upcast_attn attention_softmax_in_fp32 scale_attention_softmax_in_fp32
    softmax_scale clip_qkv routed_scaling_factor attn_softmax_in_fp32 scale_decoder_outputs
    # positions that have no parameters: rotary variants and the arguments of alibi
    partial_rotary_factor rotary_pct rotary_dim rotary_emb_base rotary rope_interleave mrope_section
    original_max_position_embeddings initial_context_length offset_alibi alibi_bias_max relative_attention_max_distance
    # how experts are scored and balanced; the count, the width and top-k are structure
    norm_topk_prob scoring_func topk_method n_group topk_group num_expert_group moe_router_dtype seq_aux
    aux_loss_alpha router_aux_loss_coef router_jitter_noise input_jitter_noise router_bias_update_speed use_grouped_topk
    router_z_loss_coef moe_norm_min use_moe_router_bias use_routing_bias moe_router_enable_expert_bias
    topk_scaling_factor moe_shared_expert_overlap moe_aux_loss_coeff moe_z_loss_coeff norm_expert_weight
    # state-space details without a size of their own
    residual_in_fp32 rescale_prenorm_residual time_step_rank time_step_limit
    mamba_ssm_dtype mamba_ssm_cache_dtype
    # Megatron and bigscience flags of released files
    bias_dropout_fusion masked_softmax_fusion skip_bias_add skip_bias_add_qkv slow_but_exact unk_token_id
    inner_group_num cache_implementation norm_type layer_norm_elementwise_affine tie_encoder_decoder
    embedding_fraction
    # tasks
    classifier_dropout num_labels
"""

NEUTRAL = frozenset(
    word for line in _NEUTRAL_WORDS.splitlines() if not line.strip().startswith("#") for word in line.split()
)

_NEUTRAL_PATTERNS = re.compile(
    r".*_token_ids?|.*_token_index|.*_seed"  # ids
    r"|rope_.*|.*rope_theta|.*_rope_freq.*|.*_local_base_freq"  # rotary constants
    r"|.*(_eps|_epsilon)|initializer_.*|init_.*|.*_init_std|.*init_range|embedding_initializer.*"  # numerics
    r"|.*dropout.*|.*_pdrop|layerdrop|.*_drop_path.*"  # regularisation
    r"|time_step_(min|max|floor|limit)|mamba_dt_(min|max|limit|init_floor)|summary_.*|.*_loss_weight|layernorm_.*_beta"
)

_VISION_PATTERNS = re.compile(
    r"(vision|image|video|audio|vit|speech|tts|projector|mm|multi_?modal|img)(_.*)?|.*_(image|video|vision|audio)(_.*)?"
    r"|.*_token(_index|_id)?|spatial_merge_size|ignore_index|text_config|.*projector.*|vocab_size_image|media_.*"
)

_OFF_WORDS = """
    attention_bias mlp_bias use_bias bias qkv_bias use_qkv_bias lm_head_bias add_bias_linear
    use_qk_norm qk_norm qk_layernorm qk_ln attn_output_gate is_gated_act
    add_cross_attention use_cross_attention cross_attention_hidden_size prefix_lm attn_uses_sequence_id
    use_bidirectional_attention apply_residual_connection_post_layernorm alibi use_mem_rope multi_query pruned_heads
    use_sliding_window sliding_window interleave_sliding_window attention_chunk_size
    num_experts num_local_experts n_routed_experts n_shared_experts num_shared_experts
    shared_expert_intermediate_size shared_intermediate_size moe_latent_size
    num_nextn_predict_layers mtp_num_hidden_layers mtp_use_dedicated_embeddings
    hidden_size_per_layer_input num_kv_shared_layers enable_moe_block use_double_wide_mlp
"""
OFF = frozenset(_OFF_WORDS.split())
"""Switches that a family need not know while they are off: false, zero or empty."""


def is_neutral(key: str) -> bool:
    """Whether a key changes neither counts nor time."""
    return key in NEUTRAL or _NEUTRAL_PATTERNS.fullmatch(key) is not None


def is_vision(key: str) -> bool:
    """Whether a key that stands beside a nested language model belongs to another modality."""
    return _VISION_PATTERNS.fullmatch(key) is not None


def is_off(key: str, value: Any) -> bool:
    """Whether a key is a switch that is known to add something, and it is off."""
    return key in OFF and value in (False, 0, [], {}, "")
