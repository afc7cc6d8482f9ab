"""Linear-time mixers in plain torch, the reference that the counts are compared with.

They follow the chunked forms of the papers: state-space duality (Dao 2024, arXiv:2405.21060, section 6) and the gated
delta rule (Yang 2024, arXiv:2406.06484 and 2412.06464). Recurrences compute in fp32, as published reference code does.
Activations are (batch, sequence, hidden); inside, (batch, sequence, groups, heads of a group, width).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ShortConvolution(nn.Module):
    """A causal depthwise convolution and a SiLU on (batch, sequence, channels)."""

    def __init__(self, channels: int, taps: int, dtype: torch.dtype, *, bias: bool):
        super().__init__()
        self.taps = taps
        self.weight = nn.Parameter(torch.zeros(channels, 1, taps, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(channels, dtype=dtype)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x.transpose(1, 2), (self.taps - 1, 0))
        y = F.conv1d(padded, self.weight, self.bias, groups=x.shape[2])
        return F.silu(y).transpose(1, 2).contiguous()


class GatedNorm(nn.Module):
    """A root-mean-square norm over the last ``over`` dimensions of ``y * silu(z)``, or (``norm_first``) of y before it
    is gated; the gain has the shape of the tensor's last dimensions."""

    def __init__(self, shape: Sequence[int], over: int, dtype: torch.dtype, *, norm_first: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(*shape, dtype=dtype))
        self.over, self.norm_first = tuple(range(-over, 0)), norm_first

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        if self.norm_first:
            return (self.weight * self._unit(y.float()).to(y.dtype) * F.silu(z.float())).to(y.dtype)
        return self.weight * self._unit(y.float() * F.silu(z.float())).to(y.dtype)

    def _unit(self, wide: Tensor) -> Tensor:
        return wide * torch.rsqrt(wide.pow(2).mean(self.over, keepdim=True) + 1e-6)


def later_positions(chunk: int) -> Tensor:
    """Where a position of a chunk would see one behind it: (chunk, chunk) of truth values."""
    return torch.ones(chunk, chunk, dtype=torch.bool).triu(1)


def state_space(x: Tensor, b: Tensor, c: Tensor, dt: Tensor, rate: Tensor, later: Tensor) -> Tensor:
    """State-space duality in chunks.

    Parameters
    ----------
    x
        (batch, sequence, groups, heads, width).
    b, c
        (batch, sequence, groups, state).
    dt
        (batch, sequence, groups, heads), above 0.
    rate
        (groups, heads), below 0: a state falls by ``exp(dt rate)`` a step.
    later
        Of :func:`later_positions`, whose size is the chunk's.
    """
    width, chunk = x.shape[-1], len(later)
    x, b, c, dt = (t.unflatten(1, (-1, chunk)) for t in (x, b, c, dt))
    fallen = (dt * rate).movedim(2, -1).cumsum(-1)  # (batch, chunks, groups, heads, chunk)
    inputs = (x * dt[..., None]).movedim(2, 4)  # (batch, chunks, groups, heads, chunk, width)
    between = (fallen[..., :, None] - fallen[..., None, :]).masked_fill(later, float("-inf")).exp()
    b, c = (t.transpose(2, 3) for t in (b, c))  # (batch, chunks, groups, chunk, state)
    scores = (c @ b.transpose(-1, -2))[:, :, :, None] * between
    inner = scores @ inputs
    left = (fallen[..., -1:] - fallen).exp()
    # All heads of a group are columns of one product.
    made = b.transpose(-1, -2) @ (inputs * left[..., None]).movedim(3, 4).flatten(4)
    before = passed_on(made.unflatten(-1, (-1, width)), fallen[..., -1].exp()[:, :, :, None, :, None])
    outer = (c @ before.flatten(4)).unflatten(-1, (-1, width)).movedim(4, 3)
    return (inner + outer * fallen.exp()[..., None]).movedim(4, 2).flatten(1, 2)


def passed_on(made: Tensor, kept: Tensor) -> Tensor:
    """The state before each chunk, from what each chunk makes and how much of the state before it keeps; chunks are
    dimension 1."""
    state = torch.zeros_like(made[:, 0])
    before = []
    for new, share in zip(made.unbind(1), kept.unbind(1), strict=True):
        before.append(state)
        state = state * share + new
    return torch.stack(before, 1)


class Mamba2(nn.Module):
    """The state-space duality mixer: one product in front, one convolution, the scan, a gated norm for each group."""

    def __init__(
        self, hidden: int, groups: int, heads: int, width: int, state: int, taps: int, chunk: int, dtype: torch.dtype
    ):
        super().__init__()
        self.shape, self.state = (groups, heads, width), state
        inner, narrow = groups * heads * width, groups * state
        self.widths = [inner, inner + 2 * narrow, groups * heads]
        self.inner = [inner, narrow, narrow]
        self.project = nn.Linear(hidden, sum(self.widths), bias=False, dtype=dtype)
        self.convolve = ShortConvolution(inner + 2 * narrow, taps, dtype, bias=True)
        self.rate, self.skip, self.dt = (nn.Parameter(torch.zeros(groups, heads, dtype=dtype)) for _ in range(3))
        self.norm = GatedNorm(self.shape, 2, dtype)
        self.out = nn.Linear(inner, hidden, bias=False, dtype=dtype)
        self.register_buffer("later", later_positions(chunk))

    def forward(self, tokens: Tensor) -> Tensor:
        z, xbc, dt = self.project(tokens).split(self.widths, -1)
        x, b, c = (t.unflatten(-1, (self.shape[0], -1)).float() for t in self.convolve(xbc).split(self.inner, -1))
        x = x.unflatten(-1, self.shape[1:])
        steps = F.softplus(dt.unflatten(-1, self.shape[:2]).float() + self.dt.float())
        y = state_space(x, b, c, steps, -self.rate.float().exp(), self.later)
        y = (y + x * self.skip.float()[..., None]).to(tokens.dtype)
        return self.out(self.norm(y, z.unflatten(-1, self.shape)).flatten(2))
