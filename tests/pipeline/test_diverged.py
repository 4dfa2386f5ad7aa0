"""Learning rates at which training diverges: one of a grid is named and not taken, a stage of nothing else is refused."""

import json

import numpy as np
import pytest
import toy

from xtc_jax import pipeline
from xtc_jax.errors import UserError
from xtc_jax.recipe.recipe import make_recipe
from xtc_jax.recipe.schema import stage_config

HUGE = 1e38


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("diverged")
    toy.write_model(root / "model")
    toy.write_sentiment(root / "data")
    return root


def run(root, grid, lines):
    config = toy.recipe_config(root / "model", root / "data")
    config.stages = ("teacher",)
    few = {"layers": (0,), "batch_size": 8, "warmup_steps": 0, "eval_every": 2, "dropout": 0.0, "steps": 4}
    config.teacher = stage_config(grid=grid, **few)
    return pipeline.run(make_recipe(config), root / f"work{len(grid)}", lines.append)["teacher"]


def test_a_diverged_learning_rate_of_a_grid_scores_worst_and_is_named(root):
    for _ in range(2):  # and a rerun finds the stage done
        lines = []
        result = run(root, (HUGE, 2e-3), lines)
        assert result["learning_rate"] == 2e-3
        assert result["grid"]["1e+38"] == {"accuracy": None}
        assert np.isfinite(result["metrics"]["accuracy"])
    record = (root / "work2" / "teacher" / "DONE").read_text()
    assert "NaN" not in record
    assert json.loads(record)["result"]["grid"]["0.002"] == result["metrics"]


def test_the_diverged_learning_rate_is_named_in_the_progress(root, tmp_path):
    lines = []
    (root / "work2" / "teacher" / "DONE").unlink(missing_ok=True)
    run(root, (HUGE, 2e-3), lines)
    assert "teacher: diverged at learning rate 1e+38; not taken" in lines


def test_a_stage_that_diverges_at_every_rate_is_refused_with_the_rates_and_is_not_done(root):
    with pytest.raises(UserError, match=r"config\.teacher: training diverged at learning rate 1e\+38: .* use a smaller one"):
        run(root, (HUGE,), [])
    assert not (root / "work1" / "teacher" / "DONE").exists()
