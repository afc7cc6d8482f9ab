"""The files of the bundled models, by name and by hub id."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from .hub_ids import HUB_IDS

_FOLDER = Path(__file__).parent


def bundled_models() -> list[str]:
    """The names of the bundled models, sorted."""
    return sorted(bundled_names())


def bundled_path(name: str) -> Path | None:
    """The file of a bundled model by its name, its hub id with or without the organisation, in any case; None for
    anything else."""
    wanted = name.lower()
    found = wanted if wanted in bundled_names() else aliases().get(wanted)
    return _FOLDER / f"{found}.json" if found else None


@lru_cache(maxsize=1)
def bundled_names() -> frozenset[str]:
    """The names of the bundled models."""
    return frozenset(path.stem for path in _FOLDER.glob("*.json"))


@lru_cache(maxsize=1)
def aliases() -> dict[str, str]:
    """Every hub id, with and without its organisation, in lower case -> bundled name."""
    full = {spelling.lower(): name for name, spellings in HUB_IDS.items() for spelling in spellings}
    return {**{spelling.rpartition("/")[2]: name for spelling, name in full.items()}, **full}
