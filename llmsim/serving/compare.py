"""What long contexts cost: models beside each other from one sequence length to another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..architecture import Architecture, model_kinds
from ..core.arguments import listed, text, whole
from ..core.errors import InputError, UnsupportedError
from ..core.numeric import Number, total
from ..core.units import parse_length
from ..hardware.cluster import Cluster
from ..hardware.devices import is_abbreviated
from ..hardware.named import get_device
from ..timing.columns import Columns
from ..timing.conventions import CONVENTIONS, flops_per_token
from ..timing.layer_time import UnitTraffic, kind_time
from ..timing.model_rates import keyed, model_rates
from ..timing.step_constants import step_constants
from ..timing.structure import Structure
from .cache import Cache, model_cache
from .decode import decode_flops, roofline_seconds

SCHEMA = "llmsim.comparison/1"
METRICS = {
    "train_flops_per_token": "training, GFLOP per token",
    "train_s_per_token": "training, device-microseconds per token",
    "decode_flops_per_token": "decoding, GFLOP per token",
    "cache_bytes": "cache of one sequence, MiB",
    "decode_s_per_token": "decoding, least milliseconds per token",
}
LONGEST = 2**27
USABLE = 0.9
"""Share of a device's memory for weights and caches, the usual default of serving engines (vLLM)."""


@dataclass(frozen=True)
class ModelCurve:
    """One model over the sequence lengths.

    Attributes
    ----------
    name, parameters, active_parameters
        Which model.
    cache_per_token, cache_per_sequence
        Bytes that grow with the context without end, and those that do not grow at all.
    train_flops_per_token
        Forward and backward, causal half of the square.
    train_s_per_token
        Device-seconds of a forward and a backward pass over one sequence, as the kernels of one device run it.
    decode_flops_per_token, cache_bytes, decode_s_per_token
        Of the next token after so many; the time is a roofline's.
    longest_context
        Tokens of one sequence whose cache fits beside the weights; None where nothing grows.
    max_positions
        What the model was made for, None where its file does not say.
    """

    name: str
    parameters: int
    active_parameters: int
    cache_per_token: int
    cache_per_sequence: int
    train_flops_per_token: list[float]
    train_s_per_token: list[float]
    decode_flops_per_token: list[float]
    cache_bytes: list[float]
    decode_s_per_token: list[float]
    longest_context: int | None
    max_positions: int | None


@dataclass(frozen=True)
class Crossover:
    """Where one model becomes cheaper than another.

    Attributes
    ----------
    metric, first, second
        Below ``sequence`` the first is cheaper, from there on the second.
    """

    metric: str
    first: str
    second: str
    sequence: int


