"""Values in config.json that change no cost: nonsense is refused, and what a model leaves out is listed."""

from __future__ import annotations

import json

import pytest
from command_line import CONFIG, plan, refused, run, simulate

from llmsim import Architecture, InputError, TrainingPlan, compare, simulate_training
from llmsim.huggingface.values import ACTIVATIONS, ROPE_TYPES
from llmsim.models import bundled_models, bundled_path

FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
TOWER = {"hidden_size": 1152, "num_heads": 16}


def config_file(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**CONFIG, **changes}), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_act": "swoosh"}, ["hidden_act: 'swoosh'", "unknown activation", "nearest: swish"]),
        ({"hidden_act": 3}, ["hidden_act: 3", "unknown activation"]),
        ({"rope_scaling": "banana"}, ["rope_scaling: 'banana'", "an object with rope_type", "yarn"]),
        ({"rope_scaling": {"rope_type": "banana"}}, ["rope_scaling.rope_type: 'banana'", "unknown scaling"]),
        ({"rope_scaling": {"type": "yarm", "factor": 4.0}}, ["rope_scaling.type: 'yarm'", "nearest: yarn"]),
        ({"rope_scaling": {"type": "yarn", "factor": -1}}, ["rope_scaling.factor: -1", "above 0"]),
        ({"rope_scaling": {"type": "yarn", "factor": "4"}}, ["rope_scaling.factor: '4'", "above 0"]),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "x"}}},
            ["rope_parameters.full_attention.rope_type: 'x'"],
        ),
    ],
)
def test_nonsense_is_refused(change, words, tmp_path):
    path = config_file(tmp_path, **change)
    for arguments in (["models", str(path)], plan(model=path), simulate(model=path)):
        message = refused(*arguments)
        for word in words:
            assert word in message
    with pytest.raises(InputError):
        Architecture.from_config({**CONFIG, **change})
    Architecture.from_config({**CONFIG, **change}, ignore=list(change))


def test_what_there_is_is_read():
    for name in ACTIVATIONS:
        Architecture.from_config({**CONFIG, "hidden_act": name})
    for name in ROPE_TYPES:
        Architecture.from_config({**CONFIG, "rope_scaling": {"rope_type": name, "factor": 8.0}})
    for value in (None, False):
        Architecture.from_config({**CONFIG, "rope_scaling": value})
    for name in bundled_models():
        assert Architecture.from_config(name).left_out == {}


def test_stored_formats_are_listed(tmp_path):
    path = config_file(tmp_path, quantization_config=FP8)
    model = Architecture.from_config(path)
    said = "quantization_config (fp8) left aside: weights are in the precision of the plan"
    assert model.parameters == Architecture.from_config(CONFIG).parameters
    step = simulate_training(TrainingPlan(sequence_length=2048, global_batch_size=8), model, "1xh100-sxm-80gb")
    assert step.assumed["stored weights"] == said
    assert said in " ".join(run("models", str(path)).split())
    assert json.loads(run("models", str(path), "--json"))["assumed"] == {"stored weights": said}
    assert said in " ".join(run(*plan(model=path)).split())
    assert compare([model], [4096]).assumed[f"{model.name}: stored weights"] == said


def test_towers_are_listed(tmp_path):
    text = json.loads(bundled_path("gemma3-12b").read_text())
    text = text.get("text_config", text)
    config = {"model_type": "gemma3", "text_config": {**text, "model_type": "gemma3_text"}, "vision_config": TOWER}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    model = Architecture.from_config(path)
    assert model.left_out == {"modalities": "the language model alone: vision_config left out"}
    assert model.assumed(4096)["modalities"].endswith("vision_config left out")
    assert "vision_config left out" in run("models", str(path))
    del config["vision_config"]
    assert Architecture.from_config(config).left_out == {}
