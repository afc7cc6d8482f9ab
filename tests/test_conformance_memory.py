"""Memory of training steps: model states equal, peaks within their tolerance."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="conformance cells run torch: pip install 'llmsim[torch]'")

from llmsim.measure import device_memory, step_memory
from llmsim.measure.kernel_rows import BACKWARD_CASES, RowCase, derived_backward_peak, executed_backward_peak
from llmsim.measure.memory_cells import SHARD_CELLS, STEP_CELLS, USUAL_SHARDS, USUAL_STEPS, MemoryCell

pytestmark = pytest.mark.torch
USUAL = {*USUAL_STEPS, *USUAL_SHARDS}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def agrees(cell: MemoryCell) -> None:
    ours, theirs = cell.derived(), cell.executed()
    assert ours.states == theirs.states
    assert ours.peak == pytest.approx(theirs.peak, rel=cell.tolerance)
    assert theirs.peak > sum(theirs.states[::2])


@pytest.mark.parametrize("cell", [*USUAL_STEPS, *USUAL_SHARDS], ids=str)
def test_step(cell: MemoryCell) -> None:
    agrees(cell)


@pytest.mark.conform
@pytest.mark.parametrize("cell", [c for c in (*STEP_CELLS, *SHARD_CELLS) if c not in USUAL], ids=str)
def test_every_step(cell: MemoryCell) -> None:
    agrees(cell)


@pytest.mark.parametrize("case", BACKWARD_CASES, ids=str)
def test_what_a_row_holds_in_backward(case: RowCase) -> None:
    assert derived_backward_peak(case) == pytest.approx(executed_backward_peak(case), rel=0.02)


def test_sharding_pads_the_first_dimension_of_each_parameter() -> None:
    padded = next(cell for cell in SHARD_CELLS if "64ranks-padded" in cell.name and "recompute" not in cell.name)
    states = padded.derived()
    model = step_memory.architecture(padded.derived.args[0].block, 4)
    assert states.parameters > 4 * model.parameters / 64
    rows = [(257, 256), (257, 256), (256, 1)]  # table, head, norm
    rows += 4 * [(256, 256), (64, 256), (64, 256), (256, 256), (707, 256), (707, 256), (256, 707), (256, 1), (256, 1)]
    assert states.parameters == 4 * sum(-(-first // 64) * rest for first, rest in rows)


def test_the_comparison_for_devices_runs_on_a_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = [spec for spec in device_memory.specs("cpu") if spec.update == "fused"]
    monkeypatch.setattr(device_memory, "specs", lambda device: few[::3])
    out = tmp_path / "numbers.json"
    assert device_memory.main(["--device", "cpu", "--json", str(out)]) == device_memory.AGREES
    numbers = json.loads(out.read_text())["numbers"]
    assert len(numbers) == 16
    assert all(n["agrees"] for n in numbers)
    # One of the two models computes nothing again.
    assert [n["quantity"] for n in numbers if not n["measured"]] == ["recomputed FLOPs"]
    assert "of which 0 do not agree" in capsys.readouterr().out


def test_a_difference_on_a_device_has_its_own_status(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = device_memory.Comparison("model", "saved bytes", 1001, 1000, 0.0)
    near = device_memory.Comparison("model", "peak bytes", 1019, 1000, 0.02)
    far = device_memory.Comparison("model", "peak bytes", 1021, 1000, 0.02)
    assert [c.agrees for c in (wrong, near, far)] == [False, True, False]
    monkeypatch.setattr(device_memory, "compare", lambda spec, device: [near, wrong])
    assert device_memory.main(["--device", "cpu"]) == device_memory.DIFFERS


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert device_memory.main([]) == device_memory.NO_DEVICE
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_names_are_unique() -> None:
    names = [cell.name for cell in (*STEP_CELLS, *SHARD_CELLS)]
    assert len(set(names)) == len(names)
    assert len(USUAL) == len(USUAL_STEPS) + len(USUAL_SHARDS)
