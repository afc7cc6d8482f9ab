"""Values of keys that change no cost: what they may say, and which of them say that a part of the model is left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..core.errors import InputError, nearest_names
from .keys import is_vision

ACTIVATION_KEYS = (
    "hidden_act", "hidden_activation", "activation", "activation_function", "mlp_hidden_act", "mamba_hidden_act",
    "dense_act_fn",
)  # fmt: skip
ACTIVATIONS = (
    "gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh",
    "gelu_pytorch_tanh", "geglu", "laplace", "leaky_relu", "linear", "mish", "prelu", "quick_gelu", "relu", "relu2",
    "relu6", "sigmoid", "silu", "squared_relu", "swiglu", "swish", "tanh", "xielu",
)  # fmt: skip
"""Smooth functions that transformers knows, and what released files call their gated forms."""

ROPE_KEYS = ("rope_scaling", "rope_parameters")
ROPE_TYPES = ("default", "dynamic", "linear", "llama3", "longrope", "mrope", "ntk", "proportional", "su", "yarn")
"""Ways in which rotary frequencies are scaled: they change numbers, not counts."""

STORAGE_KEYS = ("quantization_config", "compression_config", "quantization", "fp8_config")


def check_values(config: Mapping[str, Any], path: str = "") -> None:
    """Refuse an activation, or a scaling of rotary positions, that there is not.

    Raises
    ------
    InputError
        With the nearest that there is.
    """
    for key in ACTIVATION_KEYS:
        value = config.get(key)
        if value is not None and (not isinstance(value, str) or value.lower() not in ACTIVATIONS):
            near = nearest_names(str(value), ACTIVATIONS, 1)
            raise InputError(f"{path}{key}", value, ", ".join(ACTIVATIONS), near[0], why="is an unknown activation")
    for key in ROPE_KEYS:
        if config.get(key) not in (None, False):
            _check_rope(config[key], f"{path}{key}")


def _check_rope(value: Any, path: str, depth: int = 0) -> None:
    if not isinstance(value, Mapping):
        allowed = "an object with rope_type and its numbers, or null"
        raise InputError(path, value, allowed, '{"rope_type": "yarn", "factor": 4.0}')
    kind = value.get("rope_type", value.get("type"))
    if kind is not None and kind not in ROPE_TYPES:
        near = nearest_names(str(kind), ROPE_TYPES, 1)
        key = "rope_type" if "rope_type" in value else "type"
        raise InputError(f"{path}.{key}", kind, ", ".join(ROPE_TYPES), near[0], why="is an unknown scaling")
    factor = value.get("factor")
    if factor is not None and (isinstance(factor, bool) or not isinstance(factor, (int, float)) or not factor > 0):
        raise InputError(f"{path}.factor", factor, "a number above 0", 4.0)
    for key, inner in value.items():  # one set of numbers a kind of layer
        if isinstance(inner, Mapping) and depth == 0:
            _check_rope(inner, f"{path}.{key}", 1)


def left_out(config: Mapping[str, Any]) -> dict[str, str]:
    """What a configuration says and an architecture does not hold, for an answer to list."""
    found: dict[str, str] = {}
    storage = [text for _, text in _stored(config)]
    if storage:
        found["stored weights"] = f"{', '.join(storage)} left aside: weights are in the precision of the plan"
    if isinstance(config.get("text_config"), Mapping):
        towers = [key for key, value in config.items() if key.endswith("_config") and _is_tower(key, value)]
        if towers:
            found["modalities"] = f"the language model alone: {', '.join(towers)} left out"
    return found


def _stored(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    text = config.get("text_config")
    for own in (config, text if isinstance(text, Mapping) else {}):
        for key in STORAGE_KEYS:
            value = own.get(key)
            if value:
                method = value.get("quant_method") if isinstance(value, Mapping) else value
                yield key, f"{key} ({method})" if isinstance(method, str) else key


def _is_tower(key: str, value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and key != "text_config" and is_vision(key)
