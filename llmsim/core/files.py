"""Files are written whole or not at all."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from .errors import InputError


def write_whole(path: Path, text: str, field: str = "out") -> None:
    """Write a text file (UTF-8) under another name, then put it in place.

    Raises
    ------
    InputError
        If it cannot be written; what stood there stays.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        why = f"cannot be written ({error.strerror})"
        raise InputError(field, str(path), "a file that can be written", why=why) from None
