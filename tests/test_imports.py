"""What is loaded when: heavy libraries only by the commands that need them."""

import subprocess
import sys

PLAN = """
import sys
from llmsim import plan_training
plan_training("llama-3-8b", "1x8xh100-sxm-80gb", sequence=8192, global_batch=128, tokens=1e12)
print(*sorted({"scipy", "torch", "sympy", "rich", "typer"} & set(sys.modules)))
"""


def loaded(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_planning_loads_neither_fitting_nor_printing():
    assert loaded(PLAN) == ""


def test_the_package_itself_loads_nothing():
    assert loaded("import sys, llmsim; print(*sorted({'numpy', 'pydantic', 'yaml'} & set(sys.modules)))") == ""
