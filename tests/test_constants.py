"""The registry of constants: every entry can be found wherever constants are used, and a new one is an entry."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from run_tables import row

from llmsim.calibration.doctor import doctor
from llmsim.calibration.fit import RunSet
from llmsim.calibration.runs import plan_run
from llmsim.calibration.table import MeasuredRun
from llmsim.core.errors import InputError
from llmsim.core.provenance import Quantity
from llmsim.explain.rates import change_rates, rates
from llmsim.hardware import constants, devices, software
from llmsim.hardware.cluster import Cluster
from llmsim.hardware.constants import CONSTANTS, Constant, constant_at, constants_of, moved_by_steps
from llmsim.hardware.devices import device_names
from llmsim.hardware.fitted import shipped_fit
from llmsim.hardware.kernels import FORM_CONSTANTS
from llmsim.hardware.named import get_device, get_fabric
from llmsim.hardware.network import fabric_names
from llmsim.hardware.profile_constants import gathered, stated
from llmsim.hardware.software import get_software, software_names
from llmsim.plans.training import TrainingPlan
from llmsim.timing import step_constants as timed
from llmsim.timing.step_constants import Place
from llmsim.timing.structure import Structure
from llmsim.training.simulate import simulate_training

sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))
from constants import PAGE, page

NODE = "2x8xh100-sxm-80gb"
PLAN = TrainingPlan(
    sequence_length=2048, global_batch_size=32, data_parallel=16, framework="torchtitan", sharding="zero3"
)


def test_names_and_symbols_are_unique() -> None:
    symbols = Counter(c.symbol for c in CONSTANTS.values() if c.symbol)
    assert max(symbols.values()) == 1
    assert all(name == constant.name for name, constant in CONSTANTS.items())


@pytest.mark.parametrize("name", CONSTANTS)
def test_entries_are_whole(name: str) -> None:
    constant = CONSTANTS[name]
    assert constant.meaning
    assert constant.measure
    assert constant.low < constant.high
    assert constant.width is None or constant.width > 0
    assert constant.default is None or constant.source
    assert constant.kind in ("generations", "devices", "networks", "software", "engines")


def test_profiles_state_constants_in_their_units_and_ranges() -> None:
    for name in device_names():
        device = get_device(name)
        for constant in constants_of("devices"):
            own = stated(device, constant.key)
            assert own is not None or constant.optional
            assert own is None or (own.unit == constant.unit and constant.low <= own.value <= constant.high), name
        for constant in constants_of("generations"):
            assert device.kernel_rates().constant(constant) is not None or constant.optional
    for name in fabric_names():
        for constant in constants_of("networks"):
            own = stated(get_fabric(name), constant.key)
            assert own is not None
            assert own.unit == constant.unit
            assert constant.low <= own.value <= constant.high
    for name in software_names():
        for constant in constants_of("software"):
            assert get_software(name).constant(constant, "hopper") is not None


def test_every_fitted_value_is_that_of_an_entry() -> None:
    for path, quantity in shipped_fit().values.items():
        constant = constant_at(path)
        assert constant is not None, path
        assert quantity.unit == constant.unit
        assert constant.width is not None
        assert constant.low <= quantity.value <= constant.high


def test_kernel_forms_take_what_generations_state() -> None:
    keys = {c.key for c in constants_of("generations") if "/" not in c.key}
    assert set(FORM_CONSTANTS) == keys


def test_the_page_is_what_the_registry_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python tools/constants.py --write"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"host": {"lanch_s": 1e-6}}, ["host.lanch_s", "nearest: host.launch_s"]),
        ({"contention": {"value": 0.5, "unit": "1", "provenance": "assumed"}}, ["contention: 0.5", "nearest: 1.0"]),
        ({"contention": {"value": 1.5, "unit": "s", "provenance": "assumed"}}, ["contention: unit", "nearest: 1"]),
        ({"contention": {"valu": 1.5}}, ["valu", "nearest: value"]),
        ({"contention": 3}, ["contention"]),
        ({"rates": {"in_situ": {}, "attention": {}}}, ["rates.in_situ.default", "is missing"]),
    ],
)  # fmt: skip
def test_wrong_constants_are_refused_by_name(change: dict[str, object], words: list[str]) -> None:
    data = software._resolve("torchtitan", ())
    with pytest.raises(InputError) as error:
        gathered("software", {**data, **change})
    for word in words:
        assert word in str(error.value)


@pytest.fixture
def nap(monkeypatch: pytest.MonkeyPatch) -> Iterator[Constant]:
    """A new constant, in one entry: what the host sleeps in each step; no profile states it."""
    entry = Constant(
        "software/{stack}/host/nap_s", "tau_nap", "sleep of the host in a step", "s", default=0.25,
        source="a test", width=0.5, measure="wake it up", more=False,
    )  # fmt: skip
    monkeypatch.setitem(CONSTANTS, entry.name, entry)
    caches = (constants.constant_at, software.get_software, timed._shipped, devices.bundled_device)
    for cache in caches:
        cache.cache_clear()
    yield entry
    monkeypatch.undo()
    for cache in caches:
        cache.cache_clear()


def test_a_new_constant_is_one_entry(nap: Constant) -> None:
    """Found in profile, overlay, fit, doctor, explain and docs."""
    profile = get_software("torchtitan")
    quantity = profile.constant(nap)
    assert quantity == Quantity(value=0.25, unit="s", provenance="assumed", source="a test")

    cluster, structure = Cluster.parse(NODE), Structure("torchtitan")
    path = Place(cluster, profile).path(nap)
    assert path == "software/torchtitan/host/nap_s"
    assert timed.step_constants(cluster, structure).stack["host/nap_s"] == 0.25
    own = Quantity(value=0.5, unit="s", provenance="fitted", source="own runs", error=0.1)
    fit = shipped_fit().model_copy(update={"values": {**shipped_fit().values, path: own}})
    assert timed.step_constants(cluster, structure, fit).stack["host/nap_s"] == 0.5

    assert nap in moved_by_steps()
    item = plan_run(MeasuredRun(2, {k: str(v) for k, v in row(framework="torchtitan").items()}))
    runs = RunSet.prepare([item])
    assert path in runs.layout.paths
    assert runs.layout.prior[runs.layout.paths.index(path)] == pytest.approx(np.log(0.25))

    assert rates()["tau_nap"] is nap
    changed = change_rates(
        timed.step_constants(cluster, structure), lambda symbol, value: 2 * value if symbol == "tau_nap" else value
    )
    assert changed.stack["host/nap_s"] == 0.5
    assert f"| `{nap.name}` | `tau_nap` | {nap.meaning} | s |" in page()


def test_what_composition_uses_of_a_new_constant_moves_the_step(nap: Constant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Composed with the fixed time of a step, doctor and explain name it without being told."""
    plain = timed.movable_rates

    def slept(*arguments: object) -> dict[str, object]:
        found = plain(*arguments)  # type: ignore[arg-type]
        stack = found["stack"]
        return {**found, "stack": {**stack, "host/step_s": stack["host/step_s"] + stack["host/nap_s"]}}

    before = simulate_training(PLAN, "llama-3-8b", NODE).step_time_s
    monkeypatch.setattr(timed, "movable_rates", slept)
    timed._shipped.cache_clear()
    assert simulate_training(PLAN, "llama-3-8b", NODE).step_time_s == pytest.approx(before + 0.25)
    diagnosis = doctor(PLAN, "llama-3-8b", NODE)
    found = next(own for own in diagnosis.constants if own.path == "software/torchtitan/host/nap_s")
    assert (found.value, found.unit, found.log_error, found.advice) == (0.25, "s", 0.5, "wake it up")
    assert found.elasticity > 0
