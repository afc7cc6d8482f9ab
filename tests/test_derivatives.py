"""Relatives of the Transformer: state-space and linear-attention mixers, encoders, sparse attention."""

from dataclasses import replace

import pytest

from llmsim.architecture import Architecture
from llmsim.core.errors import InputError, UnsupportedError
from llmsim.core.messages import derive_messages
from llmsim.core.saved import derive_saved, saved_terms
from llmsim.core.sharding import mesh_sharding
from llmsim.core.terms import Sizes
from llmsim.hardware.cluster import Cluster
from llmsim.hardware.kernels import kernel_constants, scan_seconds
from llmsim.hardware.software import get_software
from llmsim.models import bundled_models
from llmsim.plans.rules import violations
from llmsim.plans.training import TrainingPlan
from llmsim.search.plan import plan_training
from llmsim.search.space import SearchSpace
from llmsim.timing.conventions import Convention, flops_per_token, layer_flops
from llmsim.timing.structure import Structure
from llmsim.training.simulate import simulate_training

CLUSTER = Cluster.parse("2x8xh100-sxm-80gb")
NANO, SUPER = (Architecture.from_config(f"nemotron-3-{size}") for size in ("nano", "super"))
NEXT = Architecture.from_config("qwen3-next-80b-a3b")
JAMBA = Architecture.from_config("jamba-v0.1")
SPARSE, DENSE = Architecture.from_config("deepseek-v3.2"), Architecture.from_config("deepseek-v3")
T5, BERT = Architecture.from_config("t5-base"), Architecture.from_config("bert-base")
BERT_FILE = {
    "model_type": "bert", "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "max_position_embeddings": 512, "type_vocab_size": 2,
}  # fmt: skip


def plan(**changes):
    base = {"sequence_length": 8192, "global_batch_size": 64, "data_parallel": 16}
    return TrainingPlan(**(base | changes))


def test_every_bundled_model_has_a_cost():
    assert not {name: text for name in bundled_models() if (text := Architecture.from_config(name).unsupported)}


def test_an_operator_that_nobody_costs_is_refused_by_name():
    kind = NANO.kinds["mamba2"]
    odd = tuple(replace(op, kind="hyena") if op.kind == "ssm_scan" else op for op in kind.operators)
    model = replace(NANO, kinds={**NANO.kinds, "mamba2": replace(kind, operators=odd)})
    with pytest.raises(UnsupportedError, match="operators of kind hyena"):
        simulate_training(plan(), model, CLUSTER)


# ---- FLOPs


def test_flops_of_state_space_duality():
    """Dao 2024, section 6, with heads of width P and G groups that share B and C."""
    kind, hidden, width, state, heads, groups, chunk = NANO.kinds["mamba2"], 2688, 64, 128, 64, 8, 128
    inner = heads * width
    projections = 2 * hidden * (3 * inner + 2 * groups * state + heads)
    convolution = 2 * 4 * (inner + 2 * groups * state)
    scan = 2 * chunk * state * groups + 2 * chunk * inner + 4 * state * inner
    assert layer_flops(kind, 8192, Convention()) == projections + convolution + scan
    assert layer_flops(kind, 8192, Convention(scan=False)) == projections


def published_mixer(hidden, inner, heads, groups, state):
    """Forward FLOPs of a state-space mixer as Megatron-LM prints them: 7 a channel and state, no convolution."""
    return 2 * hidden * (3 * inner + 2 * groups * state + heads) + 7 * inner * state


def test_published_flops_of_nemotron_3_nano():
    """22.3 GFLOP per token at 8192: with 2 x hidden channels, although the model has 64 heads of 64. With those it has,
    and the products of the chunked form, it is 20.8."""
    ours = flops_per_token(NANO, 8192, "model-causal, router excluded")
    assert float(flops_per_token(NANO, 8192, "model-causal")) / 1e9 == pytest.approx(20.81, abs=0.01)
    own = layer_flops(NANO.kinds["mamba2"], 8192, Convention())
    theirs = published_mixer(2688, 2 * 2688, 64, 8, 128)
    assert (ours + 3 * 23 * (theirs - own)) / 1e9 == pytest.approx(22.3, abs=0.05)


