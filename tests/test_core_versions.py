"""Files of other releases are refused with what was found, what is read and the way forward."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmsim import Cluster, InputError, TrainingPlan, calibrate_with
from llmsim._version import __version__
from llmsim.core.versions import without_schema
from llmsim.hardware.fitted import fitted_path, read_fit, shipped_fit
from llmsim.hardware.own_profiles import read_device

PLAN = "sequence_length: 4096\nglobal_batch_size: 64\n"
CLUSTER = "device: h100-sxm-80gb\nnodes: 1\ndevices_per_node: 8\n"
DEVICE = "inherits: h100-sxm-80gb\n"
RUN = "model: llama-3-8b\ncluster: 1x8xh100-sxm-80gb\nplan: {sequence_length: 4096, global_batch_size: 64}\n"

FILES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "llmsim.training-plan": (TrainingPlan.from_file, PLAN, "llmsim settings"),
    "llmsim.cluster": (Cluster.parse, CLUSTER, "docs/hardware.md"),
    "llmsim.device": (read_device, DEVICE, "hardware --template"),
    "llmsim.fitted": (read_fit, "values: {}\n", "llmsim calibrate"),
    "llmsim.measured-run": (calibrate_with, RUN + "step_time_s: 2.9\n", "docs/calibration.md"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize(
    ("version", "words"), [("9", "later release"), ("0", "earlier release"), ("x", "another form")]
)
def test_a_file_of_another_release_is_refused_by_name(tmp_path: Path, kind: str, version: str, words: str) -> None:
    read, text, way = FILES[kind]
    path = tmp_path / "own.yaml"
    path.write_text(f"schema: {kind}/{version}\n{text}")
    with pytest.raises(InputError) as raised:
        read(path)
    said = str(raised.value)
    for expected in (str(path), f"{kind}/{version}", f"allowed: {kind}/1", words, __version__, way):
        assert expected in said
    assert ("upgrade llmsim" in said) == (words == "later release")


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_this_release_may_say_so_or_not(tmp_path: Path, kind: str) -> None:
    read, text, _ = FILES[kind]
    if kind == "llmsim.measured-run":
        pytest.skip("a fit to a run is a test of its own")
    said, silent = tmp_path / "said.yaml", tmp_path / "silent.yaml"
    said.write_text(f"schema: {kind}/1\n{text}")
    silent.write_text(text)
    if kind == "llmsim.device":
        assert [read(p).peak_of("bf16") for p in (said, silent)] == [read(silent).peak_of("bf16")] * 2
    else:
        assert read(said) == read(silent)


def test_a_plan_says_its_form_at_the_top_or_inside(tmp_path: Path) -> None:
    inside = "".join(f"  {line}\n" for line in PLAN.splitlines())
    path = tmp_path / "plan.yaml"
    for text in (
        f"schema: llmsim.training-plan/1\nplan:\n{inside}",
        f"plan:\n  schema_version: llmsim.training-plan/1\n{inside}",
        f"schema_version: llmsim.training-plan/1\n{PLAN}",
    ):
        path.write_text(text)
        assert TrainingPlan.from_file(path) == TrainingPlan(sequence_length=4096, global_batch_size=64)
    path.write_text(f"plan:\n  schema_version: llmsim.training-plan/2\n{inside}")
    with pytest.raises(InputError, match=r"schema_version: 'llmsim.training-plan/2' is of a later release"):
        TrainingPlan.from_file(path)


def test_a_fit_of_another_release_is_no_measured_run(tmp_path: Path) -> None:
    path = tmp_path / "fit.yaml"
    path.write_text(fitted_path().read_text(encoding="utf-8").replace("llmsim.fitted/1", "llmsim.fitted/7"))
    with pytest.raises(InputError, match=r"llmsim.fitted/7.*later release.*llmsim calibrate"):
        calibrate_with(path)
    path.write_text(fitted_path().read_text(encoding="utf-8"))
    assert calibrate_with(path) == shipped_fit()


def test_fields_are_left_as_they_are() -> None:
    data = {"schema": "llmsim.device/1", "peak": {"schema": "inside"}}
    assert without_schema(data, "llmsim.device/1", "device x", "") == {"peak": {"schema": "inside"}}
    assert "schema" in data
