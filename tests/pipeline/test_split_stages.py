"""Ternary weight splitting, and a chain of quantized teachers; apart from test_stages.py so that two workers share them."""

import pytest
import toy

from xtc_jax import pipeline
from xtc_jax.formats import load_flax, load_packed
from xtc_jax.recipe import make_recipe, stage_config

FEW = {"batch_size": 8, "warmup_steps": 1, "eval_every": 6, "dropout": 0.0, "steps": 6, "learning_rate": 1e-3}
TAUGHT = {**FEW, "teacher": "teacher"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("split")
    toy.write_model(root / "model")
    toy.write_sentiment(root / "data")
    return root


@pytest.fixture(scope="module")
def results(root):
    config = toy.recipe_config(root / "model", root / "data")
    config.storage = "base3.v1"
    config.teacher = stage_config(**{**FEW, "layers": "0,2", "steps": 12})
    config.ternary = stage_config(init="teacher", weight_bits=2, **TAUGHT)
    config.halves = stage_config(init="ternary", weight_bits=1, split=True, **TAUGHT)
    config.chained = stage_config(init="halves", weight_bits=1, **{**TAUGHT, "teacher": "ternary"})
    config.stages = ("teacher", "ternary", "halves", "chained")
    return pipeline.run(make_recipe(config), root / "work", lambda line: None)


@pytest.mark.slow
def test_a_split_stage_trains_two_binary_halves_of_every_ternary_weight(results, root):
    params = load_flax(root / "work" / "halves" / "model")[1]
    assert set(params["encoder"]["layer_1"]["output"]["dense"]["weight"]) == {"first", "second"}
    assert set(params["embeddings"]["word_embeddings"]["weight"]) == {"first", "second"}
    assert params["pooler"]["dense"]["weight"].shape == (32, 32)
    packed = load_packed(root / "work" / "packed").params
    halves = packed["encoder"]["layer_1"]["output"]["dense"]["weight"]
    assert [half.bits for half in halves.values()] == [1, 1]


@pytest.mark.slow
def test_the_halves_are_packed_and_answer_as_the_fake_quantized_student_does(results, root):
    assert [name for name in results if name.endswith("packed")] == ["packed"]
    assert results["packed"]["prediction_agreement"] == 1.0
    assert results["packed"]["max_logit_difference"] == 0.0
    assert results["packed"]["path"] == str(root / "work" / "packed")