def test_published_flops_of_nemotron_3_super():
    """84.7 GFLOP per token at 8192: with two modules of multi-token prediction, where the file has one."""
    ours = flops_per_token(SUPER, 8192, Convention(router=False, mtp=False))
    own = layer_flops(SUPER.kinds["mamba2"], 8192, Convention())
    theirs = published_mixer(4096, 8192, 128, 8, 128)
    module = layer_flops(SUPER.mtp[0], 8192, Convention(router=False)) - 2 * 2 * 4096**2  # without its projection
    assert (ours + 3 * 40 * (theirs - own) + 2 * 3 * module) / 1e9 == pytest.approx(84.7, abs=0.05)
    assert float(flops_per_token(SUPER, 8192, "model-causal")) / 1e9 == pytest.approx(80.68, abs=0.01)


def test_linear_mixers_cost_the_same_at_every_length():
    for model, kind in ((NANO, "mamba2"), (NEXT, "delta-net+moe"), (JAMBA, "mamba+mlp")):
        short, long = (layer_flops(model.kinds[kind], s, Convention()) for s in (4096, 131072))
        assert short == long


def test_an_indexer_scores_everything_and_attention_sees_what_it_leaves():
    def core(model, sequence):
        kind = model.kinds["mla+moe"]
        return layer_flops(kind, sequence, Convention()) - layer_flops(kind, sequence, Convention(attention="none"))

    scores = 2 * 64 * 128
    assert core(SPARSE, 2048) == core(DENSE, 2048) + scores * 1024
    seen = 2048 - 2048**2 / (2 * 65536)
    assert core(SPARSE, 65536) == 2 * 128 * (192 + 128) * seen + scores * 32768
    assert core(SPARSE, 65536) < core(DENSE, 65536) / 3


def test_encoders_see_everything():
    bert, full = (flops_per_token(BERT, 512, name) for name in ("model-causal", "model-full"))
    assert bert == full
    encoder, decoder = (T5.kinds[name] for name in ("encoder-mha+mlp", "mha+cross+mlp"))
    core = 4 * 12 * 64 * 512
    projections = 2 * 4 * 768**2
    assert layer_flops(decoder, 512, Convention()) - layer_flops(encoder, 512, Convention()) == projections + core / 2


# ---- messages and memory


def messages(kind, axis, context_kind="none"):
    software = get_software("megatron-core")
    found = derive_messages(
        kind.operators, mesh_sharding(sequence_parallel=True, context_kind=context_kind), software.stack.inventory(),
        gather={"tp": "again", "cp": "stream"},
    )  # fmt: skip
    return [m for m in found if axis in m.axes]


def test_a_mixer_gathers_its_input_once_and_scatters_its_output():
    sent = messages(NANO.kinds["mamba2"], "tp")
    assert [(m.collective, m.phase) for m in sent] == [
        ("all_gather", "forward"), ("all_gather", "backward"), ("reduce_scatter", "backward"),
        ("reduce_scatter", "forward"), ("all_gather", "backward"),
    ]  # fmt: skip


def test_context_parallelism_exchanges_sequences_for_heads():
    """What the projection made on the way in, the normed result on the way out, and their gradients."""
    sent = messages(NANO.kinds["mamba2"], "cp", "ring")
    assert {m.collective for m in sent} == {"all_to_all"}
    sizes = Sizes({**NANO.kinds["mamba2"].sizes, "batch": 1, "sequence": 64, "steps": 64}, {"cp": 4, "tp": 2},
                  Structure("megatron-core").formats())  # fmt: skip
    inner, narrow, heads = 4096, 1024, 64
    forward = sum(sizes.bytes(m.payload) for m in sent if m.phase == "forward")
    assert forward == 2 * 16 * (2 * inner + 2 * narrow + heads + inner) // 2
    assert forward == sum(sizes.bytes(m.payload) for m in sent if m.phase == "backward")


def test_narrow_projections_of_mamba_1_are_summed_over_ranks():
    sums = [m.tensor for m in messages(JAMBA.kinds["mamba+mlp"], "tp") if m.collective == "all_reduce"]
    assert sums[:3] == ["mamba_low_dt", "mamba_low_b", "mamba_low_c"]
    assert len(sums) == 6


