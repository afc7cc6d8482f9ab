"""Towers of other modalities, which engines load beside a language model that is published with them."""

from __future__ import annotations

TOWERS: dict[str, int] = {
    "gemma-3-4b": 419_816_304,
    "gemma3-12b": 421_290_864,
    "gemma-3-27b": 423_060_336,
    "gemma-4-26b-a4b": 572_792_112,
    "gemma-4-31b": 575_741_232,
    "ministral-3-3b": 420_083_712,
    "ministral-3-8b": 428_472_320,
    "ministral-3-14b": 438_958_080,
    "mistral-small-3.1-24b": 438_958_080,
    "qwen3.5-27b": 460_730_096,
    "qwen3.5-35b-a3b": 446_571_248,
    "qwen3.5-122b-a10b": 451_290_864,
    "qwen3.5-397b-a17b": 456_010_480,
}
"""Bundled name -> parameters of its towers and projectors, as ``transformers`` builds them from the published file.
Models that are not in here have none, or their size is not known."""


def tower_parameters(name: str) -> int:
    """Parameters of the towers of a bundled model, kept in 16 bits whatever the language model's format; 0 without."""
    return TOWERS.get(name, 0)
