"""Names of checkpoints: stored in other formats, tuned, published again, and such as must not be taken for another."""

from __future__ import annotations

import re
from collections import defaultdict

import pytest

from llmsim.architecture import Architecture
from llmsim.models import HUB_IDS, bundled_models, stored_format, stored_otherwise

SAME = [
    ("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic", "llama-3.3-70b", "fp8"),
    ("RedHatAI/Qwen2.5-7B-Instruct-quantized.w8a8", "qwen2.5-7b", "int8"),
    ("RedHatAI/Mistral-Small-3.2-24B-Instruct-2506-quantized.w4a16", "mistral-small-3.1-24b", "int4"),
    ("neuralmagic/Meta-Llama-3-8B-Instruct-FP8", "llama-3-8b", "fp8"),
    ("neuralmagic/Meta-Llama-3.1-405B-Instruct-FP8-KV", "llama-3.1-405b", "fp8"),
    ("hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4", "llama-3.1-70b", "awq"),
    ("unsloth/Llama-3.2-3B-Instruct-bnb-4bit", "llama-3.2-3b", "nf4"),
    ("unsloth/Qwen3-30B-A3B-Instruct-2507-GGUF", "qwen3-30b-a3b", None),
    ("unsloth/DeepSeek-R1-0528-Qwen3-8B-GGUF:Q4_K_M", "qwen3-8b", "q4_k"),
    ("nvidia/Llama-3.1-8B-Instruct-NVFP4", "llama-3.1-8b", "nvfp4"),
    ("nvidia/DeepSeek-R1-0528-FP4", "deepseek-r1", "nvfp4"),
    ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-FP8", "nemotron-3-nano", "fp8"),
    ("nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-NVFP4", "nemotron-3-super", "nvfp4"),
    ("amd/Llama-3.3-70B-Instruct-MXFP4-Preview", "llama-3.3-70b", "mxfp4"),
    ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "qwen2.5-7b", "gptq"),
    ("Qwen/Qwen2.5-72B-Instruct-GPTQ-Int8", "qwen2.5-72b", "int8"),
    ("Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8", "qwen3-480b-a35b", "fp8"),
    ("Qwen/Qwen3-VL-8B-Thinking-FP8", "qwen3-8b", "fp8"),
    ("Qwen/Qwen2.5-VL-72B-Instruct-AWQ", "qwen2.5-72b", "awq"),
    ("Qwen3.6-27B (fp8)", "qwen3.5-27b", "fp8"),
    ("Qwen3.6-35B-A3B (nvfp4)", "qwen3.5-35b-a3b", "nvfp4"),
    ("Qwen3.8-27B-FP8", "qwen3.5-27b", "fp8"),
    ("nvidia/Gemma-4-26B-A4B-NVFP4", "gemma-4-26b-a4b", "nvfp4"),
    ("qwen3.5-9b-4bit", "qwen3.5-9b", "int4"),
    ("mlx-community/Qwen3-32B-8bit", "qwen3-32b", "int8"),
    ("mlx-community/Llama-3.3-70B-Instruct-4-bit", "llama-3.3-70b", "int4"),
    ("gemma-4-12b-it UD-Q4_K_XL", "gemma-4-12b", "q4_k"),
    ("cyankiwi/gemma-4-31B-it-AWQ-4bit", "gemma-4-31b", "awq"),
    ("google/gemma-3-27b-it-qat-q4_0-gguf", "gemma-3-27b", "q4_0"),
    ("bartowski/google_gemma-3-12b-it-GGUF", "gemma3-12b", None),
    ("kaitchup/Phi-4-AutoRound-GPTQ-4bit", "phi-4-14b", "gptq"),
    ("phi3 (path)", "phi-3-mini-4k", None),
    ("llama 8B Q4_0", "llama-3.1-8b", "q4_0"),
    ("Llama 3.1 8B Instruct", "llama-3.1-8b", None),
    ("llama3.1:8b-instruct-q8_0", "llama-3.1-8b", "q8_0"),
    ("llama3-8b", "llama-3-8b", None),
    ("TheBloke/Llama-2-7B-Chat-AWQ", "llama-2-7b", "awq"),
    ("TheBloke/Mixtral-8x7B-Instruct-v0.1-GPTQ", "mixtral-8x7b", "gptq"),
    ("Mistral-7B-Instruct-v0.3-Q6_K.gguf", "mistral-7b-v0.3", "q6_k"),
    ("lmstudio-community/gpt-oss-20b-GGUF", "gpt-oss-20b", "mxfp4"),
    ("zai-org/GLM-4.5V-FP8", "glm-4.5-air", "fp8"),
    ("zai-org/GLM-5.1-FP8", "glm-5", "fp8"),
    ("tencent/Hy3-FP8", "hy3", "fp8"),
    ("stepfun-ai/Step-3.5-Flash-FP8", "step-3.5-flash", "fp8"),
    ("mistralai/Ministral-3-8B-Instruct-2512", "ministral-3-8b", "fp8"),
    ("mistralai/Ministral-3-8B-Reasoning-2512", "ministral-3-8b", None),
    ("mistralai/Ministral-3-14B-Instruct-2512-BF16", "ministral-3-14b", "bf16"),
    ("moonshotai/Kimi-K2-Thinking", "kimi-k2", "int4-experts"),
    ("deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", "qwen2.5-14b", None),
    ("casperhansen/deepseek-r1-distill-llama-70b-awq", "llama-3.3-70b", "awq"),
]  # fmt: skip
OTHERS = [
    "llama2-8b", "Qwen2.5-8B-Instruct", "Qwen3-7B-FP8", "Llama-3-80B", "Llama-3.1-80B-Instruct-FP8", "llama-70b-q4_0",
    "Qwen3.8-35B-FP8", "Qwen3.8-Flash-Next", "gemma-3-7b-it", "gemma-4-27B-it", "Mistral-Small-FP8", "8b", "q4_0",
    "deepseek-ai/DeepSeek-V4-Flash-0731", "nvidia/Llama-3_3-Nemotron-Super-49B-v1", "Llama-3.2-90B-Vision-Instruct",
    "MiniMax (title: 'minimax tp1')", "someone/MyTune-8B-AWQ", "FP8", "", "Instruct", "meta-llama/Llama-3.2-11B",
]  # fmt: skip


