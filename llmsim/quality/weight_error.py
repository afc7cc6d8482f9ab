"""How far compressed weights are from the original ones: relative squared errors, computed and not typed in.

Weights are taken to be normally distributed. All errors are ``E[(w - w')**2] / E[w**2]``; the first-order loss of a
model grows in proportion to them.

References
----------
Error of uniform rounding, a twelfth of the squared step: Bennett 1948, doi:10.1002/j.1538-7305.1948.tb01340.x.
Formats: OCP Microscaling 1.0 (mxfp4: 32 values share a power of two), NVFP4 (16 values share an e4m3 scale).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..core.errors import InputError

CHANNEL = 4096
"""Weights that share a scale where it is one of an output channel: a usual width."""
_SAMPLE = 1 << 18
_E2M1 = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


@lru_cache(maxsize=8)
def _weights(group: int) -> np.ndarray:
    """Groups of normally distributed weights, the same in every run; shape (groups, group)."""
    count = max(64, _SAMPLE // group)
    return np.random.default_rng(20240917).standard_normal((count, group))


def _relative(weights: np.ndarray, stored: np.ndarray) -> float:
    return float(((weights - stored) ** 2).sum() / (weights**2).sum())


@lru_cache(maxsize=256)
def rounding_error(bits: float, group: int = CHANNEL, *, symmetric: bool = False) -> float:
    """Of weights rounded to the nearest of ``2**bits`` evenly spaced values between the extremes of their group.

    Parameters
    ----------
    bits
        At least 2; between whole numbers on the line of the logarithm.
    symmetric
        Whether values are spaced around 0, and not between the smallest and the largest.
    """
    if bits < 2 or group < 1:
        raise InputError("bits", bits, "at least 2 bits and groups of at least 1 weight", 4)
    low = int(bits)
    if low != bits:
        ends = [np.log(rounding_error(own, group, symmetric=symmetric)) for own in (low, low + 1)]
        return float(np.exp(ends[0] + (bits - low) * (ends[1] - ends[0])))
    weights = _weights(group)
    if symmetric:
        most = 2 ** (low - 1) - 1
        scale = np.abs(weights).max(axis=1, keepdims=True) / most
        return _relative(weights, np.clip(np.rint(weights / scale), -most, most) * scale)
    bottom, top = weights.min(axis=1, keepdims=True), weights.max(axis=1, keepdims=True)
    scale = np.maximum((top - bottom) / (2**low - 1), 1e-30)
    return _relative(weights, np.rint((weights - bottom) / scale) * scale + bottom)


@lru_cache(maxsize=16)
def float_error(name: str) -> float:
    """Of weights in ``fp8`` (e4m3, a scale of a channel), ``mxfp4`` or ``nvfp4``.

    Raises
    ------
    InputError
        For another format.
    """
    if name == "fp8":
        weights = _weights(CHANNEL)
        scaled = weights * (448 / np.abs(weights).max(axis=1, keepdims=True))
        exponent = np.maximum(np.floor(np.log2(np.maximum(np.abs(scaled), 1e-30))), -6)
        step = 2.0 ** (exponent - 3)
        return _relative(scaled, np.rint(scaled / step) * step)
    if name == "nvfp4":
        weights = _weights(16)
        return _relative(weights, _as_e2m1(weights, np.abs(weights).max(axis=1, keepdims=True) / 6))
    if name == "mxfp4":
        weights = _weights(32)
        most = np.abs(weights).max(axis=1, keepdims=True)
        return _relative(weights, _as_e2m1(weights, 2.0 ** (np.floor(np.log2(most)) - 2)))
    raise InputError("format", name, "fp8, mxfp4, nvfp4", "nvfp4")


def _as_e2m1(weights: np.ndarray, scale: np.ndarray) -> np.ndarray:
    values = np.minimum(np.abs(weights) / scale, _E2M1[-1])
    nearest = _E2M1[np.abs(values[..., None] - _E2M1).argmin(axis=-1)]
    return np.asarray(np.sign(weights) * nearest * scale)


@lru_cache(maxsize=64)
def pruning_error(share: float, block: int = 0) -> float:
    """Of weights of which the smallest are set to 0.

    Parameters
    ----------
    share
        How many, from 0 to less than 1.
    block
        Weights of a block in which so many of the smallest go (4 for ``2:4``); 0 for all of them together.
    """
    if not 0 <= share < 1:
        raise InputError("sparsity", share, "a share from 0 to less than 1", 0.5)
    weights = _weights(block or CHANNEL)
    order = np.sort(weights**2, axis=1)
    gone = round(share * order.shape[1])
    return float(order[:, :gone].sum() / order.sum())
