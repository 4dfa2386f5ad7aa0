"""The augmented training data of a recipe: how much there is of it, and a stage that trains on it."""

import pyarrow.parquet
import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st

from xtc_jax import pipeline
from xtc_jax.pipeline.augmentation import AUGMENTED, rounds_for
from xtc_jax.recipe.recipe import make_recipe


@given(rows=st.integers(1, 100_000), wanted=st.integers(1, 100_000), sides=st.integers(1, 2), count=st.integers(1, 40))
def test_the_rounds_bring_about_as_many_rows_as_are_wanted_and_never_more_than_are_allowed(rows, wanted, sides, count):
    rounds = rounds_for({"count": count, "rows": wanted}, "mine", rows, sides)
    assert 0 <= rounds <= count
    if 0 < rounds < count:
        assert abs(rows * (1 + sides * rounds) - wanted) <= rows * sides / 2
    assert (rounds == 0) == (rows * (1 + sides / 2) >= wanted)


def test_without_a_wanted_number_of_rows_the_count_decides_and_without_that_the_task():
    assert rounds_for({"count": 7, "rows": 0}, "sst2", 10**9, 1) == 7
    assert rounds_for({"count": 0, "rows": 0}, "sst2", 10**9, 1) == 20
    assert rounds_for({"count": 0, "rows": 10**9}, "sst2", 100, 1) == 20


@pytest.mark.parametrize(("wanted", "rounds"), [(64 * 4, 3), (64, 0)])
def test_small_data_is_augmented_and_data_with_rows_enough_is_left_as_it_is(tmp_path, wanted, rounds):
    toy.write_model(tmp_path / "model")
    toy.write_sentiment(tmp_path / "data")
    config = toy.recipe_config(tmp_path / "model", tmp_path / "data")
    config.update({"stages": ("teacher", "quantize"), "minutes": 20.0, "baselines": False})
    config.augment.rows = wanted
    config.teacher.update({"steps": 10})
    config.quantize.update({"init": "teacher", "augmented": True, "share": 1.0, "most_epochs": 2.0, "steps": 0})
    lines = []
    results = pipeline.run(make_recipe(config), tmp_path / "work", lines.append, "none")
    file = tmp_path / "work" / AUGMENTED
    said = next(line for line in lines if line.startswith("augment: "))
    if rounds:
        rows = pyarrow.parquet.read_metadata(file).num_rows
        assert f"64 rows from {tmp_path}" in said
        assert f"{rounds} rounds for each text" in said
        assert 2 * 64 < rows <= wanted
    else:
        rows = 64
        assert said == "augment: 64 training examples are enough for config.augment.rows=64: none are added"
        assert not file.exists()
    assert results["quantized"]["steps"] == max(round(2 * -(-rows // 8)), 20)  # two epochs of it
