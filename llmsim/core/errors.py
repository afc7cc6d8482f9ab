"""Errors that say what is wrong and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class LlmsimError(Exception):
    """Base of all errors that a user can cause; its text is complete without a traceback."""


class InputError(LlmsimError):
    """A value that cannot be used: names the field, the value, what is allowed and the nearest valid choice.

    Attributes
    ----------
    field, value, allowed, nearest
        As given; ``allowed`` and ``nearest`` are texts or None.
    """

    def __init__(self, field: str, value: Any, allowed: str | None = None, nearest: Any = None, why: str = ""):
        self.field, self.value, self.allowed, self.nearest, self.why = field, value, allowed, nearest, why
        text = f"{field}: {_shorten(value)} {why or 'is not valid'}"
        if allowed:
            text += f"; allowed: {allowed}"
        if nearest not in (None, "", [], ()):
            text += f"; nearest: {nearest if isinstance(nearest, str) else _shorten(nearest)}"
        super().__init__(text)

    def __reduce__(self) -> tuple[Any, ...]:
        """As it was made, for other processes."""
        return type(self), (self.field, self.value, self.allowed, self.nearest, self.why)


class UnsupportedError(LlmsimError):
    """Something that exists in the world and not (yet) in the model, named so that nobody takes a wrong number."""


class InfeasibleError(LlmsimError):
    """No plan fits; names the limit that was broken and by how much, and the nearest miss.

    Attributes
    ----------
    nearest, lacking_bytes
        The nearest miss, as text, and the memory that it lacks; None where that is not what is missing.
    """

    def __init__(self, text: str, nearest: str | None = None, lacking_bytes: float | None = None):
        self.text, self.nearest, self.lacking_bytes = text, nearest, lacking_bytes
        super().__init__(text)

    def __reduce__(self) -> tuple[Any, ...]:
        """As it was made, for other processes."""
        return type(self), (self.text, self.nearest, self.lacking_bytes)


def _shorten(value: Any, limit: int = 90) -> str:
    """A value as text, the middle left out where it is long: both ends of a path or a list tell what it is."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no whole number of thousands of digits
        text = f"a {type(value).__name__} too long to print"
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]}…{text[-half:]}"


def unread(error: OSError | ValueError) -> str:
    """Why a text file cannot be read: it is not there, it is no text, or its name is none."""
    if isinstance(error, OSError):
        return str(error.strerror)
    return "is not UTF-8 text" if isinstance(error, UnicodeError) else str(error)


def nearest_names(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names most like the given one, best first; never empty when something is known.

    Names that contain the given one (or the other way round) count as near, whatever their length.
    """
    known = sorted(known)
    lowered = str(name).lower()
    inside = [k for k in known if lowered and (lowered in k.lower() or k.lower() in lowered)]
    close = difflib.get_close_matches(lowered, known, n=count, cutoff=0.4)
    ranked = list(dict.fromkeys([*inside, *close])) or difflib.get_close_matches(lowered, known, n=1, cutoff=0.0)
    return ranked[:count]


def unknown_name(field: str, name: Any, known: Iterable[str]) -> InputError:
    """The error for a name that is not in a list, with the nearest names."""
    known = sorted(known)
    listing = ", ".join(known) if len(known) <= 30 else f"{len(known)} names"
    return InputError(
        field, name, allowed=listing, nearest=", ".join(nearest_names(str(name), known)), why="is unknown"
    )
