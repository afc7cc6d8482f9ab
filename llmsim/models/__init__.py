"""Published models, bundled as the facts of their config.json under lower-case names."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

_FOLDER = Path(__file__).parent

HUB_IDS: dict[str, tuple[str, ...]] = {
    "bert-base": ("google-bert/bert-base-uncased", "bert-base-uncased"),
    "bloom-176b": ("bigscience/bloom",),
    "bloom-560m": ("bigscience/bloom-560m",),
    "codellama-34b": ("codellama/CodeLlama-34b-hf", "codellama/CodeLlama-34b-Instruct-hf"),
    "deepseek-r1": ("deepseek-ai/DeepSeek-R1", "deepseek-ai/DeepSeek-R1-0528"),
    "deepseek-v2": ("deepseek-ai/DeepSeek-V2", "deepseek-ai/DeepSeek-Coder-V2-Instruct"),
    "deepseek-v2-lite": ("deepseek-ai/DeepSeek-V2-Lite", "deepseek-ai/DeepSeek-V2-Lite-Chat"),
    "deepseek-v3": ("deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-V3-Base", "deepseek-ai/DeepSeek-V3-0324"),
    "deepseek-v3.1": ("deepseek-ai/DeepSeek-V3.1", "nvidia/DeepSeek-V3.1-NVFP4"),
    "deepseek-v3.2": ("deepseek-ai/DeepSeek-V3.2", "deepseek-ai/DeepSeek-V3.2-Exp"),
    "falcon-7b": ("tiiuae/falcon-7b", "tiiuae/falcon-7b-instruct"),
    "falcon-40b": ("tiiuae/falcon-40b", "tiiuae/falcon-40b-instruct"),
    "falcon-180b": ("tiiuae/falcon-180B", "tiiuae/falcon-180B-chat"),
    "gemma-2-9b": ("google/gemma-2-9b", "google/gemma-2-9b-it"),
    "gemma-2-27b": ("google/gemma-2-27b", "google/gemma-2-27b-it"),
    "gemma-3-1b-text": ("google/gemma-3-1b-pt", "google/gemma-3-1b-it", "gemma-3-1b"),
    "gemma3-12b": ("google/gemma-3-12b-pt", "google/gemma-3-12b-it", "gemma-3-12b"),
    "glm-4.5": ("zai-org/GLM-4.5",),
    "glm-4.5-air": ("zai-org/GLM-4.5-Air",),
    "glm-5": ("zai-org/GLM-5",),
    "gpt-2": ("openai-community/gpt2", "gpt2"),
    "gpt-2-xl": ("openai-community/gpt2-xl", "gpt2-xl"),
    "gpt-j-6b": ("EleutherAI/gpt-j-6b",),
    "gpt-neox-20b": ("EleutherAI/gpt-neox-20b",),
    "gpt-oss-20b": ("openai/gpt-oss-20b",),
    "gpt-oss-120b": ("openai/gpt-oss-120b",),
    "granite-3.0-8b": ("ibm-granite/granite-3.0-8b-base", "ibm-granite/granite-3.0-8b-instruct"),
    "internlm-7b": ("internlm/internlm-7b",),
    "jamba-v0.1": ("ai21labs/Jamba-v0.1",),
    "kimi-k2": ("moonshotai/Kimi-K2-Base", "moonshotai/Kimi-K2-Instruct", "moonshotai/Kimi-K2-Thinking"),
    "kimi-k2.5": ("moonshotai/Kimi-K2.5",),
    "llama-7b": ("huggyllama/llama-7b",),
    "llama-2-7b": ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-chat-hf"),
    "llama-2-13b": ("meta-llama/Llama-2-13b-hf", "meta-llama/Llama-2-13b-chat-hf"),
    "llama-2-70b": ("meta-llama/Llama-2-70b-hf", "meta-llama/Llama-2-70b-chat-hf"),
    "llama-3-8b": ("meta-llama/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B-Instruct"),
    "llama-3-70b": ("meta-llama/Meta-Llama-3-70B", "meta-llama/Meta-Llama-3-70B-Instruct"),
    "llama-3.1-8b": (
        "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct",
        "meta-llama/Meta-Llama-3.1-8B", "meta-llama/Meta-Llama-3.1-8B-Instruct",
    ),
    "llama-3.1-70b": (
        "meta-llama/Llama-3.1-70B", "meta-llama/Llama-3.1-70B-Instruct",
        "meta-llama/Meta-Llama-3.1-70B", "meta-llama/Meta-Llama-3.1-70B-Instruct",
    ),
    "llama-3.1-405b": (
        "meta-llama/Llama-3.1-405B", "meta-llama/Llama-3.1-405B-Instruct",
        "meta-llama/Meta-Llama-3.1-405B", "meta-llama/Meta-Llama-3.1-405B-Instruct",
    ),
    "llama-3.2-1b": ("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-1B-Instruct"),
    "llama-3.2-3b": ("meta-llama/Llama-3.2-3B", "meta-llama/Llama-3.2-3B-Instruct"),
    "llama-3.3-70b": ("meta-llama/Llama-3.3-70B-Instruct",),
    "llama-4-scout": ("meta-llama/Llama-4-Scout-17B-16E", "meta-llama/Llama-4-Scout-17B-16E-Instruct"),
    "llama-4-maverick": ("meta-llama/Llama-4-Maverick-17B-128E", "meta-llama/Llama-4-Maverick-17B-128E-Instruct"),
    "mamba2-2.7b": ("state-spaces/mamba2-2.7b",),
    "minimax-m2.5": ("MiniMaxAI/MiniMax-M2.5",),
    "mistral-7b-v0.1": ("mistralai/Mistral-7B-v0.1",),
    "mistral-nemo-12b": ("mistralai/Mistral-Nemo-Base-2407", "mistralai/Mistral-Nemo-Instruct-2407"),
    "mixtral-8x7b": ("mistralai/Mixtral-8x7B-v0.1", "mistralai/Mixtral-8x7B-Instruct-v0.1"),
    "mixtral-8x22b": ("mistralai/Mixtral-8x22B-v0.1",),
    "moonlight-16b-a3b": ("moonshotai/Moonlight-16B-A3B", "moonshotai/Moonlight-16B-A3B-Instruct"),
    "mpt-7b-hf": ("mosaicml/mpt-7b", "mpt-7b"),
    "nemotron-4-340b": ("nvidia/Nemotron-4-340B-Base", "nvidia/Nemotron-4-340B-Instruct"),
    "nemotron-h-56b": ("nvidia/Nemotron-H-56B-Base-8K",),
    "nemotron3-8b": ("nvidia/nemotron-3-8b-base-4k",),
    "olmo-2-7b": ("allenai/OLMo-2-1124-7B", "allenai/OLMo-2-1124-7B-Instruct"),
    "opt-125m": ("facebook/opt-125m",),
    "opt-6.7b": ("facebook/opt-6.7b",),
    "phi-3-mini-4k": ("microsoft/Phi-3-mini-4k-instruct",),
    "phi-4-14b": ("microsoft/phi-4",),
    "pythia-6.9b": ("EleutherAI/pythia-6.9b",),
    "qwen2.5-0.5b": ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B-Instruct"),
    "qwen2.5-7b": ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct"),
    "qwen2.5-72b": ("Qwen/Qwen2.5-72B", "Qwen/Qwen2.5-72B-Instruct", "moonshotai/Kimi-Dev-72B"),
    "qwen3-0.6b": ("Qwen/Qwen3-0.6B",),
    "qwen3-8b": ("Qwen/Qwen3-8B",),
    "qwen3-14b": ("Qwen/Qwen3-14B",),
    "qwen3-32b": ("Qwen/Qwen3-32B",),
    "qwen3-30b-a3b": ("Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-Coder-30B-A3B-Instruct"),
    "qwen3-235b-a22b": ("Qwen/Qwen3-235B-A22B",),
    "qwen3-480b-a35b": ("Qwen/Qwen3-Coder-480B-A35B-Instruct", "qwen3-coder-480b-a35b"),
    "qwen3-next-80b-a3b": ("Qwen/Qwen3-Next-80B-A3B-Instruct", "Qwen/Qwen3-Next-80B-A3B-Thinking"),
    "qwen3.5-397b-a17b": ("Qwen/Qwen3.5-397B-A17B",),
    "qwen2.5-1.5b": ("Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-1.5B-Instruct"),
    "qwen2.5-3b": ("Qwen/Qwen2.5-3B", "Qwen/Qwen2.5-3B-Instruct"),
    "qwen2.5-14b": ("Qwen/Qwen2.5-14B", "Qwen/Qwen2.5-14B-Instruct", "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B"),
    "qwen2.5-32b": (
        "Qwen/Qwen2.5-32B",
        "Qwen/Qwen2.5-32B-Instruct",
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B",
        "Qwen/QwQ-32B",
    ),
    "qwen3-1.7b": ("Qwen/Qwen3-1.7B",),
    "qwen3-4b": ("Qwen/Qwen3-4B",),
    "codellama-7b": ("codellama/CodeLlama-7b-hf", "codellama/CodeLlama-7b-Instruct-hf"),
    "granite-3.1-8b": (
        "ibm-granite/granite-3.1-8b-instruct",
        "ibm-granite/granite-3.2-8b-instruct",
        "ibm-granite/granite-3.3-8b-instruct",
    ),
    "mistral-small-24b": (
        "mistralai/Mistral-Small-24B-Instruct-2501",
        "mistralai/Mistral-Small-3.1-24B-Instruct-2503",
        "mistralai/Mistral-Small-3.2-24B-Instruct-2506",
    ),
    "gemma-3-4b": ("google/gemma-3-4b-pt", "google/gemma-3-4b-it"),
    "gemma-3-27b": ("google/gemma-3-27b-pt", "google/gemma-3-27b-it"),
    "t5-base": ("google-t5/t5-base",),
    "yi-34b": ("01-ai/Yi-34B",),
}  # fmt: skip
"""Bundled name -> hub ids and other spellings of the same architecture."""


def bundled_models() -> list[str]:
    """The names of the bundled models, sorted."""
    return sorted(_names())


def bundled_path(name: str) -> Path | None:
    """The file of a bundled model by its name, its hub id with or without the organisation, in any case; None for
    anything else."""
    wanted = name.lower()
    found = wanted if wanted in _names() else _aliases().get(wanted)
    return _FOLDER / f"{found}.json" if found else None


_STORED = re.compile(
    r"[-_. ](fp8|fp8[-_](dynamic|block)|nvfp4|fp4|mxfp4|awq(-[48]bit)?|autoround(-gptq)?(-[48]bit)?|"
    r"gptq(-int[48]|-[48]bit)?|int[48]|bnb-4bit|gguf|quantized\.w[0-9]+a[0-9]+)$",
    re.IGNORECASE,
)


def stored_otherwise(name: str) -> str | None:
    """The bundled name of a checkpoint that is another's weights in another format, whoever published it
    (``RedHatAI/Qwen2.5-7B-Instruct-FP8-dynamic``); None for anything else."""
    short = name.rsplit("/", 1)[-1]
    plain = _STORED.sub("", short)
    found = bundled_path(plain) if plain != short else None
    return found.stem if found else None


@lru_cache(maxsize=1)
def _names() -> frozenset[str]:
    return frozenset(path.stem for path in _FOLDER.glob("*.json"))


@lru_cache(maxsize=1)
def _aliases() -> dict[str, str]:
    full = {spelling.lower(): name for name, spellings in HUB_IDS.items() for spelling in spellings}
    return {**{spelling.rpartition("/")[2]: name for spelling, name in full.items()}, **full}
