"""From a path or a name to the contents of a config.json."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from ..core.errors import InputError, nearest_names
from ..models import bundled_models, bundled_path

LARGEST_FILE = 16 * 2**20


def find_config(
    source: str | PathLike[str], search: Sequence[str | PathLike[str]] | str | PathLike[str]
) -> tuple[Path, str]:
    """The file that a path or a name stands for, and the name of the model.

    A file in a search directory comes first, then an existing path, then a bundled model.

    Raises
    ------
    InputError
        For a name that nothing answers to, with the nearest ones, and for a directory without a config.json.
    """
    if not isinstance(source, (str, PathLike)):
        raise InputError("model", source, "a path, a name or a mapping")
    text = os.fsdecode(source)
    folders = [search] if isinstance(search, (str, PathLike)) else list(search)
    for directory in folders:
        for path in (Path(directory, "architectures", f"{text}.json"), Path(directory, f"{text}.json")):
            if text and os.path.isfile(path):
                return path, text
    bundled = bundled_path(text)
    if text and os.path.isdir(text):
        inside = Path(text, "config.json")
        if os.path.isfile(inside):
            return inside, Path(text).resolve().name
        if bundled is None:
            raise InputError("model", text, "a directory with a config.json", why="is a directory without one")
    elif os.path.isfile(text):
        return Path(text), Path(text).parent.resolve().name if Path(text).name == "config.json" else Path(text).stem
    elif text and os.path.exists(text):
        raise InputError("model", text, "a file or a directory", why="is neither")
    if bundled is not None:
        return bundled, bundled.stem
    beside = [p.stem for d in folders for p in (*Path(d, "architectures").glob("*.json"), *Path(d).glob("*.json"))]
    near = ", ".join(nearest_names(text.removesuffix(".json").split("/")[-1], {*bundled_models(), *beside}))
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text) and not text.endswith(".json") and not os.path.isdir(text.split("/")[0]):
        raise InputError("model", text, _of_the_hub(text), near, "is a hub id that is not bundled")
    why = "does not exist" if text.endswith(".json") else "is neither a file nor a known model"
    raise InputError("model", text, "a path, or a bundled name (bundled_models(), or llmsim models)", near, why)


def _of_the_hub(name: str) -> str:
    """Where the configuration of a model comes from that nobody bundled; nothing here uses a network."""
    return (
        f"the path of its config.json, which `hf download {name} config.json` fetches and prints (or take it from "
        f"https://huggingface.co/{name}/resolve/main/config.json)"
    )


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises
    ------
    InputError
        For a file that cannot be read or is not one JSON object, with the line and column; and for a key that occurs
        twice.
    """
    where = str(path)
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise InputError("model", where, f"a file of at most {LARGEST_FILE >> 20} MiB", why="is too large")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError("model", where, "a readable file", why=f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError("model", where, "a text file in UTF-8", why=f"has a wrong byte at {error.start}") from None
    try:
        data = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        why = f"is no JSON: line {error.lineno}, column {error.colno}: {error.msg}" if text.strip() else "is empty"
        raise InputError("model", where, "a JSON object", why=why) from None
    except InputError as error:
        raise InputError("model", where, "each key once", why=f"has the key {error.value!r} twice") from None
    except (ValueError, RecursionError) as error:
        raise InputError("model", where, "a JSON object", why=f"is no JSON: {error}") from None
    if not isinstance(data, dict):
        raise InputError("model", where, "a JSON object", why=f"holds {type(data).__name__}, not an object")
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise InputError("key", key)
        result[key] = value
    return result
