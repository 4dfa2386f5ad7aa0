"""What stages of a recipe can be, beyond teacher, reduction and quantization: one toy run that has them all, and refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest
import toy
from ml_collections import ConfigDict
from tokenizers import Tokenizer, models

from xtc_jax import pipeline
from xtc_jax.errors import UserError
from xtc_jax.formats import copy_tokenizer, load_flax, load_packed, save_huggingface
from xtc_jax.pipeline.inputs import load_inputs
from xtc_jax.pipeline.plan import make_plans, teacher_map
from xtc_jax.recipe.recipe import make_recipe
from xtc_jax.recipe.schema import add_phases, stage_config

NARROW = replace(toy.FULL_SIZE, hidden_size=16, num_hidden_layers=1, intermediate_size=32)
FEW = {"batch_size": 8, "warmup_steps": 1, "eval_every": 6, "dropout": 0.0, "steps": 6, "learning_rate": 1e-3}
TAUGHT = {**FEW, "teacher": "teacher"}


def write_narrow(root):
    """A student of half the width, with the toy vocabulary."""
    save_huggingface(root / "narrow", NARROW, toy.params(NARROW, seed=3))
    copy_tokenizer(root / "model", root / "narrow")
    return root / "narrow"


def all_kinds(root) -> ConfigDict:
    config = toy.recipe_config(root / "model", root / "data")
    config.storage = "base3.v1"
    config.teacher = stage_config(**{**FEW, "layers": "0,2", "steps": 12})
    config.gridded = stage_config(init="teacher", weight_bits=1, **{**TAUGHT, "grid": (1e-9, 2e-3)})
    config.falling = stage_config(init="teacher", weight_bits=1, bit_schedule="8@2>1@4", activation_range="static", **TAUGHT)
    phases = [(("attention", "hidden"), (1, 0.5), 3, 1e-3), (("logit", "label"), (1, 1), 3, 5e-4)]
    shared = {key: value for key, value in TAUGHT.items() if key not in ("steps", "learning_rate")}
    grouped = {"weight_bits": 4, "quantizer": "asymmetric", "granularity": "16", "stochastic": True}
    two = add_phases(config, "two", phases, init="teacher", result="two stages", **grouped, **shared)
    config.narrow = stage_config(model=str(write_narrow(root)), weight_bits=2, loss={"attention": 0.0}, **TAUGHT)
    config.stages = ("teacher", "gridded", "falling", *two, "narrow")
    return config


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("stages")
    toy.write_model(root / "model")
    toy.write_sentiment(root / "data")
    return root


@pytest.fixture(scope="module")
def results(root):
    return pipeline.run(make_recipe(all_kinds(root)), root / "work", lambda line: None)


@pytest.mark.slow
def test_every_quantized_stage_that_nothing_starts_from_is_packed(results, root):
    packed = [name for name in results if name.endswith("packed")]
    assert packed == ["gridded packed", "falling packed", "two stages packed", "packed"]
    for name in packed:
        assert results[name]["prediction_agreement"] == 1.0
        assert results[name]["max_logit_difference"] == 0.0
    assert results["packed"]["path"] == str(root / "work" / "packed")
    assert results["falling packed"]["path"] == str(root / "work" / "packed-falling")


@pytest.mark.slow
def test_a_grid_keeps_the_learning_rate_with_the_best_metric_and_shows_all(results, root):
    grid = results["gridded"]["grid"]
    assert list(grid) == ["1e-09", "0.002"]
    best = max(grid, key=lambda rate: grid[rate]["accuracy"])
    assert (f"{results['gridded']['learning_rate']:g}", results["gridded"]["metrics"]) == (best, grid[best])
    assert sorted(path.name for path in (root / "work" / "gridded").glob("learning_rate_*")) == [
        "learning_rate_0.002",
        "learning_rate_1e-09",
    ]
    assert list((root / "work" / "gridded").glob("*/checkpoints")) == []


@pytest.mark.slow
def test_running_input_ranges_are_trained_saved_and_packed(results, root):
    params = load_flax(root / "work" / "falling" / "model")[1]
    low, high = params["encoder"]["layer_0"]["intermediate"]["dense"]["input_range"]
    assert low < 0 < high
    packed = load_packed(root / "work" / "packed-falling")
    assert packed.params["encoder"]["layer_0"]["intermediate"]["dense"]["weight"].activation.range == "static"
    np.testing.assert_array_equal(packed.params["encoder"]["layer_0"]["intermediate"]["dense"]["input_range"], [low, high])


@pytest.mark.slow
def test_phases_are_stages_one_after_another(results, root):
    first = json.loads((root / "work" / "two_1" / "config.json").read_text())
    assert first["two_1"]["loss"] | {"attention": 1.0, "hidden": 0.5, "logit": 0.0, "label": 0.0} == first["two_1"]["loss"]
    assert [results[name]["steps"] for name in ("two_1", "two stages")] == [3, 3]
    records = [json.loads(line) for line in (root / "work" / "two_1" / "metrics.jsonl").read_text().splitlines()]
    assert {"attention", "hidden"} <= records[0].keys()
    assert not {"logit", "label"} & records[0].keys()


@pytest.mark.slow
def test_a_student_of_another_width_learns_through_a_projection_that_is_not_saved(results, root):
    config, params = load_flax(root / "work" / "narrow" / "model")
    assert (config.hidden_size, sorted(params)) == (16, ["classifier", "embeddings", "encoder", "pooler"])
    records = (root / "work" / "narrow" / "metrics.jsonl").read_text()
    assert '"hidden"' in records
    assert '"attention"' not in records


@pytest.mark.slow
def test_a_second_run_finds_everything_done(results, root, monkeypatch):
    monkeypatch.setattr("xtc_jax.pipeline.stage.train", None)
    assert pipeline.run(make_recipe(all_kinds(root)), root / "work", lambda line: None) == results


@pytest.mark.slow
def test_packed_files_lie_in_the_layout_asked_for_and_another_one_is_refused(results, root):
    packed = json.loads((root / "work" / "packed" / "config.json").read_text())
    assert packed["quantization"]["layout"] == "base3.v1"
    config = all_kinds(root)
    config.storage = "planes256.v1"
    with pytest.raises(UserError, match=r"packed-gridded: was packed from .* or not in layout planes256\.v1; use another"):
        pipeline.run(make_recipe(config), root / "work", lambda line: None)


def map_of(config, name, root):
    recipe = make_recipe(config)
    inputs = load_inputs(recipe, lambda line: None)
    plans = make_plans(recipe, inputs, root / "nowhere")
    plan = next(plan for plan in plans if plan.stage.name == name)
    return teacher_map(plan, plan.teacher).teacher_layers


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ({"init": "whole", "layers": "1,3"}, "whole", (1, 3)),
        ({"layers": "1,3"}, "whole", (1, 3)),  # both come from the checkpoint
        ({"init": "half", "layers": "1"}, "whole", (3,)),  # layer 1 of 1, 3
        ({"layers": "3"}, "half", (1,)),  # layer 3 is the second of 1, 3
        ({"layers": "0,2"}, "half", (0, 1)),  # layers that the teacher has not: evenly spread
        ({"layers": "1,3", "match": "0,1"}, "whole", (0, 1)),
        ({"layers": "1,3", "match": "last(2)"}, "whole", (2, 3)),
    ],
)
def test_student_layers_are_compared_with_the_layers_they_come_from(root, student, teacher, expected):
    config = toy.recipe_config(root / "model", root / "data")
    config.whole = stage_config(**FEW)
    config.half = stage_config(init="whole", layers="1,3", **FEW)
    config.student = stage_config(**{**FEW, **student, "teacher": teacher})
    config.stages = ("whole", "half", "student")
    assert map_of(config, "student", root) == expected


def test_a_student_of_another_model_is_compared_with_evenly_spread_layers(root):
    config = toy.recipe_config(root / "model", root / "data")
    config.student = stage_config(model=str(write_narrow(root)), loss={"attention": 0.0}, **TAUGHT)
    config.stages = ("teacher", "student")
    assert map_of(config, "student", root) == (2,)


def refused(config, root):
    with pytest.raises(UserError) as error:
        pipeline.run(make_recipe(config), root / "nowhere", lambda line: None)
    assert not (root / "nowhere").exists()
    return str(error.value)


def test_attention_of_other_heads_cannot_be_compared(root):
    few_heads = replace(NARROW, num_attention_heads=2)
    save_huggingface(root / "heads", few_heads, toy.params(few_heads))
    copy_tokenizer(root / "model", root / "heads")
    config = toy.recipe_config(root / "model", root / "data")
    config.student = stage_config(model=str(root / "heads"), **TAUGHT)
    config.stages = ("teacher", "student")
    assert refused(config, root) == (
        "config.student: its 2 attention heads cannot be compared with the 4 of 'teacher'; set config.student.loss.attention=0"
    )


def test_teacher_and_student_must_share_a_vocabulary(root):
    save_huggingface(root / "other", NARROW, toy.params(NARROW))
    words = {word: i for i, word in enumerate([*toy.VOCABULARY[:-1], "other"])}
    Tokenizer(models.WordPiece(words, unk_token="[UNK]")).save(str(root / "other" / "tokenizer.json"))
    config = toy.recipe_config(root / "model", root / "data")
    config.student = stage_config(model=str(root / "other"), **TAUGHT)
    config.stages = ("teacher", "student")
    assert refused(config, root) == (
        f"config: models {root / 'model'} and {root / 'other'} have different vocabularies; teacher and student must share one"
    )
