"""Fine-tuning: frozen models with low-rank adapters, and packed documents."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsim import plan_training, simulate_training
from llmsim.architecture import Architecture
from llmsim.core.errors import InputError
from llmsim.hardware.software import software_names
from llmsim.plans.adapters import TARGETS, adapted, parse_adapter
from llmsim.plans.training import TrainingPlan
from llmsim.timing.columns import Columns, kind_sizes, visible_sizes
from llmsim.timing.conventions import flops_per_token, published_flops
from llmsim.timing.structure import Structure, layer_terms
from llmsim.training.result import TrainingResult

LLAMA = Architecture.from_config("llama-3-8b")
MACHINE = "1x8xh100-sxm-80gb"
PLAN = TrainingPlan(sequence_length=4096, global_batch_size=32, tensor_parallel=2, data_parallel=4)


def run(model: str = "llama-3-8b", **changes: object) -> TrainingResult:
    return simulate_training(PLAN.replace(**changes), model, MACHINE)


def test_adapters_of_llama_have_the_published_size() -> None:
    # Hu 2021: rank x (inputs + outputs) of each product that is adapted.
    h, kv, ffn, rank = 4096, 1024, 14336, 16
    each = rank * (2 * (h + h) + 2 * (h + kv) + 3 * (h + ffn))
    model = adapted(LLAMA, f"lora:{rank}")
    assert model.trained_parameters == 32 * each == 41_943_040
    assert model.parameters == LLAMA.parameters + 32 * each
    assert adapted(LLAMA, "lora:8:q,v").trained_parameters == 32 * 8 * (2 * h + h + kv) == 3_407_872
    assert adapted(LLAMA, "none") is LLAMA
    assert LLAMA.trained_parameters == LLAMA.parameters


def test_frozen_products_have_one_gradient() -> None:
    full, frozen = (flops_per_token(m, 4096, "matmul only") for m in (LLAMA, adapted(LLAMA, "lora:16")))
    own = adapted(LLAMA, "lora:16").trained_parameters
    assert frozen == full * 2 / 3 + 6 * own
    assert published_flops(adapted(LLAMA, "lora:16"), 4096)["6nd"] == 4 * LLAMA.parameters + 6 * own


@pytest.mark.parametrize("sharding", ["ddp", "zero1", "zero2", "zero3"])
def test_frozen_parameters_have_no_gradients_or_moments(sharding: str) -> None:
    full, frozen = (run(adapter=a, sharding=sharding, tensor_parallel=1, data_parallel=8) for a in ("none", "lora:16"))
    share = adapted(LLAMA, "lora:16").trained_parameters / LLAMA.parameters
    for part in ("gradients", "optimizer"):
        ratio = frozen.stages[0].memory_bytes[part] / full.stages[0].memory_bytes[part]
        assert ratio == pytest.approx(share, rel=1e-3)
    more = frozen.stages[0].memory_bytes["parameters"] / full.stages[0].memory_bytes["parameters"] - 1
    assert more == pytest.approx(share, rel=1e-3)
    assert frozen.breakdown_s["optimizer"] < 0.02 * full.breakdown_s["optimizer"]
    assert frozen.breakdown_s["gemm"] < full.breakdown_s["gemm"]


@pytest.mark.parametrize("framework", software_names())
@pytest.mark.parametrize("model", ["llama-3-8b", "mixtral-8x7b"])
def test_full_sharding_shares_frozen_parameters(model: str, framework: str) -> None:
    def held(sharding: str) -> float:
        own = {"sharding": sharding, "tensor_parallel": 1, "data_parallel": 8, "framework": framework}
        result = simulate_training(PLAN.replace(adapter="lora:8:attention", **own), model, MACHINE)
        return result.stages[0].memory_bytes["parameters"]

    assert held("zero3") == pytest.approx(held("ddp") / 8, rel=0.01)


def test_eager_stacks_hold_no_gradients_of_frozen_parameters() -> None:
    plan = PLAN.replace(adapter="lora:16", sharding="zero3", tensor_parallel=1, data_parallel=8, global_batch_size=16,
                        micro_batch_size=2, sequence_length=2048, recompute="full",
                        framework="torch-eager")  # fmt: skip
    result = simulate_training(plan, "llama-3.1-70b", "1x8xa100-sxm-80gb")
    own = result.stages[0].memory_bytes
    trained = adapted(Architecture.from_config("llama-3.1-70b"), "lora:16").trained_parameters
    assert own["gradients"] <= 2 * trained
    assert own["parameters"] == pytest.approx(2 * 70.76e9 / 8, rel=0.01)


@pytest.mark.parametrize("model", ["deepseek-v2-lite", "mamba2-2.7b", "qwen3-next-80b-a3b", "t5-base", "gpt2"])
def test_every_family_takes_adapters(model: str) -> None:
    base = Architecture.from_config(model)
    frozen = adapted(base, "lora:4")
    assert 0 < frozen.trained_parameters < 0.05 * base.parameters
    assert frozen.unsupported is None
    for kind in frozen.kinds.values():
        names = [op.name for op in kind.operators]
        assert len(set(names)) == len(names)
        assert all(not p.expert for p in layer_terms(kind, Structure("megatron-core")).parameters if not p.frozen)


def test_adapters_travel_thinly_under_tensor_parallelism() -> None:
    kind = adapted(LLAMA, "lora:16:q").kinds["gqa+mlp"]
    terms = layer_terms(kind, Structure("megatron-core"))
    extra = [m for m in terms.messages if m.tensor == "q.lora_a"]
    assert [(m.collective, m.axes, m.phase) for m in extra] == [
        ("all_gather", ("tp",), "forward"),
        ("all_gather", ("tp",), "backward"),
        ("reduce_scatter", ("tp",), "backward"),
    ]
    assert {d for m in extra for d, _ in m.payload.factors} == {"batch", "sequence", "lora_rank"}
    own = {p.name: p for p in terms.parameters if not p.frozen}
    assert own["q.lora_a.weight"].gradient_axes == ("dp", "cp", "tp")  # each rank sees its part of the sequence
    assert own["q.lora_b.weight"].gradient_axes == ("dp", "cp")


@pytest.mark.parametrize(
    ("text", "nearest"),
    [("lora", "lora:16"), ("lora:0", "lora:16"), ("qlora:8", "lora:8"), ("lora:8:qkv", "lora:8:k"), ("lora:x", "16")],
)
def test_adapters_that_do_not_exist(text: str, nearest: str) -> None:
    with pytest.raises(InputError, match=nearest):
        parse_adapter(text)


def test_adapters_that_a_model_has_no_place_for() -> None:
    with pytest.raises(InputError, match="adapts nothing"):
        adapted(Architecture.from_config("mamba2-2.7b"), "lora:8:kv_down")


@given(st.integers(1, 512), st.sampled_from(["all", *TARGETS]))
def test_adapters_print_as_they_are_read(rank: int, target: str) -> None:
    adapters = parse_adapter(f"LoRA:{rank}:{target}")
    assert adapters is not None
    assert parse_adapter(str(adapters)) == adapters


# --- packed documents -------------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=8), st.sampled_from(["llama-3-8b", "gemma3-12b", "bert-base"])
)
@settings(max_examples=40)
def test_packed_attention_is_that_of_its_documents(lengths: list[int], model: str) -> None:
    """Attention FLOPs of a sequence equal the sum over its documents, each alone: exactly, in integers."""
    structure = Structure("megatron-core")
    documents = tuple((length, 1) for length in lengths)
    for kind in Architecture.from_config(model).kinds.values():
        works = [w for w in layer_terms(kind, structure).work if w.masked_flops and w.kind == "attention"]
        assert works

        def flops(length: int, packed: tuple[tuple[int, int], ...] = ()) -> float:
            sizes = kind_sizes(kind, Columns(length, 1, 1), structure)  # noqa: B023
            return sum(visible_sizes(kind, sizes, packed).count(w.flops) for w in works)  # noqa: B023

        assert flops(sum(lengths), documents) == pytest.approx(sum(map(flops, lengths)), rel=1e-12)


def test_short_documents_make_attention_cheap_and_nothing_else() -> None:
    steps = [run(document_length=length) for length in (None, 4096, 2048, 512, 64)]
    assert steps[0].step_time_s == steps[1].step_time_s
    attention = [s.breakdown_s["attention"] for s in steps[1:]]
    assert all(b < a for a, b in pairwise(attention))
    assert len({s.breakdown_s["gemm"] for s in steps}) == 1
    assert len({s.device_bytes for s in steps}) == 1


def test_mfu_of_packed_sequences_counts_their_documents() -> None:
    result = run(document_length=1024)
    assert result.mfu_convention == "model-packed"
    assert result.flops_per_token["model-packed"] == pytest.approx(flops_per_token(LLAMA, 1024, "model-causal"))
    uneven = run(document_length=(1024, 3072)).flops_per_token["model-packed"]
    parts = [flops_per_token(LLAMA, n, "model-causal") * n / 4096 for n in (1024, 3072)]
    assert uneven == pytest.approx(sum(parts))


def test_documents_that_do_not_fill_a_sequence() -> None:
    assert PLAN.replace(document_length=1500).documents == ((1500, 2), (1096, 1))
    with pytest.raises(InputError, match="nearest: 4096"):
        PLAN.replace(document_length=5000)
    with pytest.raises(InputError, match="sum to the sequence's 4096"):
        PLAN.replace(document_length=(1000, 2000))
    with pytest.raises(InputError, match="packed sequences of an encoder-decoder"):
        simulate_training(PLAN.replace(document_length=128, sequence_length=512, tensor_parallel=1, data_parallel=8),
                          "t5-base", MACHINE)  # fmt: skip


def test_a_fine_tuning_job() -> None:
    answers = [
        plan_training("llama-3-8b", MACHINE, sequence=8192, global_batch=64, tokens=50e6, epochs=3, adapter=adapter,
                      document_length=700, top=2)
        for adapter in ("none", "lora:16")
    ]  # fmt: skip
    full, thin = (a.best[0] for a in answers)
    assert thin.result.plan.adapter == "lora:16"
    assert thin.result.plan.document_length == 700
    assert thin.job is not None
    assert full.job is not None
    assert thin.job.steps == -(-150_000_000 // (64 * 8192)) == full.job.steps
    assert thin.result.step_time_s < full.result.step_time_s
    known, unlike = (j.result.step_interval_s for j in (full, thin))
    assert unlike[1] / unlike[0] > 1.1 * known[1] / known[0]  # no measured run trains adapters
    with pytest.raises(InputError, match="epochs"):
        plan_training("llama-3-8b", MACHINE, sequence=8192, global_batch=64, epochs=3)
