"""Importing the package is light, and its public names exist."""

from __future__ import annotations

import json
import subprocess
import sys

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