@pytest.mark.parametrize("context_kind", ["none", "ring"])
def test_what_a_fused_mixer_keeps(context_kind):
    """Its input twice (norm, projection), what the projection made, the scan's result, the normed one, and one number a
    group: the closed form of mamba-ssm's kernel."""
    kind, software = NANO.kinds["mamba2"], get_software("megatron-core")
    kept = derive_saved(
        kind.operators, mesh_sharding(sequence_parallel=False, context_kind=context_kind), software.stack.inventory(),
        formats={},
    ).kept  # fmt: skip
    sizes = Sizes({**kind.sizes, "batch": 1, "sequence": 1024, "steps": 1024}, {}, Structure("megatron-core").formats())
    inner, groups, state, heads = 4096, 8, 128, 64
    token = 2 * 2 * 2688 + 4 + 2 * (2 * inner + 2 * groups * state + heads) + 2 * inner + 4 * groups + 2 * inner
    assert sizes.size(saved_terms(kept)) == 1024 * token


# ---- steps


MODELS = [
    (NANO, {"expert_parallel": 8}),
    (NANO, {"tensor_parallel": 2, "context_parallel": 2, "data_parallel": 4, "expert_parallel": 4}),
    (NEXT, {"expert_parallel": 16, "recompute": "full"}),
    (JAMBA, {"expert_parallel": 16, "precision": "fp8-current"}),
    (SPARSE, {"context_parallel": 2, "data_parallel": 8, "expert_parallel": 16, "sharding": "zero3"}),
    (T5, {"sequence_length": 512, "tensor_parallel": 2, "data_parallel": 8}),
    (BERT, {"sequence_length": 512, "recompute": "selective"}),
]


@pytest.mark.parametrize(("model", "changes"), MODELS, ids=lambda v: v.name if isinstance(v, Architecture) else "")
def test_steps(model, changes):
    result = simulate_training(plan(**changes), model, CLUSTER)
    assert result.step_time_s == pytest.approx(sum(result.breakdown_s.values()), rel=1e-12)
    assert 0 < result.mfu < 1
    assert (result.breakdown_s["scan"] > 0) == (model in (NANO, NEXT, JAMBA))
    assert sum(result.provenance.values()) == pytest.approx(1)


def test_plans_that_do_not_divide_the_groups_of_heads():
    (text,) = violations(plan(tensor_parallel=2, context_parallel=8, data_parallel=1), NANO)
    assert "context_parallel x tensor_parallel: 16 does not divide the groups of heads of a scan 8" in text
    ulysses = plan(context_parallel=2, data_parallel=8, context_kind="ulysses")
    assert not violations(ulysses, NANO)
    mamba = Architecture.from_config("mamba2-2.7b")
    assert "tensor_parallel: 2 does not divide the groups" in violations(plan(tensor_parallel=2), mamba)[0]


def test_encoder_decoder_models_take_one_stage_and_say_what_they_assume():
    with pytest.raises(InputError, match="encoder-decoder"):
        simulate_training(plan(pipeline_parallel=2, data_parallel=8, sequence_length=512), T5, CLUSTER)
    found = plan_training(T5, CLUSTER, sequence=512, global_batch=512)
    assert "as long and as many" in found.assumed["encoder"]
    assert all(job.result.plan.pipeline_parallel == 1 for job in found.best)


def test_the_search_cuts_hybrids_into_unequal_stages():
    space = SearchSpace(pipeline_parallel=(4,), context_parallel=(1, 2))
    found = plan_training(Architecture.from_config("nemotron-h-56b"), "8x8xh100-sxm-80gb", sequence=8192,
                          global_batch=256, space=space)  # fmt: skip
    stages = found.best[0].result.stages
    assert len({tuple(sorted(stage.layers.items())) for stage in stages}) > 1
    assert sum(n * stage.repeats for stage in stages for name, n in stage.layers.items() if name == "mamba2") == 54


def test_heads_of_encoders():
    """Elements of transformers' class on the meta device."""
    masked = Architecture.from_config({**BERT_FILE, "architectures": ["BertForMaskedLM"]})
    assert masked.parameters == 109_514_298
    assert flops_per_token(masked, 512, "matmul only") > flops_per_token(BERT, 512, "matmul only")


def test_scans_are_never_faster_than_their_products_or_their_traffic():
    k = kernel_constants(CLUSTER.profile, "bf16")
    peak = CLUSTER.profile.peak_of("bf16")
    times = [scan_seconds(n * 1e12, 1e9, 1, k, efficiency=k.scan_forward, peak=peak) for n in range(6)]
    assert times == sorted(times)
    assert times[-1] > 5e12 / (k.scan_forward * peak)
    assert times[0] > 1e9 / k.bandwidth
