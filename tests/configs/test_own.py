"""The recipe that is given a time."""

import pytest

from xtc_jax.errors import UserError
from xtc_jax.recipe import make_recipe, read_config_file


def recipe(argument="", *overrides):
    return make_recipe(read_config_file(f"own{argument}", overrides))


def test_half_an_hour_half_the_layers_and_1_bit_is_what_one_gets_without_saying_more():
    found = recipe()
    teacher, reduce, quantize = found.stages
    assert found.config["minutes"] == 30
    assert found.config["data"]["max_length"] == 0  # from the data
    assert (teacher.share, reduce.share, quantize.share) == (40, 10, 50)
    assert (reduce.layers, quantize.weight_bits) == ("every_other", 1)
    assert all(stage.patience > 0 and stage.most_epochs > 0 for stage in found.stages)
    assert [stage.new_pairs for stage in found.stages] == [0, 20_000, 20_000]


def test_task_minutes_layers_and_bits_are_arguments():
    found = recipe(":mrpc,minutes=7.5,layers=1+3+5,bits=2")
    assert (found.config["task"], found.config["minutes"]) == ("mrpc", 7.5)
    assert (found.stages[1].layers, found.stages[2].weight_bits) == ("1,3,5", 2)
    assert recipe(":layers=all").stages[1].layers == ""


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (":minutes=0", "config.minutes=0.0, but config.teacher.share divides it; give it a time above 0"),
        (":minutes=soon", "config argument 'minutes=soon': 'soon' is not a float"),
        (":bits=3", "bits=3: use 1 or 2"),
    ],
)
def test_a_time_that_is_none_and_other_bits_are_refused(argument, message):
    with pytest.raises(UserError) as refused:
        recipe(argument)
    assert str(refused.value) == message


def test_a_trial_has_steps_and_no_time():
    found = recipe(":runlocal")
    assert found.config["minutes"] == 0
    assert {(stage.steps, stage.share) for stage in found.stages} == {(6, 0.0)}
