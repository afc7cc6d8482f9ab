"""Importing the package is light, and its public names exist."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import llmsim

HEAVY = ["torch", "scipy", "sympy", "networkx", "typer", "rich", "plotly"]


def python(*arguments: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded(code: str) -> set[str]:
    """Which of the heavy packages a piece of code loads."""
    listing = f"import json, sys; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    return set(json.loads(python("-c", f"{code}\n{listing}")))


def test_import_loads_nothing_heavy():
    assert loaded("import llmsim") == set()


def test_neither_does_simulating_a_step():
    code = """
import llmsim
plan = llmsim.TrainingPlan(sequence_length=2048, global_batch_size=8)
assert llmsim.simulate_training(plan, "llama-3.2-1b", "1x1xh100-sxm-80gb").step_time_s > 0
"""
    assert loaded(code) == set()


def test_planning_loads_neither_fitting_nor_printing():
    code = """
from llmsim import plan_training
plan_training("llama-3-8b", "1x8xh100-sxm-80gb", sequence=8192, global_batch=128, tokens=1e12)
"""
    assert loaded(code) == set()


def test_the_package_itself_loads_not_even_numpy():
    assert python("-c", "import sys, llmsim; print(*{'numpy', 'pydantic', 'yaml'} & set(sys.modules))").strip() == ""


def test_every_public_name_exists():
    for name in llmsim.__all__:
        assert getattr(llmsim, name) is not None
    assert set(llmsim.__all__) == set(dir(llmsim))
    assert set(llmsim._HOMES) == set(llmsim.__all__) - {"__version__"}


def test_unknown_names_are_attribute_errors():
    assert not hasattr(llmsim, "plan_trainings")


def test_version_is_that_of_the_package():
    assert python("-m", "llmsim", "--version").strip() == f"llmsim {llmsim.__version__}"


BLOCKED = """
import sys
import tomllib
from pathlib import Path

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""


def test_all_names_are_imported_without_torch():
    code = f"""{BLOCKED}
from llmsim import *
import llmsim
assert {{name for name in llmsim.__all__ if name not in globals()}} == set()
plan = {{"sequence_length": 2048, "global_batch_size": 8}}
assert simulate_training(plan, "llama-3.2-1b", "1x1xh100").step_time_s > 0
try:
    trace(None, None)
except LlmsimError as error:
    print(error)
"""
    assert "pip install 'llmsim[torch]'" in python("-c", code)


def test_types_ship():
    root = Path(llmsim.__file__).parent
    assert (root / "py.typed").read_text() == ""
    built = tomllib.loads((root.parent / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert built["wheel"]["packages"] == ["llmsim"]
    assert "/llmsim" in built["sdist"]["include"]
