"""The recipe of what won at half depth and 1 bit."""

import pytest

from xtc_jax.configs import plus
from xtc_jax.recipe import make_recipe, read_config_file


def stages(argument=""):
    return {stage.name: stage for stage in make_recipe(read_config_file(f"plus{argument}", ())).stages}


def test_one_stage_takes_the_layers_out_and_goes_from_2_bits_to_1():
    student = stages(":mrpc,steps=1000")["quantize"]
    assert (student.init, student.teacher, student.layers) == ("teacher", "teacher", "every_other")
    assert (student.weight_bits, student.vocabulary_min_count) == (1, 1)
    assert (student.steps, student.warmup_steps, student.eval_every) == (1000, 50, 200)
    assert student.new_pairs == 20_000
    assert {spec.schedule for _, spec in student.rules.rules} == {((0, 2), (400, 1))}


def test_a_finetuned_teacher_is_not_trained():
    assert stages()["teacher"].epochs == 4.0
    assert not stages(":finetuned")["teacher"].trains


def test_other_layers_are_kept_on_request():
    assert stages(":layers=2+5")["quantize"].layers == "2,5"
    assert stages(":layers=all")["quantize"].layers == ""


def test_the_student_takes_other_values_over():
    given = plus.student(100, learning_rate=5e-4, new_pairs=0)
    assert (given.learning_rate, given.new_pairs, given.batch_size) == (pytest.approx(5e-4), 0, 16)
