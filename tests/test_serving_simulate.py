"""Servers: memory as an engine cuts it, latencies in closed form, errors that say what would work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from llmsim.architecture import Architecture
from llmsim.cli import app
from llmsim.core.errors import InfeasibleError, InputError
from llmsim.core.units import GIB
from llmsim.explain.serving import explain_serving
from llmsim.hardware.constants import CONSTANTS, constants_of
from llmsim.hardware.engines import engine_names, get_engine
from llmsim.hardware.named import get_device
from llmsim.plans.serving import ServingPlan
from llmsim.serving.cache_pool import EngineSettings, cache_groups, cut_cache
from llmsim.serving.layer_counts import Degrees
from llmsim.serving.memory import serving_memory, stage_weight_bytes
from llmsim.serving.served_model import served_model
from llmsim.serving.simulate import simulate_serving

NODE = "1x4xh100-sxm-80gb"
PLAN = {"tensor_parallel": 4}
runner = CliRunner()


def answer(**changes: object):
    given = {"input": 2000, "output": 400, **changes}
    load = {} if {"concurrency", "batch", "rate"} & set(given) else {"concurrency": 64}
    plan = given.pop("plan", PLAN)
    return simulate_serving(plan, given.pop("model", "llama-3-70b"), given.pop("cluster", NODE), **given, **load)


# --- memory ---------------------------------------------------------------------------------------------------------

H100 = get_device("h100")
RATES = get_engine("vllm", "0.19.0").rates()


def settings_of(length: int = 8192, **changes: object) -> EngineSettings:
    own = {"max_num_seqs": 1024, "max_num_batched_tokens": 8192, "max_model_len": length, "utilisation": 0.95}
    return EngineSettings(**{**own, **changes})


def test_memory_adds_up_to_what_the_engine_may_use() -> None:
    model = served_model(Architecture.from_config("qwen2.5-7b"))
    memory = serving_memory(model, H100, settings_of(), RATES)
    parts = memory.weight_bytes + memory.activation_bytes + memory.context_bytes + memory.cache_bytes
    assert parts == pytest.approx(memory.usable_bytes)
    assert memory.cache_tokens == memory.blocks * 16
    assert memory.cache_tokens * 57_344 <= memory.cache_bytes < (memory.cache_tokens + 17) * 57_344


def test_vision_towers_are_loaded_beside_the_language_model() -> None:
    for name, logged in (("gemma-3-27b", 51.45), ("gemma-3-4b", 8.58), ("mistral-small-3.1-24b", 44.75)):
        bytes_ = stage_weight_bytes(served_model(Architecture.from_config(name)))
        assert bytes_ / GIB == pytest.approx(logged, rel=0.07)  # Gemma 3 keeps tables of a million rotary positions too
    one, four = (stage_weight_bytes(served_model(Architecture.from_config("gemma-3-27b"), Degrees(n))) for n in (1, 4))
    assert one == pytest.approx(4 * four, rel=1e-3)
    assert "vision towers" in answer(model="gemma-3-27b", plan={}, cluster="1x1xh100").assumed["towers"]
    assert "towers" not in answer().assumed


def test_windows_share_a_pool_with_whole_layers() -> None:
    model = served_model(Architecture.from_config("gemma-2-27b"))
    assert {group.window for group in cache_groups(model)} == {4096, None}
    memory = serving_memory(model, H100, settings_of(), RATES)
    assert memory.cache_tokens == memory.blocks // 2 * 16


@pytest.mark.parametrize(
    ("name", "release", "changes", "gib", "logged"),
    [
        # (blocks, tokens, concurrency) of start-up logs of vLLM, at the bytes that they say are left for the cache
        ("gemma-2-27b", "0.19.0", {}, 20.59, (7335, 58_672, 7.16)),
        ("gemma-3-27b", "0.19.0", {}, 19.53, (15_997, 36_560, 4.46)),  # 10 whole layers, 52 with windows in 6 groups
        ("gemma-3-4b", "0.19.0", {}, 62.51, (204_817, 468_144, 57.05)),
        ("qwen3.5-35b-a3b", "0.24.0", {"length": 131_072, "cache": "fp8"}, 5.98, (299, 567_978, 4.33)),
    ],
)
def test_layers_are_grouped_as_the_engine_groups_them(name, release, changes, gib, logged) -> None:
    defaults = get_engine("vllm", release).defaults
    own = settings_of(
        changes.get("length", 8192),
        state_pages=defaults.state_pages,
        capacity_of_longest=defaults.capacity_of_longest,
    )
    model = served_model(Architecture.from_config(name), cache=changes.get("cache", "bf16"))
    cut = cut_cache(model, own, gib * GIB)
    blocks, tokens, concurrency = logged
    assert cut.blocks == pytest.approx(blocks, rel=3e-4)  # the log rounds bytes to 0.01 GiB
    assert cut.tokens == pytest.approx(tokens, rel=4e-4)
    assert cut.concurrency == pytest.approx(concurrency, abs=7e-3)


def test_engines_without_a_shared_pool_hold_states_beside_it() -> None:
    model = served_model(Architecture.from_config("qwen3.5-27b"))
    pooled, apart = (cut_cache(model, settings_of(shared_pages=on), 20 * GIB) for on in (True, False))
    assert (pooled.block_tokens, apart.block_tokens) == (784, 16)
    assert apart.tokens > 3.9 * pooled.tokens


def test_latents_are_replicated_and_heads_are_shared() -> None:
    latent, grouped = (Architecture.from_config(name) for name in ("deepseek-v2-lite", "qwen2.5-7b"))
    for model, factor in ((latent, 1), (grouped, 2)):
        one, two = (served_model(model, Degrees(tensor=n)).cache_bytes(1000) for n in (1, 2))
        assert one == factor * two


def test_a_stated_cache_counts_instead_of_the_predicted_one() -> None:
    model = served_model(Architecture.from_config("qwen2.5-7b"))
    memory = serving_memory(model, H100, settings_of(), RATES, cache_tokens=100_000)
    assert memory.cache_tokens == 100_000
    assert memory.max_concurrency == pytest.approx(100_000 / 8192)


def test_what_does_not_fit_says_by_how_much_and_what_would() -> None:
    with pytest.raises(InfeasibleError, match="GiB too much") as lacking:
        answer(plan={}, cluster="1x1xh100-sxm-80gb")
    assert lacking.value.lacking_bytes > 50 * GIB
    with pytest.raises(InfeasibleError, match="max_model_len must be at most") as short:
        answer(plan={"max_model_len": 131_072}, cluster="1x1xh100-sxm-80gb", model="qwen3-32b")
    assert "max_model_len" in short.value.nearest


def test_quantised_weights_make_room_for_more_sequences() -> None:
    wide, narrow = (answer(plan={**PLAN, "weights": w}).memory.cache_tokens for w in ("bf16", "w4g128"))
    assert narrow > 1.5 * wide


# --- latencies ------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 150), st.integers(1, 100))
def test_more_in_flight_serve_more_and_wait_longer(few: int, more: int) -> None:
    low, high = (answer(concurrency=n).steady for n in (few, few + more))
    assert high.output_tokens_per_s >= low.output_tokens_per_s * (1 - 1e-9)
    assert high.tpot_s >= low.tpot_s
    assert high.ttft_s >= low.ttft_s


def test_closed_loops_obey_littles_law() -> None:
    for flight in (1, 30, 500):
        steady = answer(concurrency=flight).steady
        assert steady.requests_per_s * steady.e2e_s == pytest.approx(flight, rel=1e-9)


def test_more_in_flight_than_fit_wait_and_do_not_run() -> None:
    full = answer(concurrency=1000)
    assert full.saturated
    assert full.steady.waiting > 0
    assert full.steady.running < 300


def test_a_low_rate_sees_the_latency_of_a_single_request() -> None:
    quiet, alone = answer(rate=1e-4).steady, answer(concurrency=1).steady
    assert quiet.tpot_s == pytest.approx(alone.tpot_s, rel=0.02)
    assert answer(rate=1e6).saturated
    assert answer(rate=0.5).steady.requests_per_s == 0.5


def test_a_static_batch_is_its_prompts_and_its_steps() -> None:
    steady = answer(batch=8).steady
    assert steady.e2e_s == pytest.approx(steady.ttft_s + 399 * steady.step_s)


def test_a_cached_prefix_shortens_the_first_token_only() -> None:
    cold, warm = (answer(cached=n).steady for n in (0, 1900))
    assert warm.ttft_s < 0.7 * cold.ttft_s
    assert warm.step_s == cold.step_s


def test_tokens_of_images_are_computed_as_those_of_the_prompt() -> None:
    words, both = answer(input=3024), answer(input=2000, image_tokens="1k")
    assert both.steady == words.steady
    assert both.load.image_tokens == 1024
    assert "vision tower" in both.assumed["images"]
    assert "images" not in words.assumed
    command = ["simulate", "serve", "-m", "qwen2.5-7b", "-c", "1x1xh100", "--input", "2000", "--output", "10"]
    said = runner.invoke(app, [*command, "--concurrency", "4", "--image-tokens", "1024"])
    assert said.exit_code == 0
    assert "3,024 (1,024 of them of images) tokens in" in " ".join(said.stdout.split())


def test_replicas_share_the_load() -> None:
    one, two = answer(concurrency=32), answer(concurrency=64, cluster="2x4xh100-sxm-80gb")
    assert two.replicas == 2
    assert two.steady.tpot_s == one.steady.tpot_s
    assert two.output_tokens_per_s == pytest.approx(2 * one.output_tokens_per_s)


def test_answers_say_what_nobody_said_and_their_parts_add_up() -> None:
    result = answer()
    assert {"max_num_seqs", "kv_cache", "price", "release"} <= set(result.assumed)
    assert sum(result.step_parts.values()) == pytest.approx(result.steady.step_s)
    assert json.loads(json.dumps(result.to_dict()))["schema"] == "llmsim.serving/1"
    low, high = result.intervals["tpot_s"]
    assert low < result.steady.tpot_s < high


# --- plans and engines ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "field"),
    [
        ({"tensor_parallel": 3}, "tensor_parallel"),
        ({"expert_parallel": 4, "tensor_parallel": 4}, "expert_parallel"),
        ({"weights": "fp9"}, "weights"),
        ({"kv_cache": "int3"}, "format"),
        ({"engine": "vlm"}, "engine"),
        ({"tensor_parallel": 0}, "tensor_parallel"),
        ({"memory_utilisation": 1.5}, "memory_utilisation"),
        ({"max_model_len": 100, "tensor_parallel": 4}, "max_model_len"),
        ({"tensr_parallel": 4}, "tensr_parallel"),
    ],
)
def test_wrong_plans_are_refused_by_field(plan: dict[str, object], field: str) -> None:
    with pytest.raises(InputError) as refused:
        answer(plan=plan)
    assert field in str(refused.value)


def test_replicas_larger_than_the_cluster_are_refused() -> None:
    with pytest.raises(InfeasibleError, match="8 devices"):
        answer(plan={"tensor_parallel": 8})


@pytest.mark.parametrize("load", [{}, {"concurrency": 1, "rate": 1}, {"concurrency": 0}, {"rate": float("nan")}])
def test_loads_are_said_once_and_above_zero(load: dict[str, float]) -> None:
    with pytest.raises(InputError):
        simulate_serving(PLAN, "llama-3-70b", NODE, input=100, output=10, **load)


def test_releases_have_what_was_known_of_them() -> None:
    old, new = get_engine("vllm", "0.15.1"), get_engine("vllm", "0.19.0")
    assert old.constants["memory/sampler_copies"].value > new.constants["memory/sampler_copies"].value
    assert get_engine("vllm", "0.22.0").graphs_inside
    assert get_engine("vLLM", "main 2025-05").name == "vllm"


@pytest.mark.parametrize("name", engine_names())
def test_engines_state_every_constant(name: str) -> None:
    assert {c.key for c in constants_of("engines")} == set(get_engine(name).constants)
    assert all(q.source for q in get_engine(name).constants.values())


def test_constants_of_engines_are_in_the_registry_and_in_the_fit() -> None:
    from llmsim.hardware.engines import shipped_serving_fit

    fit = shipped_serving_fit()
    assert fit.values
    assert all(path.startswith("engines/") for path in fit.values)
    assert {f"engines/*/{path.split('/', 2)[2]}" for path in fit.values} <= set(CONSTANTS)
    assert all(q.provenance == "fitted" and q.error is not None for q in fit.values.values())


def test_plans_are_read_from_files(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text("tensor_parallel: 4\nweights: fp8\n")
    assert ServingPlan.parse(file).weights == "fp8"
    file.write_text("schema: llmsim.serving-plan/9\ntensor_parallel: 4\n")
    with pytest.raises(InputError, match="serving-plan"):
        ServingPlan.parse(file)


# --- command line ---------------------------------------------------------------------------------------------------

SERVE = ["simulate", "serve", "-m", "llama-3-70b", "-c", NODE, "--input", "2000", "--output", "400"]


def test_the_command_prints_the_numbers_of_the_function() -> None:
    shown = runner.invoke(app, [*SERVE, "--concurrency", "64", "--json"])
    assert shown.exit_code == 0
    assert json.loads(shown.stdout)["steady"]["tpot_s"] == answer().steady.tpot_s
    text = runner.invoke(app, [*SERVE, "--concurrency", "64"]).stdout
    assert all(part in text for part in ("At start-up", "first token", "available for the cache", "Assumed"))


@pytest.mark.parametrize(
    ("options", "status"),
    [
        (["--concurrency", "64", "--weights", "fp9"], 2),
        (["--concurrency", "64", "--tp", "3"], 2),
        ([], 2),
        (["--concurrency", "64", "--engine", "vlm"], 2),
        (["--concurrency", "64", "--tp", "1"], 3),
        (["--concurrency", "64", "--tp", "8"], 3),
        (["--concurrency", "-1"], 2),
    ],
)
def test_bad_input_and_what_does_not_fit_have_their_statuses(options: list[str], status: int) -> None:
    assert runner.invoke(app, [*SERVE, *options]).exit_code == status


def test_an_explanation_adds_up_and_names_what_would_change_it() -> None:
    found = explain_serving({"tensor_parallel": 4}, "llama-3-70b", "1x4xh100-sxm-80gb", input=2000, output=400,
                            concurrency=64)  # fmt: skip
    steady = found.result.steady
    assert sum(found.result.step_parts.values()) == pytest.approx(float(steady.step_s))
    assert all(lever.tpot <= 1e-9 or lever.ttft <= 1e-9 for lever in found.levers)
    assert found.intensity < found.ridge
    by_name = {own.change: own for own in found.neighbours}
    assert "max_model_len must be" in (by_name["tensor parallel 2"].reason or "")
    fp8 = by_name["weights fp8"]
    assert fp8.tpot_s is not None
    assert fp8.tpot_s < float(steady.tpot_s)
    assert by_name["half the concurrency"].tpot_s < float(steady.tpot_s) < by_name["twice the concurrency"].tpot_s
    assert found.to_dict()["levers"]
