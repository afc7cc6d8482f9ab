"""What compression costs in loss: errors of formats, estimates with evidence, laws with their published figures."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from llmsim.cli import app
from llmsim.core.errors import InputError
from llmsim.quality.compress import plan_compression
from llmsim.quality.estimate import GGUF_BITS, compressed, estimate, estimate_quality
from llmsim.quality.field import FLOOR, QualityField, law
from llmsim.quality.laws import LAWS, compute_factor, repeated_loss, served_optimum, step_efficiency
from llmsim.quality.model_plan import plan_model
from llmsim.quality.published import parameters_in, point_of, published_points
from llmsim.quality.weight_error import float_error, pruning_error, rounding_error
from llmsim.scoring.validate import validate

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "validation" / "compression_quality.csv"
POINTS = published_points()
COMPENSATED = ("gptq", "gptq-r", "awq", "omniquant", "gptq (marlin)")


def test_the_table_that_ships_is_the_validated_one() -> None:
    shipped = ROOT / "hardware_profiles" / "quality" / "published.csv"
    assert shipped.read_bytes() == TABLE.read_bytes()


# ---- errors of what is stored


@pytest.mark.parametrize("group", [32, 64, 128, 4096])
def test_a_bit_more_divides_the_error_by_the_squared_step(group: int) -> None:
    for bits in (3, 4, 5, 7):
        steps = (2 ** (bits + 1) - 1) / (2**bits - 1)
        assert rounding_error(bits, group) / rounding_error(bits + 1, group) == pytest.approx(steps**2, rel=0.02)


def test_errors_grow_with_groups_and_sparsity() -> None:
    errors = [rounding_error(4, group) for group in (16, 32, 64, 128, 4096)]
    assert errors == sorted(errors)
    assert rounding_error(4, 128) < rounding_error(4, 128, symmetric=True)
    assert rounding_error(4, 128) < rounding_error(3.5, 128) < rounding_error(3, 128)
    shares = [pruning_error(share) for share in (0.0, 0.2, 0.5, 0.8)]
    assert shares == sorted(shares)
    assert shares[0] == 0
    # A block leaves less choice than all weights together.
    assert pruning_error(0.5) < pruning_error(0.5, 8) < pruning_error(0.5, 4)


def test_narrow_floating_point() -> None:
    assert float_error("fp8") < 1e-3 < float_error("nvfp4") < float_error("mxfp4")
    with pytest.raises(InputError, match="nearest: nvfp4"):
        float_error("fp2")


# ---- published points


def test_three_bits_follow_from_four() -> None:
    """Within 10 % in the median and 25 % for nine of ten, at groups of 128."""
    off = []
    for point in POINTS:
        if point.kind == "weight" and point.bits == 3 and point.group == 128:
            same = [p for p in POINTS if (p.model, p.method, p.data, p.protocol, p.group, p.bits)
                    == (point.model, point.method, point.data, point.protocol, 128, 4)]  # fmt: skip
            off += [abs(p.delta * point.error / p.error / point.delta - 1) for p in same]
    off.sort()
    assert len(off) > 20
    assert off[len(off) // 2] < 0.10
    assert off[int(0.9 * len(off))] < 0.25


def test_k_quants_follow_from_one_of_them() -> None:
    own = [p for p in POINTS if p.kind == "gguf" and p.model == "llama-2-70b"]
    known = next(p for p in own if p.bits == GGUF_BITS["q4_k_m"])
    legacy = (GGUF_BITS["q4_0"], GGUF_BITS["q5_0"])
    for point in own:
        if point.bits not in legacy and point.bits != 5.5:
            assert 0.5 < known.delta * point.error / known.error / point.delta < 1.5


def test_the_law_alone_is_within_a_factor_of_two() -> None:
    off = [law(p) - math.log(p.delta) for p in POINTS
           if p.kind == "weight" and p.fine and p.method in COMPENSATED and p.delta > 0]  # fmt: skip
    assert sum(abs(x) < math.log(2) for x in off) >= 0.75 * len(off)


def test_intervals_cover_families_that_nothing_is_known_of() -> None:
    covered = []
    for family in ("llama-1", "llama-2"):
        field = QualityField([p for p in POINTS if p.family != family])
        for point in POINTS:
            if point.family == family:
                own = field.at(point)
                covered.append(abs(math.log(max(point.delta, FLOOR)) - own.mean) <= 1.2816 * own.sd)
    assert 0.75 <= sum(covered) / len(covered) <= 0.90


def test_the_key_never_mixes_protocols_groups_or_methods() -> None:
    point = next(p for p in POINTS if p.kind == "weight" and p.group == 128)
    assert estimate(point).evidence == "table"
    assert estimate(point).delta_nats == pytest.approx(point.delta, abs=0.02)
    for change in ({"protocol": "4096-token windows of another"}, {"group": 64}, {"method": "none such"}):
        other = type(point)(**{**{f: getattr(point, f) for f in point.__dataclass_fields__}, **change})
        assert estimate(other).evidence != "table"


# ---- estimates


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["Llama-2-7B", "Llama-3.1-8B", "Qwen2.5-72B", "Mistral-7B"]), st.integers(2, 7),
       st.sampled_from(["g32", "g128", ""]))  # fmt: skip
def test_fewer_bits_never_lose_less(model: str, bits: int, group: str) -> None:
    low, high = (estimate_quality(model, f"w{n}{group}", known=[]) for n in (bits, bits + 1))
    assert low.delta_nats >= high.delta_nats
    assert low.low <= low.delta_nats <= low.high


def test_parts_add_up() -> None:
    parts = [estimate_quality("Llama-2-7B", text) for text in ("w4g128", "kv4")]
    both = estimate_quality("Llama-2-7B", "w4g128+kv4")
    assert both.delta_nats == pytest.approx(sum(own.delta_nats for own in parts))
    assert both.high == pytest.approx(sum(own.high for own in parts))
    assert estimate_quality("Llama-2-7B", "bf16").delta_nats == 0


def test_what_no_point_is_near_is_said() -> None:
    for model, text in (("Llama-3.1-405B", "w4g128"), ("Llama-2-7B", "w2g128"), ("Llama-2-7B", "svd:0.4")):
        assert not estimate_quality(model, text).in_domain
    assert estimate_quality("Llama-2-7B", "w4g128").in_domain


@pytest.mark.parametrize(
    ("model", "text", "said"),
    [("Llama-2-7B", "w9", "nearest: w4g128"), ("Llama-2-7B", "4:2", "compression"), ("gpt", "w4", "with its size"),
     ("Llama-2-7B", "prune:1.5", "compression")],
)  # fmt: skip
def test_compressions_that_are_none(model: str, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        compressed(model, text)


def test_sizes_in_names() -> None:
    assert parameters_in("LLaMA-65B") == 65e9
    assert parameters_in("SmolLM2-135M-Instruct") == 135e6


# ---- laws


def test_published_losses_of_repeated_data() -> None:
    """The two figures of the law's repository, to the last digit."""
    assert repeated_loss(6.34e9, 242e9, 25e9) == pytest.approx(2.2256440889984477, abs=1e-12)
    assert repeated_loss(8.67e9, 178e9, 25e9) == pytest.approx(2.2269634075087867, abs=1e-12)


