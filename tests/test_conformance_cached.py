"""New tokens after cached ones against torch: prompts, chunks of them and decoding steps of each kind of layer."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")

import llmsim.layers
from llmsim.measure.cached_cells import CACHED_CELLS, CACHED_PASSES, NO_CELLS
from llmsim.measure.cells import Cell
from llmsim.measure.pairs import block_mixers

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("cell", CACHED_CELLS, ids=str)
def test_new_tokens_after_cached_ones(cell: Cell) -> None:
    assert cell.derived() == cell.executed()


def layer_modules() -> Iterator[ModuleType]:
    for found in pkgutil.iter_modules(llmsim.layers.__path__):
        yield importlib.import_module(f"llmsim.layers.{found.name}")


def test_every_mixer_has_cells() -> None:
    """A mixer takes a builder and a tensor; what else builds operators says why it has none."""
    own = [
        (name, value)
        for module in layer_modules()
        for name, value in vars(module).items()
        if inspect.isroutine(value) or inspect.isclass(value)
        if getattr(value, "__module__", "") == module.__name__
    ]
    mixers = {
        value
        for _, value in own
        if inspect.isclass(value) and "__call__" in vars(value)
        if list(inspect.signature(value.__call__).parameters) == ["self", "b", "x"]
    }
    covered = {type(mixer) for run in CACHED_PASSES.values() for mixer in block_mixers(run.spec).values()}
    assert mixers == covered
    made = {"LayerBuilder", "tuple[Operator, ...]"}
    builders = {
        name
        for name, value in own
        if not inspect.isclass(value) and not name.startswith("_")
        if inspect.signature(value).return_annotation in made or name == "logits_and_loss"
    }
    assert builders == set(NO_CELLS)
