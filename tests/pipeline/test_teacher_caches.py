"""The cache of what a teacher says, as the stages of a recipe share it."""

import functools

import numpy as np
import pytest
import toy

from xtc_jax import pipeline
from xtc_jax.formats import load_flax
from xtc_jax.params import named_leaves
from xtc_jax.pipeline import stage as stage_module
from xtc_jax.pipeline.inputs import load_inputs
from xtc_jax.pipeline.plan import make_plans
from xtc_jax.pipeline.teacher_caches import teacher_cache
from xtc_jax.recipe.recipe import make_recipe
from xtc_jax.train import remove_teacher_cache
from xtc_jax.train.teacher_cache import Targets


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A directory with the model and the data."""
    root = tmp_path_factory.mktemp("toy")
    toy.write_model(root / "model")
    toy.write_sentiment(root / "data")
    return root


def plans_of(root, tmp_path, **changes):
    config = toy.recipe_config(root / "model", root / "data")
    for stage, values in changes.items():
        config[stage].update(values)
    recipe = make_recipe(config)
    inputs = load_inputs(recipe, lambda _: None)
    plans = make_plans(recipe, inputs, tmp_path)
    return plans, functools.partial(teacher_cache, inputs=inputs, augmented=str, workdir=tmp_path)


def test_the_batches_of_all_later_stages_with_the_same_teacher_are_counted_together(root, tmp_path):
    (teacher, reduce, quantize), cache_of = plans_of(root, tmp_path)
    assert cache_of(teacher, [reduce, quantize], budget=None) is None
    cache = cache_of(reduce, [quantize], budget=10**6)
    # 64 examples in batches of 8: 20 and 20 steps, all of which after the first 8 read what these have left.
    assert (cache.directory, cache.budget, cache.batches, cache.distinct) == (tmp_path / "teacher_cache", 10**6, 40, 8)
    assert cache_of(quantize, [], budget=None).batches == 20
    assert cache_of(quantize, [], budget=0) is None


@pytest.mark.parametrize(
    "changes", [{"batch_size": 4}, {"match": "0,1"}, {"loss": {"hidden": 0.0}}, {"teacher": "reduce"}, {"new_pairs": 9}]
)
def test_stages_that_read_other_outputs_or_in_other_batches_are_not_counted(root, tmp_path, changes):
    (_, reduce, quantize), cache_of = plans_of(root, tmp_path, quantize=changes)
    assert cache_of(reduce, [quantize], budget=None).batches == 20


def test_a_grid_counts_every_learning_rate(root, tmp_path):
    (_, reduce, quantize), cache_of = plans_of(root, tmp_path, quantize={"grid": (1e-3, 2e-3)})
    assert cache_of(reduce, [quantize], budget=None).batches == 20 + 2 * 20


@pytest.mark.slow
def test_a_recipe_ends_with_the_same_bytes_with_the_cache_and_without_reads_in_both_stages_and_leaves_nothing(
    root, tmp_path, monkeypatch
):
    read, stages = [], []
    reading, train = Targets._read, stage_module.train
    monkeypatch.setattr(Targets, "_read", lambda *a: read.append(stages[-1]) or reading(*a))
    monkeypatch.setattr(stage_module, "train", lambda run, *a: stages.append(run.label) or train(run, *a))
    for budget in ("off", "1GB"):
        config = toy.recipe_config(root / "model", root / "data")
        config.teacher_cache = budget
        pipeline.run(make_recipe(config), tmp_path / budget, lambda _: None)
        assert not (tmp_path / budget / "teacher_cache").exists()
    # One padded length: of the first stage the first epoch is computed, of the second nothing.
    assert [read.count(name) for name in ("reduce", "quantize")] == [12, 20]
    for stage in ("reduce", "quantize"):
        off, on = (load_flax(tmp_path / budget / stage / "model")[1] for budget in ("off", "1GB"))
        for name, leaf in named_leaves(off).items():
            assert np.asarray(leaf).tobytes() == np.asarray(named_leaves(on)[name]).tobytes(), name
    packed = [(tmp_path / budget / "packed" / "model.safetensors").read_bytes() for budget in ("off", "1GB")]
    assert packed[0] == packed[1]


def test_what_cannot_be_removed_is_left(tmp_path):
    remove_teacher_cache(tmp_path / "nothing")