def test_optima() -> None:
    law_ = LAWS["besiroglu"]
    parameters, tokens = law_.optimum(1e24)
    assert parameters == pytest.approx(9.586e10, rel=1e-3)
    assert tokens == pytest.approx(1.7386e12, rel=1e-3)
    assert law_.loss(parameters, tokens) == pytest.approx(1.9597, abs=1e-4)
    for own in LAWS.values():
        best, data = own.optimum(3e22)
        for factor in (0.9, 1.1):
            assert own.loss(best * factor, data / factor) > own.loss(best, data)


def test_what_a_loss_is_worth() -> None:
    found = {name: [compute_factor(delta, 1e24, law_) for delta in (0.01, 0.03, 0.05)] for name, law_ in LAWS.items()}
    assert found["besiroglu"] == pytest.approx([0.684, 0.342, 0.185], abs=1e-3)
    assert found["hoffmann"] == pytest.approx([0.737, 0.417, 0.247], abs=1e-3)
    assert found["sardana"] == pytest.approx([0.825, 0.568, 0.396], abs=1e-3)
    assert compute_factor(0.0, 1e24) == pytest.approx(1.0)


def test_serving_asks_for_smaller_models() -> None:
    law_ = LAWS["besiroglu"]
    best, data = law_.optimum(1e23)
    sizes = [served_optimum(1e23, tokens, law_) for tokens in (1e9, 1e12, 1e13)]
    assert sizes[0][0] == pytest.approx(best, rel=1e-3)
    assert sizes[0][0] > sizes[1][0] > sizes[2][0]
    for parameters, tokens in sizes:
        assert law_.loss(parameters, tokens) == pytest.approx(law_.loss(best, data), rel=1e-6)
    # First-order condition: the ratio of elasticities is one plus a third of the served over the trained tokens.
    parameters, tokens = sizes[2]
    size = law_.size_exponent * law_.size / parameters**law_.size_exponent
    text = law_.token_exponent * law_.tokens / tokens**law_.token_exponent
    assert size / text == pytest.approx(1 + 1e13 / (3 * tokens), rel=1e-3)


