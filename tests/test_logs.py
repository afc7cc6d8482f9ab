"""Step times out of logs: the formats, warm-up, and what is refused."""

from __future__ import annotations

import pytest

from llmsim.calibration.logs import read_log
from llmsim.core.errors import InputError

GIB, MIB = 1024**3, 1024**2


def write(tmp_path, lines, name="train.log"):
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def megatron(step, ms, batch=256, spelling="global batch size"):
    return (
        f" [2026-01-01 00:00:{step:02d}] iteration {step:8d}/     500 | consumed samples: {step * batch:12d} | elapsed "
        f"time per iteration (ms): {ms} | throughput per GPU (TFLOP/s/GPU): 400.1 | {spelling}: {batch:5d} | x: 1 |"
    )


def test_megatron_lines(tmp_path):
    lines = [megatron(n, ms) for n, ms in enumerate((90000.0, 6000.0, 5000.0, 5100.0, 5000.0, 5200.0), 1)]
    peaks = "allocated: 1.0 | max allocated: 2048.0 | reserved: 1.0 | max reserved: 4096.0"
    lines.insert(2, f"[Rank 0] (after 2 iterations) memory (MB) | {peaks}")
    found = read_log(write(tmp_path, lines))
    assert found.format == "Megatron-LM"
    assert found.steps == pytest.approx((5.1, 5.0, 5.2))
    assert found.global_batch == 256
    assert found.memory_bytes == {"allocated": 2048 * MIB, "reserved": 4096 * MIB}
    assert found.step_time_s(2**20, 256, 64) == pytest.approx(5.1)
    assert 0 < found.spread < 0.03


def test_megatron_with_a_running_mean_and_of_a_descendant(tmp_path):
    mean = read_log(
        write(tmp_path, [megatron(n, f"{n}000.0/9999.0", spelling="gloabl batch size") for n in range(1, 7)])
    )
    assert mean.steps == (4.0, 5.0, 6.0)
    assert mean.global_batch == 256
    other = [
        f"iteration= {n}/ 99 | elapsed_time_per_iteration_ms={n}000.5 | global_batch_size= 8 |" for n in range(1, 7)
    ]
    assert read_log(write(tmp_path, other)).steps == pytest.approx((4.0005, 5.0005, 6.0005))


def test_torchtitan_lines_with_colours(tmp_path):
    lines = [
        f"[rank0]:[titan] 2026-01-01 - root - INFO - \x1b[31mstep: {n:2d}  \x1b[32mloss:  8.0  \x1b[33mmemory: 44.40GiB"
        f"(46.74%)  \x1b[34mtps: 6,{n}00  \x1b[36mtflops: 358.8  \x1b[35mmfu: 36.28%\x1b[39m"
        for n in range(1, 7)
    ]
    found = read_log(write(tmp_path, lines))
    assert (found.format, found.unit, found.steps) == ("torchtitan", "tokens/s", (6400.0, 6500.0, 6600.0))
    assert found.memory_bytes == {"reserved": 44.40 * GIB}
    assert found.step_time_s(8192 * 64, 64, 8) == pytest.approx(8192 * 64 / 6500 / 8)


def test_deepspeed_lines(tmp_path):
    lines = [
        f"[INFO] [timer.py:260:stop] epoch=0/micro_step={n}/global_step={n}, RunningAvgSamplesPerSec=58.7, "
        f"CurrSamplesPerSec={60 + n}.5, MemAllocated=6.01GB, MaxMemAllocated=19.52GB"
        for n in range(6)
    ]
    found = read_log(write(tmp_path, lines))
    assert (found.format, found.unit, found.steps) == ("DeepSpeed", "samples/s", (63.5, 64.5, 65.5))
    assert found.memory_bytes == {"allocated": 19.52 * GIB}
    assert found.step_time_s(1, 645, 8) == 10


def test_tables(tmp_path):
    assert read_log(write(tmp_path, ["step,step_time_ms", *(f"{n},{n}000" for n in range(1, 7))])).steps == (4, 5, 6)
    assert read_log(write(tmp_path, ["1.0", "2.0", "3.0", "4.0", "5.0"])).steps == (4, 5)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["hello", "world"], "no step times in a format that is known"),
        ([""], "is empty"),
        (["step_time_s", "1", "2", "3", "x"], "line 5"),
        (["step_time_s", "1", "2", "3", "-4", "5"], "line 5"),
        (["step_time_s", "1", "2", "3", "nan", "5"], "line 5"),
        (["step_time_s", "1", "2"], "has 2 steps, of which the first 3 are warm-up"),
        ([megatron(n, 5.0, batch=n) for n in range(1, 9)], "steps of one global batch size"),
    ],
)
def test_what_is_refused(tmp_path, lines, message):
    with pytest.raises(InputError, match=message):
        read_log(write(tmp_path, lines))
    with pytest.raises(InputError, match="cannot be read"):
        read_log(tmp_path / "nowhere.log")