@pytest.mark.parametrize(("name", "model", "format"), SAME, ids=[name for name, _, _ in SAME])
def test_names_of_stored_and_tuned_weights_resolve(name: str, model: str, format: str | None) -> None:
    assert stored_otherwise(name) == model
    assert stored_format(name) == format


@pytest.mark.parametrize("name", OTHERS)
def test_no_name_is_taken_for_another_size_or_version(name: str) -> None:
    assert stored_otherwise(name) is None


def test_every_spelling_resolves_to_its_own_model() -> None:
    for name in bundled_models():
        assert stored_otherwise(name) == name
    for name, spellings in HUB_IDS.items():
        for spelling in spellings:
            assert stored_otherwise(spelling) == name, spelling


def test_spellings_of_one_model_have_its_size() -> None:
    """Billions in a name are within a quarter of those in the file, but for experts, towers and rounded names."""
    apart = re.compile(r"[0-9]x[0-9]|-vl-|scout|maverick|llama-30b|falcon3-1b")
    wrong = defaultdict(list)
    for name, spellings in HUB_IDS.items():
        size = Architecture.from_config(name).parameters_with_mtp / 1e9
        for spelling in map(str.lower, spellings):
            said = re.findall(r"(?<![0-9.a-z])([0-9.]+)b(?![a-z0-9])", spelling.rpartition("/")[2])
            if said and not apart.search(spelling) and abs(float(said[0]) / size - 1) > 0.25:
                wrong[name].append((spelling, size))
    assert not wrong