def test_step_efficiencies_shrink_with_the_model() -> None:
    assert step_efficiency("adamw", 1e9) == (1, 1)
    highs = [step_efficiency("muon", size)[1] for size in (1e8, 4e8, 1.2e9, 7e10)]
    assert highs == pytest.approx([1.4, 1.23, 1.1, 1.1], abs=0.01)
    with pytest.raises(InputError, match="nearest: adamw"):
        step_efficiency("newton", 1e9)


# ---- answers


def test_512_devices_for_30_days() -> None:
    found = plan_model("64x8xh100-sxm-80gb", 30)
    assert 4e10 < found.parameters < 1.2e11
    assert found.days == pytest.approx(30)
    assert found.agree >= 3
    assert 0.3 < found.mfu < 0.7
    served = plan_model("64x8xh100-sxm-80gb", 30, mfu=found.mfu, inference_tokens=1e13)
    assert served.parameters < found.parameters
    assert served.tokens > found.tokens


def test_a_large_model_on_one_device() -> None:
    found = plan_compression("llama-2-70b", "1x1xh100-sxm-80gb", input=2000, output=400, concurrency=8)
    assert found.pick is not None
    assert found.pick.quality.high <= 0.1
    by_name = {own.text: own for own in found.candidates}
    assert "do not fit" in (by_name["bf16"].reason or "")
    assert by_name["w4g128"].quality.evidence == "table"
    assert found.quantizer
    strict = plan_compression("llama-2-70b", "1x1xh100-sxm-80gb", input=2000, output=400, concurrency=8, loss_max=1e-3)
    assert strict.pick is None


def test_commands() -> None:
    run = CliRunner()
    args = ["compress", "-m", "llama-2-7b", "-c", "1x1xh100-sxm-80gb", "--input", "500", "--output", "100",
            "--concurrency", "4"]  # fmt: skip
    assert "pick" in run.invoke(app, args).stdout
    assert json.loads(run.invoke(app, [*args, "--json"]).stdout)["pick"]["text"]
    assert run.invoke(app, [*args, "--try", "w9"]).exit_code == 2
    answer = run.invoke(app, ["plan", "model", "--cluster", "2x8xh100-sxm-80gb", "--days", "3", "--mfu", "0.4"])
    assert "laws lose at most 0.01 nats" in answer.stdout
    assert run.invoke(app, ["plan", "model", "--cluster", "2x8xh100-sxm-80gb", "--days", "-3"]).exit_code == 2


def test_validation_of_losses(tmp_path: Path) -> None:
    report = validate(TABLE, progress=False)
    assert report.row_count == len(POINTS)
    assert not [row for row in report.rows if row.skipped]
    left = validate(TABLE, refit_without="family", progress=False)
    errors = [row.error for row in left.rows if row.measured]
    assert sorted(errors)[len(errors) // 2] < 0.6
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[:3]
    rows[0]["method_class"], rows[1]["model"] = "magic", "unnamed"
    own = tmp_path / "own.csv"
    with own.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    skipped = [row.skipped or "" for row in validate(own, progress=False).rows]
    assert "method_class" in skipped[0]
    assert "model" in skipped[1]
    with pytest.raises(InputError, match="family, model, method"):
        validate(own, refit_without="hardware", progress=False)
    with pytest.raises(InputError, match="method_class"):
        point_of(rows[0])
