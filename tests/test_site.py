"""The site has every public name once, and links that lead somewhere."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import llmsim

sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))
from documents import DOCUMENTS
from site_pages import GROUPS, LINK, ROOT, groups, linked, place, reference, rewritten


def test_every_public_name_is_in_one_group_and_has_a_docstring():
    names = [name for own in groups().values() for name in own]
    assert sorted(names) == sorted(name for name in llmsim.__all__ if not name.startswith("__"))
    assert all(getattr(llmsim, name).__doc__ for name in names)


def test_groups_are_told_apart_by_what_names_are():
    found = groups()
    assert {"plan_training", "compare"} <= set(found["verbs"])
    assert {"Architecture", "Cluster", "TrainingPlan", "SearchSpace"} <= set(found["objects"])
    assert {"TrainingPlanning", "TrainingResult", "Comparison"} <= set(found["results"])
    assert {"InputError", "LlmsimError"} <= set(found["errors"])
    assert all(f"::: llmsim.{name}" in reference(group) for group in GROUPS for name in found[group])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(path):
    for match in LINK.finditer(path.read_text(encoding="utf-8")):
        assert (path.parent / match["target"]).exists(), match["target"]


def test_files_outside_the_folder_have_pages():
    pages = linked()
    assert ROOT / "CHANGELOG.md" in pages
    assert place(ROOT / "llmsim" / "core" / "units.py") == "source/llmsim/core/units.py.md"
    text = rewritten(ROOT / "docs" / "tutorials" / "x.md", "[a](../search.md#the-proof) [b](../../README.md)")
    assert text == "[a](../search.md#the-proof) [b](../source/README.md)"