@dataclass(frozen=True)
class Comparison:
    """Models beside each other.

    Attributes
    ----------
    sequences
        Tokens.
    device, devices, batch
        What times and fitting refer to.
    models, crossovers
        See the classes.
    assumed
        What the caller did not say.
    """

    sequences: list[int]
    device: str
    devices: int
    batch: int
    models: list[ModelCurve]
    crossovers: list[Crossover]
    assumed: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON wants it, with schema and version."""
        return {"schema": SCHEMA, "version": __version__, **asdict(self)}


def compare(
    models: Sequence[Architecture | str | Path] | Architecture | str | Path,
    sequences: Sequence[int | str] | int | str,
    *,
    device: str | None = None,
    devices: int | None = None,
    batch: int = 1,
) -> Comparison:
    """How training, decoding and caches of models grow with the sequence.

    Parameters
    ----------
    models
        Architectures, names or paths of config.json, or one of them; two or more to cross.
    sequences
        Tokens, increasing; ``4k:1M`` doubles from the first to the last.
    device, devices
        Where caches must fit and times refer to; by default an H100, and the least power of two of them that holds the
        weights of the largest model.
    batch
        Sequences of a decoding step.

    Raises
    ------
    InputError
        For no model, a model twice, lengths that do not increase, or an unknown name.
    UnsupportedError
        For a model without a cost model.
    """
    each = listed(models, "models", "architectures, names or paths", (str, Path, Architecture))
    found = [m if isinstance(m, Architecture) else Architecture.from_config(m) for m in each]
    lengths = _lengths(sequences)
    _check(found, lengths, devices, batch)
    assumed: dict[str, str] = {"cache": "bf16, states of recurrences fp32", "weights": "bf16"}
    assumed["memory"] = f"{USABLE:.0%} of a device"
    assumed |= {f"{m.name}: {key}": text for m in found for key, text in m.left_out.items()}
    if device is None:
        device = assumed["device"] = "h100-sxm-80gb"
    profile = get_device(text(device, "device", "the name or the path of a device profile"))
    assumed |= profile.assumed()
    if is_abbreviated(device):
        assumed["device"] = f"{profile.name} ({device})"
    if devices is None:
        largest = max(m.parameters for m in found)
        devices = 2 ** max(0, math.ceil(math.log2(2 * largest / (USABLE * profile.memory_bytes.value))))
        assumed["devices"] = f"{devices} (the least power of two that holds the largest model's weights)"
    curves = [_curve(m, lengths, device, devices, batch) for m in found]
    return Comparison(
        lengths,
        profile.name,
        devices,
        batch,
        curves,
        _crossovers(found, lengths, device, devices, batch),
        assumed,
    )


def _lengths(given: Sequence[int | str] | int | str) -> list[int]:
    """Texts as a command line has them: ``4k:1M`` doubles from the first to the last; commas list lengths."""
    if not isinstance(given, str):
        each = listed(given, "sequence", "lengths, or a text such as 4k:1M", (int, float))
        return [parse_length(part, "sequence") for part in each]
    first, mark, last = given.partition(":")
    if not mark:
        return [parse_length(part, "sequence") for part in given.split(",")]
    low, high = parse_length(first, "sequence"), parse_length(last, "sequence")
    if low > high:
        raise InputError("sequence", given, "FIRST:LAST with the smaller first", f"{last}:{first}")
    found = [low]
    while found[-1] * 2 <= high:
        found.append(found[-1] * 2)
    return found


def _check(models: Sequence[Architecture], sequences: Sequence[int], devices: int | None, batch: int) -> None:
    if not models:
        raise InputError("models", "", "at least one model")
    names = [m.name for m in models]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise InputError("models", twice, "each model once")
    for model in models:
        if model.unsupported:
            raise UnsupportedError(f"{model.name}: no cost model for {model.unsupported}")
    if not sequences or any(b <= a for a, b in pairwise(sequences)) or sequences[0] < 1:
        raise InputError("sequence", list(sequences), "lengths from 1 on that increase")
    if sequences[-1] > LONGEST:
        raise InputError("sequence", sequences[-1], f"at most {LONGEST:,} tokens", LONGEST)
    for name, value in (("devices", devices), ("batch", batch)):
        if value is not None:
            whole(value, name, 1, 10**9)


def _curve(model: Architecture, sequences: list[int], device: str, devices: int, batch: int) -> ModelCurve:
    cache, profile = model_cache(model), get_device(device)
    lengths = np.asarray(sequences, dtype=np.float64)
    return ModelCurve(
        model.name,
        model.parameters,
        model.active_parameters,
        cache.per_token + cache.encoded,
        cache.per_sequence,
        [float(flops_per_token(model, s, "model-causal")) for s in sequences],
        [float(v) for v in train_seconds(model, sequences, device)],
        [float(decode_flops(model, s)) for s in sequences],
        [float(v) for v in np.broadcast_to(cache.bytes(lengths), lengths.shape)],
        [float(roofline_seconds(model, cache, s, profile, devices=devices, batch=batch)) for s in sequences],
        longest_context(model, cache, device, devices, batch),
        model.max_positions,
    )


def train_seconds(model: Architecture, sequences: Sequence[int], device: str) -> np.ndarray:
    """Device-seconds per token of a forward and a backward pass over one sequence without any parallelism, whatever
    memory that would take; shape (sequences,)."""
    cluster = Cluster(device=device, nodes=1, devices_per_node=1)
    structure = Structure("megatron-core")
    constants = step_constants(cluster, structure)
    columns = Columns(sequence=np.asarray(sequences, dtype=np.int64), micro_batch=np.ones(len(sequences), np.int64),
                      micro_batches=np.ones(len(sequences), np.int64))  # fmt: skip
    plans = keyed(columns)
    seconds: list[Number] = []
    for rates, count in zip(model_rates(model, structure, plans, constants), _counts(model), strict=True):
        time = kind_time(rates.seconds(frozenset()), UnitTraffic(), constants)
        seconds.append(count * (time.forward.seconds + time.backward.seconds))
    whole = np.broadcast_to(np.asarray(total(seconds), dtype=float), (len(plans.columns),))
    rows = np.arange(len(sequences)) if plans.rows is None else plans.rows
    return np.asarray(whole[rows] / np.asarray(sequences, dtype=float))


def _counts(model: Architecture) -> list[int]:
    """How many layers of each kind there are, in the order of the model's kinds."""
    names = list(model.kinds)
    return [model.layers.count(names[i]) if i < len(names) else 1 for i, _ in enumerate(model_kinds(model))]


def longest_context(model: Architecture, cache: Cache, device: str, devices: int, batch: int) -> int | None:
    """Tokens of each of ``batch`` sequences whose caches fit beside the weights on so many devices; None without end,
    0 where the weights alone do not fit."""
    profile = get_device(device)
    room = devices * USABLE * profile.memory_bytes.value - 2 * model.parameters
    room = room / batch - cache.per_sequence
    if room < 0:
        return 0
    low, high = 0, LONGEST
    if cache.bytes(high) - cache.per_sequence <= room:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cache.bytes(middle) - cache.per_sequence <= room else (low, middle)
    return low


def _crossovers(
    models: Sequence[Architecture], sequences: Sequence[int], device: str, devices: int, batch: int
) -> list[Crossover]:
    """Exact lengths at which the order of two models changes, for what is counted."""
    found = []
    for metric, of in _exact(device, devices, batch).items():
        for a, b in combinations(models, 2):
            signs = [np.sign(of(a, s) - of(b, s)) for s in sequences]
            for k in range(len(sequences) - 1):
                if signs[k] * signs[k + 1] < 0:
                    first, second = (a, b) if signs[k] < 0 else (b, a)
                    found.append(
                        Crossover(metric, first.name, second.name, _cross(of, first, second, *sequences[k : k + 2]))
                    )
    return found


def _exact(device: str, devices: int, batch: int) -> dict[str, Callable[[Architecture, int], float]]:
    profile = get_device(device)
    caches: dict[str, Cache] = {}

    def cache(m: Architecture) -> Cache:
        return caches.setdefault(m.name, caches.get(m.name) or model_cache(m))

    return {
        "train_flops_per_token": lambda m, s: float(flops_per_token(m, s, CONVENTIONS["model-causal"])),
        "decode_flops_per_token": lambda m, s: float(decode_flops(m, s)),
        "cache_bytes": lambda m, s: float(cache(m).bytes(s)),
        "decode_s_per_token": lambda m, s: float(
            roofline_seconds(m, cache(m), s, profile, devices=devices, batch=batch)
        ),
    }


def _cross(
    of: Callable[[Architecture, int], float], first: Architecture, second: Architecture, low: int, high: int
) -> int:
    """The least length at which the second is cheaper, by halving."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if of(second, middle) < of(first, middle) else (middle, high)
    return high
