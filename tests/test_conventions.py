"""FLOPs per token: published figures."""

import pytest

from llmsim.architecture import Architecture
from llmsim.timing.conventions import flops_per_token, published_flops

GFLOP = 1e9

PUBLISHED = [
    # model, sequence, convention, GFLOP per token, forward and backward
    ("llama-3-8b", 8192, "model-causal", 51.470),
    ("llama-3-8b", 8192, "model-full", 57.913),
    ("llama-3-70b", 8192, "model-causal", 449.22),
    ("llama-3-70b", 8192, "model-full", 481.43),
    ("llama-3.1-405b", 8192, "model-causal", 2523.96),
    ("llama-3.1-405b", 8192, "model-full", 2625.42),
    ("llama-2-7b", 4096, "model-causal", 42.864),
    ("llama-2-7b", 4096, "model-full", 46.085),
    ("gpt-3-175b", 2048, "model-causal", 1061.9),
    ("gpt-3-175b", 2048, "model-full", 1076.4),
    ("deepseek-v3", 4096, "model-causal, without MTP", 249.81),
    ("deepseek-v3", 4096, "model-causal, router excluded", 259.99),
    ("qwen3-235b-a22b", 4096, "model-causal, router excluded", 148.03),
    ("qwen3-235b-a22b", 4096, "model-causal", 148.33),
    ("qwen3-30b-a3b", 4096, "model-causal, router excluded", 23.006),
]


@pytest.mark.parametrize(("model", "sequence", "convention", "expected"), PUBLISHED)
def test_published_figures(model, sequence, convention, expected):
    value = flops_per_token(Architecture.from_config(model), sequence, convention)
    assert float(value) / GFLOP == pytest.approx(expected, rel=1e-4)


def test_narayanan_hardware_flops_of_gpt3():
    """96 B s L h^2 (1 + s/6h + V/16Lh), arXiv:2104.04473, equation 3, per token."""
    s, layers, h, v = 2048, 96, 12288, 51200
    expected = 96 * layers * h**2 * (1 + s / (6 * h) + v / (16 * layers * h))
    found = published_flops(Architecture.from_config("gpt-3-175b"), s, "full")["hardware"]
    assert float(found) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("model", ["gemma-2-9b", "gpt-oss-20b", "mistral-7b-v0.1"])
def test_windows_cost_less_than_the_whole_context(model):
    found = published_flops(Architecture.from_config(model), 32768)
    assert found["matmul only"] < found["model-causal"] < found["model-full"]
    longer = flops_per_token(Architecture.from_config(model), 65536, "model-causal")
    assert longer > found["model-causal"]


def test_recomputation_counts_in_hardware_flops_only():
    model = Architecture.from_config("llama-3-8b")
    none, selective, full = (published_flops(model, 8192, r) for r in ("none", "selective", "full"))
    assert none["hardware"] < selective["hardware"] < full["hardware"]
    assert none["model-causal"] == full["model-causal"]
