"""The index of formulas is what docstrings say."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))
from formulas import PAGE, ROOT, modules, page, references

MAIN = {
    "collective_time", "gemm_seconds", "attention_seconds", "exposed", "_ring_merges", "closed_form", "split_bound",
    "device_order", "flops_per_token", "data_parallel_messages", "in_flight", "stage_memory", "width", "log_width",
    "ShapeTable.factor", "adapted_operators", "job_cost", "roofline_seconds", "tau_b", "gradient",
}  # fmt: skip


def test_the_page_is_what_docstrings_say():
    assert PAGE.read_text(encoding="utf-8") == page(), "python tools/formulas.py --write"


def test_main_formulas_have_a_source():
    sourced = {f.name for module in modules() for f in module.formulas if f.source or module.source}
    assert sourced >= MAIN
    assert sourced == {f.name for module in modules() for f in module.formulas}


def test_every_source_in_a_section_of_references_is_listed():
    listed = {module.path for module in modules()}
    for path in (ROOT / "llmsim").rglob("*.py"):
        if path.parent.name not in ("measure", "huggingface") and "\nReferences\n-----" in path.read_text("utf-8"):
            assert path in listed, path


def test_sources_are_read_from_sections_brackets_and_text():
    assert references("Title.\n\nReferences\n----------\nA 2020,\narXiv:2001.00001.\n") == "A 2020, arXiv:2001.00001."
    assert references("Title (B 2021, arXiv:2101.00002, section 2): more.") == "B 2021, arXiv:2101.00002, section 2"
    assert references("As Galvatron, arXiv:2211.13878 says.") == "Galvatron, arXiv:2211.13878"
    assert references("A title without any.") == ""
