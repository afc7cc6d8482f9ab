"""The counters themselves: nothing multiplies unnoticed, storages count once, phases are told apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch", reason="conformance cells run torch: pip install 'llmsim[torch]'")

import torch.nn.functional as F
from torch._subclasses import FakeTensorMode

from llmsim.measure import blocks, counters
from llmsim.measure.counters import CommunicationLog, SavedTensors, UncoveredOperator, WorkCounter

pytestmark = pytest.mark.torch


def test_an_operator_without_a_formula_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = torch.zeros(3, 4), torch.zeros(4, 5)
    with WorkCounter() as counter:
        left @ right
    assert counter.flops == {"forward": 2 * 3 * 4 * 5}
    monkeypatch.delitem(counters.FLOP_FORMULAS, torch.ops.aten.mm)
    with pytest.raises(UncoveredOperator, match="mm"), WorkCounter():
        left @ right


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("bmm", lambda: torch.zeros(2, 3, 4) @ torch.zeros(2, 4, 5)),
        ("addmm", lambda: F.linear(torch.zeros(3, 4), torch.zeros(5, 4), torch.zeros(5))),
        ("bmm", lambda: torch.einsum("ij,jk->ik", torch.zeros(3, 4), torch.zeros(4, 5))),
        ("baddbmm", lambda: torch.baddbmm(torch.zeros(2, 3, 5), torch.zeros(2, 3, 4), torch.zeros(2, 4, 5))),
        ("convolution", lambda: F.conv1d(torch.zeros(2, 4, 9), torch.zeros(6, 4, 3))),
    ],
)
def test_every_kind_of_product_needs_its_formula(
    name: str, run: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    with WorkCounter() as counter:
        run()
    assert counter.flops["forward"] > 0
    monkeypatch.delitem(counters.FLOP_FORMULAS, getattr(torch.ops.aten, name))
    with pytest.raises(UncoveredOperator, match=name), WorkCounter():
        run()


@pytest.mark.parametrize(
    "run",
    [
        lambda: torch.cdist(torch.zeros(3, 4), torch.zeros(5, 4)),
        lambda: torch.addbmm(torch.zeros(3, 5), torch.zeros(2, 3, 4), torch.zeros(2, 4, 5)),
        lambda: torch.zeros(4).dot(torch.zeros(4)),
        lambda: torch.zeros(3, 4).mv(torch.zeros(4)),
        lambda: torch.cholesky_solve(torch.zeros(4, 2), torch.eye(4)),
    ],
)
def test_products_that_nothing_here_runs_fail(run: Callable[[], object]) -> None:
    with FakeTensorMode(), pytest.raises(UncoveredOperator), WorkCounter():
        run()


def _grouped_product() -> None:
    rows, experts = torch.zeros(32, 16, dtype=torch.bfloat16), torch.zeros(4, 16, 24, dtype=torch.bfloat16)
    torch._grouped_mm(rows, experts, offs=torch.zeros(4, dtype=torch.int32))


def _grouped_queries() -> None:
    keys = torch.zeros(1, 8, 2, 16)
    blocks.attend(torch.zeros(1, 8, 4, 16), keys, keys, "flash")


@pytest.mark.parametrize(
    ("name", "run"),
    [("_grouped_mm", _grouped_product), ("_scaled_dot_product_flash_attention_for_cpu", _grouped_queries)],
)
def test_what_torch_leaves_at_zero_would_fail(
    name: str, run: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(counters.FLOP_FORMULAS, getattr(torch.ops.aten, name))
    with FakeTensorMode(), WorkCounter(), pytest.raises(UncoveredOperator, match=name):
        run()


def test_attention_kernels_are_never_swapped_in_silence() -> None:
    q, v = torch.zeros(1, 8, 4, 24), torch.zeros(1, 8, 4, 16)
    with pytest.raises(RuntimeError):
        blocks.attend(q, q, v, "flash")


def test_a_storage_counts_once_and_parameters_do_not() -> None:
    x, gain = torch.zeros(4, 8, requires_grad=True), torch.ones(8, requires_grad=True)
    saved = SavedTensors([gain])
    with saved:
        y = (x * gain).exp()
        y.view(-1).square()
    # x by the product; the result of exp by itself and, as a view, by the square.
    assert saved.total_bytes == x.nbytes + y.nbytes


def test_recomputation_is_told_from_backward() -> None:
    weight = torch.zeros(6, 6, requires_grad=True)

    def part(x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x @ weight) @ weight

    x = torch.zeros(2, 6, requires_grad=True)
    with WorkCounter() as counter:
        blocks.recomputed(part, x).sum().backward()
    product = 2 * 2 * 6 * 6
    # The second product is not needed again: the checkpoint stops once everything kept exists.
    assert counter.flops == {"forward": 2 * product, "recompute": product, "backward": 4 * product}


def test_unknown_collectives_fail() -> None:
    with pytest.raises(UncoveredOperator, match="known collective"):
        CommunicationLog()._record(torch.ops._c10d_functional.broadcast.default, (), None)


def test_elementwise_operators_need_no_formula() -> None:
    x = torch.zeros(2, 3, 4, requires_grad=True)
    with WorkCounter() as counter:
        y = F.layer_norm(F.gelu(x) * x.sigmoid(), (4,)).view(-1)
        torch.autograd.grad(y, x, torch.ones_like(y))
    assert not counter.flops
    # Four, and the ones; the view is free. Backward has four, and the sum of the two gradients of x.
    assert counter.kernels == {"forward": 5, "backward": 6}
