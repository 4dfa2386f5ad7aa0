"""What is proposed for a step that does not fit: on four GPUs, whose memory is said to be what the test needs."""

from dataclasses import replace
from pathlib import Path

import pytest
import toy

from xtc_jax.aot.account import Memory
from xtc_jax.aot.advice import what_would_fit
from xtc_jax.aot.step import trace_step
from xtc_jax.aot.topology import find_slice
from xtc_jax.recipe.recipe import make_recipe

SLICE = find_slice("h100:4")


@pytest.fixture(scope="module")
def step():
    recipe = make_recipe(toy.recipe_config(Path("model"), Path("data")))
    recipe = replace(recipe, stages=tuple(replace(stage, batch_size=64) for stage in recipe.stages))
    return trace_step(recipe, {"model": toy.shape(4)}, SLICE, "", 16)


def advice(step, moving, available):
    """Keys named for a step whose arguments take ``A`` bytes, the rest ``moving * A``, where ``available * A`` are there."""
    fixed = step.argument_bytes()
    memory = Memory(fixed, 0, 0, None, None, round(fixed * (1 + moving)), round(fixed * available))
    return [text.partition(":")[0] for text in what_would_fit(step, SLICE, memory)]


def test_fewer_rows_at_a_time_in_as_many_parts_as_it_takes(step):
    found = advice(step, moving=8, available=3.1)  # 1 + 8 / 4 = 3 fits, 1 + 8 / 2 = 5 does not
    assert found[:2] == ["config.quantize.accumulate=4", "config.quantize.batch_size=16"]


def test_bfloat16_halves_what_is_not_parameters_almost(step):
    assert "config.compute_dtype=bfloat16" in advice(step, moving=1, available=1.7)
    assert "config.compute_dtype=bfloat16" not in advice(step, moving=1, available=1.5)


def test_a_state_too_large_for_one_device_is_split_by_fsdp(step):
    found = advice(step, moving=0.1, available=0.9)  # no number of rows makes the arguments smaller
    assert found == ["config.mesh=(1, 4, 1)"]
    assert advice(step, moving=2, available=0.9) == ["config.mesh=(1, 4, 1) with config.quantize.accumulate=4"]


def test_what_cannot_fit_has_no_advice(step):
    assert advice(step, moving=1, available=0.1) == []
