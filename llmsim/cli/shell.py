"""What stands between the commands and the shell: errors in one line, statuses, streams that refuse what is printed."""

from __future__ import annotations

import codecs
import os
import sys
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper
from typing import Any

import typer
from typer.core import TyperGroup

from ..core.errors import InfeasibleError, InputError, LlmsimError, UnsupportedError
from .options import print_json

BAD_INPUT, INFEASIBLE, NO_OUTPUT = 2, 3, 1
"""Exit statuses besides 0."""

SCHEMA = "llmsim.error/1"
UsageError: Any = typer.BadParameter.__base__
"""What typer raises for an option that is unknown, missing or of the wrong type."""


class Commands(TyperGroup):
    """The commands; every failure is one line on the error stream, and with ``--json`` an object besides."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command and exit with its status."""
        words = [str(word) for word in (sys.argv[1:] if args is None else args)]
        _settle_streams()
        if not _is_terminal():
            _without_boxes(self)
        try:
            try:
                status = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
            except (LlmsimError, UsageError) as error:
                status = _failed(error, as_json="--json" in words)
            except (typer.Abort, KeyboardInterrupt):
                status = 130
            sys.stdout.flush()
        except OSError as error:
            if error.filename is not None:
                raise
            status = _unprinted(error)
        sys.exit(status if isinstance(status, int) else 0)


def _failed(error: Any, *, as_json: bool) -> int:
    """Say what is wrong; the status that it has."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return BAD_INPUT
    if isinstance(error, UsageError):
        message = " ".join(error.format_message().split())
        hint = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
        described = _described_usage(error, message)
    else:
        message, hint, described = str(error), "", _described(error)
    print(f"llmsim: {message}{hint}", file=sys.stderr)
    if as_json:
        print_json({"schema": SCHEMA, "error": described})
    return INFEASIBLE if isinstance(error, InfeasibleError) else BAD_INPUT


def _described(error: LlmsimError) -> dict[str, Any]:
    kinds = {InfeasibleError: "infeasible", UnsupportedError: "unsupported", LlmsimError: "input"}
    kind = next(name for base, name in kinds.items() if isinstance(error, base))
    found: dict[str, Any] = {"kind": kind, "message": str(error)}
    if isinstance(error, InfeasibleError):
        found |= {"nearest": error.nearest, "lacking_bytes": error.lacking_bytes}
    if isinstance(error, InputError):
        found |= {"field": error.field, "value": _plain(error.value)}
        found |= {"allowed": error.allowed, "nearest": _plain(error.nearest)}
    return found


def _described_usage(error: Any, message: str) -> dict[str, Any]:
    parameter = getattr(error, "param", None)
    field = getattr(error, "option_name", None) or (max(parameter.opts, key=len) if parameter is not None else None)
    near = next(iter(getattr(error, "possibilities", None) or ()), None)
    return {"kind": "input", "message": message, "field": field, "value": None, "allowed": None, "nearest": near}


def _plain(value: Any) -> Any:
    """A value as JSON has it, as text where JSON has nothing like it."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    with suppress(ValueError):
        return value if isinstance(value, float) and abs(value) < float("inf") else repr(value)
    return f"a {type(value).__name__} too long to print"


# --- streams --------------------------------------------------------------------------------------------------------


_ASCII = {"…": "...", "–": "-", "—": "-", "−": "-", "×": "x", "·": "*", "≤": "<=", "≥": ">=", "µ": "u", "│": "|"}


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Characters that a stream cannot print, in some that it can."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    plain = (_ASCII.get(c) or unicodedata.normalize("NFKD", c) for c in error.object[error.start : error.end])
    return "".join(c if c.isascii() else c.encode("ascii", "ignore").decode() or "?" for c in plain), error.end


codecs.register_error("llmsim.ascii", _in_ascii)


def _settle_streams() -> None:
    if sys.stdout is None:  # closed by the shell
        print("llmsim: standard output is closed", file=sys.stderr)
        sys.exit(NO_OUTPUT)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="llmsim.ascii")


def _is_terminal() -> bool:
    with suppress(AttributeError, ValueError):
        return sys.stdout.isatty()
    return False


def _without_boxes(command: Any) -> None:
    """Help in plain text: boxes as wide as a terminal are for terminals."""
    command.rich_markup_mode = None
    for own in getattr(command, "commands", {}).values():
        _without_boxes(own)


def _unprinted(error: OSError) -> int:
    """Standard output took no more: a reader that has seen enough is no news, a full disk is."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter would try again at its end
    if not isinstance(error, BrokenPipeError):
        print(f"llmsim: standard output cannot be written ({error.strerror})", file=sys.stderr)
    return NO_OUTPUT
