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


def short_convolution(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """A causal depthwise convolution over the sequence and a SiLU, of (batch, sequence, channels) with a kernel of
    (channels, 1, taps)."""
    padded = F.pad(x.transpose(1, 2), (kernel.shape[-1] - 1, 0))
    y = F.conv1d(padded, kernel, bias, groups=x.shape[2])
    return F.silu(y).transpose(1, 2).contiguous()


class ShortConvolution(nn.Module):
    """:func:`short_convolution` with its parameters."""

    def __init__(self, channels: int, taps: int, dtype: torch.dtype, *, bias: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, 1, taps, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(channels, dtype=dtype)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return short_convolution(x, self.weight, self.bias)


def gated_norm(y: Tensor, z: Tensor, gain: Tensor, over: int, *, norm_first: bool = False) -> Tensor:
    """A root-mean-square norm over the last ``over`` dimensions of ``y * silu(z)``, or (``norm_first``) of y before it
    is gated; the gain has the shape of the tensor's last dimensions."""
    gate = F.silu(z.float())
    wide = y.float() if norm_first else y.float() * gate
    unit = wide * torch.rsqrt(wide.pow(2).mean(tuple(range(-over, 0)), keepdim=True) + 1e-6)
    normed = gain * unit.to(y.dtype)
    return (normed * gate).to(y.dtype) if norm_first else normed


class GatedNorm(nn.Module):
    """:func:`gated_norm` with its gain."""

    def __init__(self, shape: Sequence[int], over: int, dtype: torch.dtype, *, norm_first: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(*shape, dtype=dtype))
        self.over, self.norm_first = over, norm_first

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        return gated_norm(y, z, self.weight, self.over, norm_first=self.norm_first)


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


def advanced(state: Tensor, share: Tensor, new: Tensor) -> Tensor:
    """What is left of a state, with what a step or a chunk adds to it."""
    return state * share + new


def passed_on(made: Tensor, kept: Tensor) -> Tensor:
    """The state before each chunk, from what each chunk makes and how much of the state before it keeps; chunks are
    dimension 1."""
    state = torch.zeros_like(made[:, 0])
    before = []
    for new, share in zip(made.unbind(1), kept.unbind(1), strict=True):
        before.append(state)
        state = advanced(state, share, new)
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


def gated_delta_rule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor, later: Tensor) -> Tensor:
    """The gated delta rule in chunks, by the inverse of ``1 + A`` with A the scores of keys with earlier keys.

    Parameters
    ----------
    q, k
        (batch, sequence, heads, key width), queries and keys of length 1.
    v
        (batch, sequence, heads, share, value width): ``share`` heads of values for each of keys.
    beta, decay
        (batch, sequence, heads, share): how much of the new value is written, and the logarithm of what stays.
    later
        Of :func:`later_positions`.
    """
    chunk, share = len(later), v.shape[3]
    q, k = (t.unflatten(1, (-1, chunk)).transpose(2, 3)[:, :, :, None] for t in (q * q.shape[-1] ** -0.5, k))
    # (batch, chunks, heads, share, chunk, width) from here on; the value heads share their queries and keys by copies.
    q, k = (t.expand(-1, -1, -1, share, -1, -1).contiguous() for t in (q, k))
    v = v.unflatten(1, (-1, chunk)).movedim(2, 4)
    beta, fallen = (t.unflatten(1, (-1, chunk)).movedim(2, 4) for t in (beta[..., None], decay[..., None]))
    fallen = fallen.cumsum(-2)
    between = (fallen - fallen.transpose(-1, -2)).masked_fill(later, float("-inf")).exp()
    written = k * beta
    earlier = ((written @ k.transpose(-1, -2)) * between).tril(-1)
    unit = torch.eye(chunk, dtype=v.dtype, device=v.device)
    inverse = torch.linalg.solve_triangular(earlier, unit, upper=False, unitriangular=True)
    values, erased = inverse @ (v * beta), inverse @ (written * fallen.exp())
    scores = (q @ k.transpose(-1, -2)) * between
    asked, last = q * fallen.exp(), fallen[..., -1:, :]
    kept = (k * (last - fallen).exp()).transpose(-1, -2)
    shape = (*kept.shape[:1], *kept.shape[2:-1], values.shape[-1])
    state = torch.zeros(shape, dtype=v.dtype, device=v.device, requires_grad=True)
    parts = zip(*(t.unbind(1) for t in (values, erased, asked, scores, kept, last.exp())), strict=True)
    made = []
    for value, erase, ask, score, keep, share_kept in parts:
        new = value - erase @ state
        made.append(ask @ state + score @ new)
        state = advanced(state, share_kept, keep @ new)
    # The last state counts for nothing, yet its gradient flows, as in a sequence that goes on.
    return torch.stack(made, 1).movedim(4, 2).flatten(1, 2) + 0 * state.sum()


class GatedDeltaNet(nn.Module):
    """The gated delta rule between a short convolution and a gated norm of each head."""

    def __init__(
        self,
        hidden: int,
        heads: int,
        share: int,
        k_dim: int,
        v_dim: int,
        taps: int,
        chunk: int,
        dtype: torch.dtype,
    ):
        super().__init__()
        self.heads, self.share = heads, share
        narrow, wide = heads * k_dim, heads * share * v_dim
        self.widths, self.inner = [2 * narrow + wide, wide], [narrow, narrow, wide]
        self.project = nn.Linear(hidden, sum(self.widths), bias=False, dtype=dtype)
        self.project_rates = nn.Linear(hidden, 2 * heads * share, bias=False, dtype=dtype)
        self.convolve = ShortConvolution(self.widths[0], taps, dtype, bias=False)
        self.rate, self.dt = (nn.Parameter(torch.zeros(heads, share, dtype=dtype)) for _ in range(2))
        self.norm = GatedNorm((v_dim,), 1, dtype, norm_first=True)
        self.out = nn.Linear(wide, hidden, bias=False, dtype=dtype)
        self.register_buffer("later", later_positions(chunk))

    def forward(self, x: Tensor) -> Tensor:
        qkv, z = self.project(x).split(self.widths, -1)
        beta, dt = (t.unflatten(-1, (self.heads, -1)).float() for t in self.project_rates(x).chunk(2, -1))
        q, k, v = (t.unflatten(-1, (self.heads, -1)).float() for t in self.convolve(qkv).split(self.inner, -1))
        q, k = (t * torch.rsqrt(t.pow(2).sum(-1, keepdim=True) + 1e-6) for t in (q, k))
        decay = -self.rate.float().exp() * F.softplus(dt + self.dt.float())
        v, z = (t.unflatten(-1, (self.share, -1)) for t in (v, z.unflatten(-1, (self.heads, -1))))
        y = gated_delta_rule(q, k, v, beta.sigmoid(), decay, self.later).to(x.dtype)
        return self.out(self.norm(y, z).flatten(2))


class Mamba1(nn.Module):
    """The selective state-space mixer with norms of its narrow projections, its recurrence step by step."""

    def __init__(
        self,
        hidden: int,
        inner: int,
        state: int,
        rank: int,
        taps: int,
        dtype: torch.dtype,
        *,
        norms: Sequence[nn.Module],
    ):
        super().__init__()
        self.low = [rank, state, state]
        self.project = nn.Linear(hidden, 2 * inner, bias=False, dtype=dtype)
        self.convolve = ShortConvolution(inner, taps, dtype, bias=True)
        self.project_low = nn.Linear(inner, sum(self.low), bias=False, dtype=dtype)
        self.norms = nn.ModuleList(norms)
        self.project_dt = nn.Linear(rank, inner, dtype=dtype)
        self.rate = nn.Parameter(torch.zeros(inner, state, dtype=dtype))
        self.skip = nn.Parameter(torch.zeros(inner, dtype=dtype))
        self.out = nn.Linear(inner, hidden, bias=False, dtype=dtype)

    def forward(self, tokens: Tensor) -> Tensor:
        z, x = self.project(tokens).chunk(2, -1)
        x = self.convolve(x)
        low = self.project_low(x).split(self.low, -1)
        dt, b, c = (norm(t) for norm, t in zip(self.norms, low, strict=True))
        wide, steps = x.float(), F.softplus(self.project_dt(dt).float())
        y = selective_scan(wide, steps, b.float(), c.float(), -self.rate.float().exp())
        y = (y + wide * self.skip.float()).to(tokens.dtype)
        return self.out(F.silu(z) * y)


def selective_scan(x: Tensor, dt: Tensor, b: Tensor, c: Tensor, rate: Tensor) -> Tensor:
    """The recurrence ``h = exp(dt rate) h + dt x b``, ``y = h c``, element by element (arXiv:2312.00752, equation 2).

    Parameters
    ----------
    x, dt
        (batch, sequence, channels), dt above 0.
    b, c
        (batch, sequence, state).
    rate
        (channels, state), below 0.
    """
    shares = (dt[..., None] * rate).exp()
    inputs = (dt * x)[..., None] * b[:, :, None]
    state = torch.zeros_like(shares[:, 0])
    made = []
    for share, new, out in zip(shares.unbind(1), inputs.unbind(1), c.unbind(1), strict=True):
        state = advanced(state, share, new)
        made.append((state * out[:, None]).sum(-1))
    return torch.stack(made, 1)
