"""Fitted kernels: every file says what it rests on, a refit gives the same file, broken ones are named."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest

from llmsim.calibration.kernels import silicon
from llmsim.calibration.kernels.__main__ import PUBLISHED, published_texts
from llmsim.calibration.kernels.errors import errors_by_device, errors_of_device
from llmsim.calibration.kernels.families import GEMM
from llmsim.calibration.kernels.fitting import Machine, fit_form, fold_numbers
from llmsim.calibration.kernels.published import published_tables
from llmsim.calibration.kernels.rates import FEEDS, rated, rates_text
from llmsim.calibration.kernels.write import fit_tables, fits_text, undated, write_fits
from llmsim.core.errors import InputError
from llmsim.hardware.constants import constant_at
from llmsim.hardware.devices import bundled_device, device_names
from llmsim.hardware.kernel_fits import (
    SOURCES,
    fitted_devices,
    kernel_fit,
    kernel_fits,
    kernels_root,
    read_kernel_fits,
)
from llmsim.hardware.kernel_rates import fitted_rates, rates_path, read_rates
from llmsim.hardware.profiles import profiles_root
from llmsim.hardware.residuals import REACH, Residual, read_residual, residual_text

TABLES = profiles_root().parent / "validation" / "kernels_and_networks.csv"
FILES = [(source, device) for source in SOURCES for device in fitted_devices(source)]


@pytest.fixture(scope="module")
def few_points() -> Residual:
    """Points on a grid of m and n, slower towards large m."""
    m, n = np.meshgrid(np.arange(4.0, 12), np.arange(4.0, 12))
    points = np.stack([m.ravel(), n.ravel()], axis=1)
    return Residual(("m", "n"), points, 0.05 * (points[:, 0] - 8), np.full(len(points), 0.03))


def test_residuals_give_near_points_what_was_measured_there(few_points: Residual) -> None:
    m, n = 2.0**few_points.points.T
    assert few_points.log_factor(m=m, n=n) == pytest.approx(few_points.log_slower, abs=0.05)
    one = Residual(("m",), np.array([[10.0]]), np.array([0.2]), np.array([0.05]))
    assert one.log_factor(m=1024.0) == pytest.approx(0.2)
    assert one.log_factor(m=1024.0 * 2 ** (REACH / 2)) == pytest.approx(0.2)
    assert one.factor(m=1024.0) == pytest.approx(np.exp(0.2))


def test_residuals_say_nothing_away_from_all_points(few_points: Residual) -> None:
    near, far = {"m": 2.0**8, "n": 2.0**8}, {"m": 2.0 ** (11 + REACH), "n": 2.0**8}
    assert few_points.factor(**far) == 1.0
    assert few_points.error(0.2, **far) == pytest.approx(0.2)
    assert few_points.error(0.2, **near) == pytest.approx(0.03)
    between = few_points.error(0.2, m=2.0 ** (11 + 0.75 * REACH), n=2.0**8)
    assert 0.03 < between < 0.2


def test_residuals_take_arrays_and_fade_without_a_step(few_points: Residual) -> None:
    m = 2.0 ** np.linspace(3, 14, 2001)
    many = few_points.log_factor(m=m, n=256.0)
    assert many[::100] == pytest.approx([float(few_points.log_factor(m=v, n=256.0)) for v in m[::100]])
    beyond = many[m > 2.0**11]
    assert np.abs(np.diff(beyond)).max() < 0.01
    assert beyond[-1] == 0


def test_residuals_come_back_from_their_text(few_points: Residual) -> None:
    again = read_residual(residual_text(few_points))
    assert again.columns == few_points.columns
    assert again.points == pytest.approx(few_points.points, abs=0.02)
    assert again.log_slower == pytest.approx(few_points.log_slower, abs=0.0051)
    assert again.spread == pytest.approx(few_points.spread, abs=0.0026)
    assert residual_text(again) == residual_text(few_points)


@pytest.mark.parametrize(
    "text", ["", "m 0 1", "m 0 1 !!!!", f"m 0 1 {base64.b64encode(b'1234').decode()}", "m zero 1 AAAA", "AAAA"]
)
def test_texts_that_hold_no_residual_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="residual"):
        read_residual(text)


@pytest.mark.parametrize(("source", "device"), FILES)
def test_fits_say_what_they_rest_on(source: str, device: str) -> None:
    fits = kernel_fits(device, source)
    assert fits is not None
    assert fits.device == device
    assert device in device_names()
    assert fits.source
    assert fits.date[:2] == "20"
    names = [(f.family, f.library, f.format, f.variant, f.release) for f in fits.fits]
    assert len(set(names)) == len(names)
    for fit in fits.fits:
        assert fit.points >= fit.shapes >= 1
        assert fit.spread >= 0
        assert fit.file
        assert len(fit.sha256) == 16
        assert int(fit.sha256, 16) >= 0
        assert 0 < fit.form.median <= fit.form.p90
        assert fit.form.mean > 0
        assert all(c.value > 0 and c.unit for c in fit.constants.values())
        assert all(c.value <= 1 for name, c in fit.constants.items() if name.endswith("efficiency"))
        assert (fit.interpolated is None) == (fit.form_and_residual is None)
        assert fit.form_and_residual is None or fit.form_and_residual.median <= fit.form.median


def test_fits_are_found_by_what_they_are_of() -> None:
    assert kernel_fit("h100-sxm-80gb", "gemm", "vllm", "bf16") is not None
    assert kernel_fit("h100-sxm-80gb", "gemm", "vllm", "nvfp4") is None
    assert kernel_fits("tpu-v4", "silicon") is None
    assert {source for source, _ in FILES} == set(SOURCES)


def test_published_tables_give_the_committed_files_again() -> None:
    texts = dict(published_texts(TABLES, ""))
    assert sorted(texts) == fitted_devices("published")
    for device, text in texts.items():
        committed = (kernels_root() / "published" / f"{device}.yaml").read_text(encoding="utf-8")
        assert undated(text) == undated(committed), f"{device}: make fit"


def test_slower_kernels_give_other_constants() -> None:
    table = next(t for t in published_tables(TABLES) if t.device == "a100-pcie-80gb" and t.family.name == "gemm")
    device = bundled_device(table.device)
    machine = Machine(device.peak_of("bf16"), device.memory_bandwidth.value, device.compute_units)
    own, slower = (fit_form(table.family, table.sizes, s, machine) for s in (table.seconds, 1.5 * table.seconds))
    assert slower.values["gemm_efficiency"] < 0.8 * own.values["gemm_efficiency"]


def test_planted_constants_are_found_from_shapes_that_were_seen() -> None:
    machine = Machine(1e15, 3e12, 132)
    rng = np.random.default_rng(5)
    m, n, k = (2.0 ** rng.uniform(5, 14, 400) for _ in range(3))
    sizes = {"m": m, "n": n, "k": k} | {name: np.full(400, 2.0) for name in ("weight_bytes", "operand_bytes")}
    sizes["output_bytes"] = np.full(400, 2.0)
    truth = {"gemm_efficiency": 0.7, "memory_efficiency": 0.8, "kernel_latency_s": 4e-6, "tile_half_area": 2000.0,
             "depth_overhead": 200.0, "sharpness": 4.0, "split_cost_s": 1e-6}  # fmt: skip
    fit = fit_form(GEMM, sizes, GEMM.form(sizes, truth, machine) * np.exp(rng.normal(0, 0.02, 400)), machine)
    for name in ("gemm_efficiency", "memory_efficiency", "kernel_latency_s"):
        assert fit.values[name] == pytest.approx(truth[name], rel=0.05)
        assert fit.errors[name] < 0.05
    assert fit.form_errors.median < 0.025
    assert fit.spread == pytest.approx(0.02, rel=0.2)


def test_shapes_are_withheld_as_a_whole() -> None:
    sizes = {"m": np.arange(90.0), "n": np.repeat(np.arange(30.0), 3), "k": np.repeat(np.arange(15.0), 6)}
    folds = fold_numbers(GEMM, sizes, np.random.default_rng(0))
    for shape in range(30):
        assert len(set(folds[sizes["n"] == shape])) == 1
    assert set(folds) == {0, 1, 2}


def test_files_stay_as_they_are_but_for_a_later_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmsim.calibration.kernels.write.kernels_root", lambda: tmp_path)
    (tmp_path / "published").mkdir()
    own = [t for t in published_tables(TABLES) if t.device == "h800-sxm-80gb"]
    fits = fit_tables(own)
    first = fits_text("h800-sxm-80gb", fits, PUBLISHED, "2026-01-01")
    path, written = write_fits("published", "h800-sxm-80gb", first)
    assert written
    later = fits_text("h800-sxm-80gb", fits, PUBLISHED, "2027-01-01")
    assert write_fits("published", "h800-sxm-80gb", later) == (path, False)
    assert path.read_text() == first
    assert write_fits("published", "h800-sxm-80gb", later.replace("points: ", "points: 1")) == (path, True)


def test_rates_are_what_the_committed_fits_feed() -> None:
    assert rates_path().read_text(encoding="utf-8") == rates_text()
    for feed in FEEDS:
        own = rated(feed)
        assert set(own) == {f"{feed.into}/{key}" for key in feed.constants.values()}
        for path, quantity in own.items():
            constant = constant_at(path.replace(feed.into, f"generations/{path.split('/')[1]}"))
            assert constant is not None
            assert constant.unit == quantity.unit
            assert f"kernels/{feed.source}/{feed.device}" in quantity.source
            kind, name = feed.into.split("/")
            assert fitted_rates(kind, name)[path.removeprefix(f"{feed.into}/")] == quantity


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("llmsim.kernel-fits/1", "llmsim.kernel-fits/2", ["schema", "llmsim.kernel-fits/1", "later release"]),
        ("llmsim.kernel-fits/1", "llmsim.device/1", ["schema", "another form"]),
        ("spread: 0.0694", "spred: 0.0694", ["fits.0.spred", "nearest: spread"]),
        ("points: 183", "points: many", ["fits.0.points", "many"]),
        ("error: 0.0284", "error: -1", ["fits.0.constants.gemm_efficiency.error", "-1"]),
        ("value: 0.79032", "value: .nan", ["fits.0.constants.gemm_efficiency.value"]),
        ("shapes: 108", "shapes: 108\n    residual: m 0 1", ["fits.0.residual", "base 64"]),
        ("shapes: 108", "shapes: [108", ["is broken at line"]),
        ("device: a100-pcie-80gb\n", "", ["device", "is missing"]),
    ],
)
def test_broken_files_are_refused_with_field_and_file(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    text = (kernels_root() / "published" / "a100-pcie-80gb.yaml").read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError) as error:
        read_kernel_fits(path)
    for word in (*words, str(path)):
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("schema: llmsim.kernel-rates/9\nvalues: {}\n", ["schema", "later release"]),
        ("values: {a: {value: x, provenance: fitted, source: y}}\n", ["values.a.value"]),
        ("values: {a: {value: 1, provenance: fitted}}\n", ["values.a", "needs a source"]),
        ("value: {}\n", ["value", "nearest: values"]),
    ],
)
def test_broken_rates_are_refused_with_field_and_file(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "rates.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_rates(path)
    for word in (*words, str(path)):
        assert word in str(error.value)


def test_tables_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"absent\.csv"):
        published_tables(tmp_path / "absent.csv")
    monkeypatch.setattr(silicon, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"llmsim\[silicon\]"):
        silicon.root()


def test_the_page_shows_every_fit_of_a_product_and_of_attention() -> None:
    page = (profiles_root().parent / "docs" / "kernels.md").read_text(encoding="utf-8")
    shown = {" ".join(line.split()) for line in page.splitlines()}
    tables = [errors_by_device("silicon", family) for family in ("gemm", "experts", "prefill", "decode", "quantise")]
    tables += [errors_of_device("published", name, ("gemm", "grouped", "attention")) for name in ("b200-sxm-180gb",)]
    for table in tables:
        lines = [" ".join(line.split()) for line in table.splitlines()]
        assert len(lines) > 3
        assert [line for line in lines if line not in shown] == [], "python tools/documents.py --write"
