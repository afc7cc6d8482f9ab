"""What the CPU's allocator did while a profiler watched."""

from __future__ import annotations

from typing import Any

from torch.profiler import profile


def allocator_peak(profiled: profile, since: str = "") -> int:
    """The most that was allocated at once since the profiler started, above what there was.

    What a product, a convolution or an attention kernel allocates for itself and frees before it returns is left out:
    the scratch of a library, which depends on its version, its threads and the instructions of the processor, and which
    plans have as ``workspace``. Blocks older than the profiler must not be freed while it runs: it does not see that.

    Parameters
    ----------
    since
        Name of a recorded function at whose beginning the count starts instead.
    """
    result: Any = profiled.profiler.kineto_results
    roots = result.experimental_event_tree()
    found = sorted(pair for root in roots for pair in _allocations(root))
    start = min((t for root in roots for t in _starts(root, since)), default=0) if since else 0
    now = sum(size for time, size in found if time < start)
    before = most = now
    for _, size in (pair for pair in found if pair[0] >= start):
        now += size
        most = max(most, now)
    return most - before


def _starts(event: Any, name: str) -> list[int]:
    own = [event.start_time_ns] if event.name == name else []
    return own + [time for child in event.children for time in _starts(child, name)]


KERNELS = frozenset({
    "aten::mm", "aten::addmm", "aten::bmm", "aten::_grouped_mm", "aten::convolution", "aten::convolution_backward",
    "aten::_scaled_dot_product_flash_attention_for_cpu", "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
})  # fmt: skip


def _allocations(event: Any) -> list[tuple[int, int]]:
    """(time, bytes) of what an operator and those that it calls allocate and free."""
    if event.name in KERNELS:
        return [(time, size) for time, size, _ in _outlasting(_blocks(event))]
    own = [(time, size) for time, size, _ in ([_block(event)] if event.name == "[memory]" else [])]
    return own + [pair for child in event.children for pair in _allocations(child)]


def _outlasting(blocks: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Without those that are made and freed again; an address may be given to one block after another."""
    scratch: set[int] = set()
    made: dict[int, int] = {}
    for i, (_, size, address) in enumerate(blocks):
        if size > 0:
            made[address] = i
        elif address in made:
            scratch |= {i, made.pop(address)}
    return [block for i, block in enumerate(blocks) if i not in scratch]


def _blocks(event: Any) -> list[tuple[int, int, int]]:
    """(time, bytes, address) of every allocation below an operator."""
    own = [_block(event)] if event.name == "[memory]" else []
    return own + [block for child in event.children for block in _blocks(child)]


def _block(event: Any) -> tuple[int, int, int]:
    return event.start_time_ns, event.extra_fields.alloc_size, event.extra_fields.ptr
