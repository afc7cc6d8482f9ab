"""Files are written whole or not at all; devices, pipes and links are what they are."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

from .errors import InputError

ALLOWED = "a file that can be written"


def write_whole(path: str | Path, text: str, field: str = "out") -> None:
    """Write a text file (UTF-8) under another name, then put it in place with the permissions of the one before.

    A link stays and what it points to is written. Devices and pipes are written to as they are, standard output by way
    of the stream that the rest goes to.

    Raises
    ------
    InputError
        If it cannot be written; what stood there stays.
    """
    check_writable(path, field)
    try:
        if _is_stream(path):
            sys.stdout.write(text)
            sys.stdout.flush()
        elif _is_special(path):
            with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        else:
            _replace(Path(os.path.realpath(path)), text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _refused(field, path, f"cannot be written ({error.strerror})") from None


def check_writable(path: str | Path, field: str = "out") -> None:
    """Whether a file can be written there, to be asked before the work rather than after it.

    Raises
    ------
    InputError
        For a directory, a place in no directory, and a file or a directory that may not be written.
    """
    try:
        target = Path(os.path.realpath(path))
        if not os.fspath(path):
            raise _refused(field, path, "is no name of a file")
        if os.path.isdir(path):
            raise _refused(field, path, "is a directory")
        if _is_special(path):
            return
        if not os.path.isdir(target.parent):
            raise _refused(field, path, "is in no directory that exists")
        if target.exists() and not (target.stat().st_mode & 0o222 and os.access(target, os.W_OK)):
            raise _refused(field, path, "may only be read")
        if not os.access(target.parent, os.W_OK | os.X_OK):
            raise _refused(field, path, "is in a directory that may not be written to")
    except OSError as error:
        raise _refused(field, path, f"cannot be written ({error.strerror})") from None
    except (TypeError, ValueError):  # no path at all; a zero byte in it
        raise _refused(field, path, "is no name of a file") from None


def _refused(field: str, path: object, why: str) -> InputError:
    return InputError(field, str(path) if isinstance(path, Path) else path, ALLOWED, why=why)


def _is_special(path: str | Path) -> bool:
    """A device, a pipe or a socket."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False


def _is_stream(path: str | Path) -> bool:
    """Another name of standard output."""
    with suppress(OSError, ValueError, AttributeError):
        return os.path.samestat(os.stat(path), os.fstat(sys.stdout.fileno()))
    return False


def _replace(target: Path, text: str) -> None:
    part = target.with_name(f".llmsim-{os.getpid()}-{os.urandom(4).hex()}")
    try:
        with open(part, "x", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        if target.exists():
            part.chmod(stat.S_IMODE(target.stat().st_mode))
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
