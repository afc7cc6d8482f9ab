"""Types of arguments in the API reference: each its own, where a docstring describes several in one entry."""

from __future__ import annotations

from typing import Any

import griffe


class OwnTypes(griffe.Extension):
    """An entry ``sequence, global_batch`` would otherwise give both the type of the first."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Go through all functions and classes of the package."""
        self._visit(pkg)

    def _visit(self, thing: Any) -> None:
        for member in thing.members.values():
            if member.is_alias:
                continue
            if member.is_function or member.is_class:
                self._mend(member)
            if member.is_module or member.is_class:
                self._visit(member)

    def _mend(self, thing: Any) -> None:
        if thing.docstring is None:
            return
        typed = thing.parameters if thing.is_function else thing.members
        for section in thing.docstring.parsed:
            if section.kind.value in ("parameters", "attributes"):
                for entry in section.value:
                    if entry.name not in typed:
                        continue
                    own = typed[entry.name]
                    if getattr(own, "annotation", None) is not None:
                        entry.annotation = own.annotation
                    if thing.is_function:
                        entry.value = own.default
