"""The references themselves: chunked forms equal the plain recurrences, and what they multiply is counted."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="conformance cells run torch: pip install 'llmsim[torch]'")

import torch.nn.functional as F

from llmsim.measure import mixers
from llmsim.measure.counters import WorkCounter

pytestmark = pytest.mark.torch

BATCH, STEPS, HEADS, SHARE, WIDTH, STATE, CHUNK = 2, 24, 2, 3, 4, 5, 8


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(BATCH, STEPS, *shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def test_state_space_duality_equals_its_recurrence() -> None:
    x, b, c = _random(HEADS, SHARE, WIDTH), _random(HEADS, STATE), _random(HEADS, STATE)
    dt, rate = _random(HEADS, SHARE).abs(), -torch.rand(HEADS, SHARE, dtype=torch.float64)
    found = mixers.state_space(x, b, c, dt, rate, mixers.later_positions(CHUNK))
    state = torch.zeros(BATCH, HEADS, SHARE, WIDTH, STATE, dtype=torch.float64)
    for t in range(STEPS):
        new = torch.einsum("bghp,bgn,bgh->bghpn", x[:, t], b[:, t], dt[:, t])
        state = state * (dt[:, t] * rate).exp()[..., None, None] + new
        torch.testing.assert_close(found[:, t], torch.einsum("bghpn,bgn->bghp", state, c[:, t]))


def test_the_gated_delta_rule_equals_its_recurrence() -> None:
    q, k, v = _random(HEADS, STATE), F.normalize(_random(HEADS, STATE), dim=-1), _random(HEADS, SHARE, WIDTH)
    beta, decay = _random(HEADS, SHARE).sigmoid(), -_random(HEADS, SHARE).abs()
    found = mixers.gated_delta_rule(q, k, v, beta, decay, mixers.later_positions(CHUNK))
    state = torch.zeros(BATCH, HEADS, SHARE, STATE, WIDTH, dtype=torch.float64)
    for t in range(STEPS):
        state = state * decay[:, t].exp()[..., None, None]
        old = torch.einsum("bghkv,bgk->bghv", state, k[:, t])
        state = state + torch.einsum("bgk,bghv->bghkv", k[:, t], beta[:, t][..., None] * (v[:, t] - old))
        read = torch.einsum("bghkv,bgk->bghv", state, q[:, t] * STATE**-0.5)
        torch.testing.assert_close(found[:, t], read)


def test_a_depthwise_convolution_has_twice_its_products_in_backward() -> None:
    x = torch.zeros(2, 16, 32, requires_grad=True)
    kernel = torch.zeros(32, 1, 4, requires_grad=True)
    with WorkCounter() as counter:
        y = mixers.short_convolution(x, kernel, None)
        torch.autograd.grad(y, (x, kernel), torch.ones_like(y))
    pairs = 2 * 16 * 32 * 4
    assert counter.flops == {"forward": 2 * pairs, "backward": 4 * pairs}


def test_a_triangular_solve_is_half_a_product() -> None:
    matrix, right = torch.eye(8, requires_grad=True), torch.zeros(8, 8)
    with WorkCounter() as counter:
        y = torch.linalg.solve_triangular(matrix, right, upper=False, unitriangular=True)
        torch.autograd.grad(y, matrix, torch.ones_like(y))
    assert counter.flops == {"forward": 8**3, "backward": 3 * 8**3}
