"""How many steps fit into a time."""

import math

import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st
from train.test_loop import a_run, one_shape, start

from xtc_jax.train import StepTimes, fit_steps, time_steps

TIMES = StepTimes(step=0.5, teacher=0.25, evaluation=2.0)


def test_without_a_teacher_the_time_is_divided_by_a_steps():
    # 12 evaluations of 2 s would be more than a tenth of 100 s: there are 5, and 90 s are left.
    assert fit_steps(100, StepTimes(0.5, 0.0, 2.0), epoch=50, kept=False) == (180, 36)


def test_a_teacher_whose_outputs_are_kept_costs_its_time_in_the_first_epoch_alone():
    assert fit_steps(100, TIMES, epoch=40, kept=False)[0] == 120  # 90 s / 0.75
    assert fit_steps(100, TIMES, epoch=40, kept=True)[0] == 160  # (90 - 40 * 0.25) / 0.5
    assert fit_steps(100, TIMES, epoch=1000, kept=True)[0] == 120


def test_there_are_twelve_evaluations_at_most_and_one_at_least():
    steps, every = fit_steps(10_000, TIMES, epoch=40, kept=False)
    assert math.ceil(steps / every) == 12
    steps, every = fit_steps(10, TIMES, epoch=40, kept=False)
    assert every == steps == 10


@given(st.floats(30, 10_000), st.floats(0.01, 1), st.floats(0, 1), st.floats(0.01, 3), st.integers(1, 500), st.booleans())
def test_what_fits_takes_the_time_that_it_was_given(seconds, step, teacher, evaluation, epoch, kept):
    steps, every = fit_steps(seconds, StepTimes(step, teacher, evaluation), epoch, kept)
    evaluations = math.ceil(steps / every)
    taught = min(steps, epoch) if kept else steps
    needed = steps * step + taught * teacher + evaluations * evaluation
    assert needed <= seconds * (1 + 1e-12)  # the two sums round otherwise
    assert seconds - needed <= step + teacher + evaluation * max(12 - evaluations, 0) + 1e-6 or steps == 1


@pytest.mark.parametrize("taught", [False, True])
def test_the_times_of_a_run_are_measured_and_its_own_params_are_not_trained(tmp_path, taught):
    run, params = a_run(tmp_path, **one_shape()), start()
    teacher = None
    if taught:
        from dataclasses import replace

        run = replace(run, objective=replace(run.objective, teacher=run.objective.student))
        teacher = toy.params(run.objective.student, seed=5)
    compiled = {}
    times = time_steps(run, params, teacher, compiled)
    assert 0 < times.step < 5
    assert (times.teacher > 0) == taught
    assert 0 < times.evaluation < 5
    assert len(compiled) == 3 if taught else 2  # train uses the same compiled steps
    assert not any(tmp_path.iterdir())
