"""Optimizers: state as torch allocates it, products of an update, and what follows for a plan."""

from __future__ import annotations

import pytest

from llmsim import TrainingPlan, simulate_training
from llmsim.core.errors import InputError
from llmsim.hardware.software import get_software
from llmsim.plans.optimizer import OPTIMIZERS, get_optimizer, traffic_bytes

MATRIX, VECTOR = (512, 1024), 768


def state_bytes(name: str, tensor: str, rows: int, columns: int, moment_bytes: int = 4) -> float:
    return get_optimizer(name).rule(tensor).state_bytes(rows, columns, moment_bytes)


def torch_state(make, shape, dtype="float32"):
    """Bytes of state that a real step leaves behind, step counters aside."""
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.ones(shape, dtype=getattr(torch, dtype)))
    optimizer = make(torch.optim, [parameter])
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    tensors = {k: v for k, v in optimizer.state[parameter].items() if torch.is_tensor(v) and k != "step"}
    return sum(t.numel() * t.element_size() for t in tensors.values())


MAKERS = {
    "adamw": lambda optim, p: optim.AdamW(p),
    "sgd-momentum": lambda optim, p: optim.SGD(p, lr=0.1, momentum=0.9),
    "adafactor": lambda optim, p: optim.Adafactor(p),
}


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["adamw", "sgd-momentum"])
def test_moments_equal_torch(name, dtype):
    each = 4 if dtype == "float32" else 2
    assert state_bytes(name, "matrix", *MATRIX, each) == torch_state(MAKERS[name], MATRIX, dtype)
    assert state_bytes(name, "vector", VECTOR, 1, each) == torch_state(MAKERS[name], (VECTOR,), dtype)


@pytest.mark.torch
def test_factored_moments_equal_torch():
    assert state_bytes("adafactor", "matrix", *MATRIX) == torch_state(MAKERS["adafactor"], MATRIX)
    assert state_bytes("adafactor", "vector", VECTOR, 1) == torch_state(MAKERS["adafactor"], (VECTOR,))


@pytest.mark.torch
def test_muon_state_and_products_equal_torch():
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    muon = pytest.importorskip("torch.optim").Muon
    parameter = torch.nn.Parameter(torch.ones(MATRIX))
    optimizer = muon([parameter])
    parameter.grad = torch.randn(MATRIX)
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    state = sum(t.numel() * t.element_size() for t in optimizer.state[parameter].values() if torch.is_tensor(t))
    assert state_bytes("muon", "matrix", *MATRIX) == state
    assert get_optimizer("muon").matrix.products_flops(*MATRIX) == counter.get_total_flops()


@pytest.mark.parametrize(
    ("name", "expected"), [("adam-8bit", 2.03125), ("lion", 4), ("soap", 24), ("shampoo", 20), ("muon", 4)]
)
def test_published_state_per_element_of_a_square_matrix(name, expected):
    side = 4096
    assert state_bytes(name, "matrix", side, side) / side**2 == expected


def test_small_tensors_are_not_quantised():
    assert state_bytes("adam-8bit", "vector", 4095, 1) == 8 * 4095
    assert state_bytes("adam-8bit", "vector", 4096, 1) == 2.03125 * 4096


def test_long_sides_have_no_preconditioner():
    rule = get_optimizer("soap").matrix
    long = rule.state_bytes(4096, 20_000, 4)
    assert long == 8 * 4096 * 20_000 + 2 * 4 * 4096**2


def test_bytes_of_an_adamw_step():
    """30 bytes per parameter of a bf16 model with fp32 gradients, and 12 for the norm and clipping of gradients."""
    formats = get_software("megatron-core").training.formats
    assert traffic_bytes(12, formats, "bf16") == 30 + 12


def run(optimizer: str, **changes):
    settings = {"sequence_length": 4096, "global_batch_size": 64, "data_parallel": 8, "recompute": "full"}
    plan = TrainingPlan(**{**settings, "optimizer": optimizer, **changes})
    return simulate_training(plan, "mixtral-8x7b" if plan.expert_parallel > 1 else "llama-3-8b", "8xh100-sxm-80gb")


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - {"adamw"}))
@pytest.mark.parametrize("changes", [{}, {"sharding": "zero3"}, {"expert_parallel": 8}])
def test_every_optimizer_changes_memory_and_time(name, changes):
    plain, other = run("adamw", **changes), run(name, **changes)
    assert other.fullest.memory_bytes["optimizer"] != plain.fullest.memory_bytes["optimizer"]
    assert other.breakdown_s["optimizer"] != plain.breakdown_s["optimizer"]
    same = set(plain.breakdown_s) - {"optimizer"}
    assert {k: other.breakdown_s[k] for k in same} == {k: plain.breakdown_s[k] for k in same}


def test_state_of_a_model_adds_up():
    """AdamW: 12 bytes a parameter; Muon: 8 of matrices and 12 of the rest."""
    whole = run("adamw", sharding="ddp").fullest
    assert whole.memory_bytes["optimizer"] == 12 * whole.parameters
    table = 2 * 128256 * 4096
    gains = (2 * 32 + 1) * 4096
    muon = run("muon", sharding="ddp").fullest.memory_bytes["optimizer"]
    assert muon == pytest.approx(8 * whole.parameters + 4 * (table + gains), rel=1e-12)


def test_whole_matrices_cost_a_transfer_only_where_states_are_sharded():
    alone = run("muon", data_parallel=1, tensor_parallel=8)
    assert alone.breakdown_s["optimizer"] < run("muon", sharding="zero1").breakdown_s["optimizer"]


def test_unknown_optimizers_are_named():
    with pytest.raises(InputError, match=r"nearest: .*adamw"):
        get_optimizer("adamv")


@pytest.mark.parametrize(("precision", "each"), [("bf16", 12), ("fp32", 8), ("tf32", 8)])
def test_parameters_in_32_bits_need_no_master_copy(precision, each):
    whole = run("adamw", sharding="ddp", precision=precision, global_batch_size=8).fullest
    assert whole.memory_bytes["optimizer"] == each * whole.parameters


def test_32_bit_products_are_slower_than_tf32_and_that_than_bf16():
    seconds = [run("adamw", precision=p).breakdown_s["gemm"] for p in ("bf16", "tf32", "fp32")]
    assert seconds[0] < seconds[1] < seconds[2]
