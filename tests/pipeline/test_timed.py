"""A recipe with a time."""

import json
import sys

import pytest
import toy

from xtc_jax import pipeline
from xtc_jax.errors import UserError
from xtc_jax.pipeline import timed
from xtc_jax.recipe import make_recipe
from xtc_jax.train import StepTimes

TIMES = StepTimes(step=0.5, teacher=0.0, evaluation=0.01)


def recipe(minutes, **teacher):
    """The toy recipe with shares: a teacher for a quarter of the time, 1 bit for three."""
    config = toy.recipe_config("model", "data")
    config.minutes = minutes
    config.stages = ("teacher", "quantize")
    config.quantize.init = "teacher"
    config.teacher.update({"share": 25.0, "steps": 0, **teacher})
    config.quantize.update({"share": 75.0, "steps": 0})
    return make_recipe(config)


def decide(recipe, name, workdir, used=0.0, times=TIMES, width=384):
    return timed.decide_steps(recipe, name, width, times, 40, True, used, workdir)


def steps(recipe, workdir):
    return [stage.steps for stage in timed.with_known_steps(recipe, workdir).stages]


def test_a_stage_gets_its_share_of_what_is_left_of_the_time(tmp_path):
    work = recipe(10.0)
    decide(work, "teacher", tmp_path)
    # 600 s, 10 s and 8 evaluations for the end; a quarter for the teacher, with 12 evaluations
    left = 600 - 10 - 0.08
    assert steps(work, tmp_path) == [int((left / 4 - 0.12) / 0.5), 0]
    decide(work, "quantize", tmp_path, used=250.0)
    assert steps(work, tmp_path)[1] == int((left - 250 - 0.12) / 0.5)


def test_what_is_decided_is_kept_and_becomes_the_stages_own_config(tmp_path):
    work = recipe(10.0)
    line = decide(work, "teacher", tmp_path)
    assert line == "teacher: a step takes 500 ms; 294 steps, 7.35 epochs, in 2.5 minutes"
    stage = timed.with_known_steps(work, tmp_path).stages[0]
    assert (stage.steps, stage.warmup_steps, stage.eval_every) == (294, 29, 25)
    assert stage.raw["steps"] == 294
    assert "share" not in stage.raw  # the same steps in another time are the same stage
    assert timed.is_open(work.stages[1], tmp_path)
    assert not timed.is_open(work.stages[0], tmp_path)


def test_learning_rates_are_those_of_a_model_384_wide_and_smaller_for_a_wider_one(tmp_path):
    work = recipe(10.0, learning_rate=1e-4)
    decide(work, "teacher", tmp_path, width=768)
    assert timed.with_known_steps(work, tmp_path).stages[0].learning_rate == pytest.approx(5e-5, rel=1e-12)


def test_bits_fall_at_their_share_of_the_steps(tmp_path):
    work = recipe(10.0, weight_bits=1, bit_schedule="8@0>2@15%>1@40%")
    decide(work, "teacher", tmp_path)
    stage = timed.with_known_steps(work, tmp_path).stages[0]
    assert stage.steps == 294
    assert stage.rules.rules[0][1].schedule == ((0, 8), (44, 2), (117, 1))
    assert timed.with_known_steps(work, tmp_path).stages[1].rules == work.stages[1].rules


def test_a_stage_that_goes_on_has_no_schedule_any_more():
    config = toy.recipe_config("model", "data")
    config.update({"minutes": 5.0, "stages": ("teacher", "quantize")})
    config.quantize.update({"init": "teacher", "share": 1.0, "steps": 0, "bit_schedule": "2@0>1@40%"})
    more = timed.with_continuation(make_recipe(config)).stages[-1]
    assert (more.name, more.raw["bit_schedule"], more.rules.changes) == ("quantize_2", "", ())
    assert {spec.bits for _, spec in more.rules.rules} == {1}


def test_no_stage_gets_more_than_its_epochs(tmp_path):
    work = recipe(10.0, most_epochs=3.0)
    assert decide(work, "teacher", tmp_path).endswith("120 steps, 3 epochs, in less than 2.5 minutes")
    assert json.loads((tmp_path / "budget.json").read_text())["teacher"]["bound"] == "epochs"


def test_too_little_time_is_refused_and_what_would_do_is_named(tmp_path):
    with pytest.raises(UserError) as refused:
        decide(recipe(0.5), "teacher", tmp_path)
    assert str(refused.value) == (
        "config.minutes=0.5 is too little: stage 'teacher' would get 5 s, and one step takes 0.50 s here; give at least 1"
    )
    assert not any(tmp_path.iterdir())
    decide(recipe(1.0), "teacher", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"minutes": 0.0}, "config.minutes=0.0, but config.teacher.share divides it; give it a time above 0"),
        ({"minutes": -1.0}, "config.minutes=-1.0 must be at least 0"),
        ({"teacher.share": 0.0, "quantize.share": 0.0}, "config.minutes=5.0 is divided by no stage; give one a share, or set"),
        (
            {"quantize.bit_schedule": "8@0>1@5"},
            "config.quantize.bit_schedule='8@0>1@5' names steps, and share decides how many there are; write per cent of them",
        ),
        ({"quantize.augmented": True}, "config.quantize.augmented needs a known number of steps"),
        ({"quantize.share": -2.0}, "config.quantize.share=-2.0 must be at least 0"),
        ({"quantize.patience": -1}, "config.quantize.patience=-1 must be at least 0"),
    ],
)
def test_shares_without_a_time_and_times_without_shares_are_refused(change, message):
    config = toy.recipe_config("model", "data")
    config.update({"minutes": 5.0, "stages": ("teacher", "quantize")})
    config.quantize.init = "teacher"
    config.teacher.share = config.quantize.share = 1.0
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError) as refused:
        make_recipe(config)
    assert str(refused.value).startswith(message)


@pytest.mark.slow
def test_a_recipe_with_a_time_is_resumed_as_it_was_and_goes_on_with_more(tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys.modules["xtc_jax.pipeline.run"], "time_stage", lambda *_: (StepTimes(step=1.0, teacher=0.0, evaluation=0.01), 8)
    )
    toy.write_model(tmp_path / "model")
    toy.write_sentiment(tmp_path / "data")

    def work(minutes, lines):
        config = toy.recipe_config(tmp_path / "model", tmp_path / "data")
        config.update({"minutes": minutes, "stages": ("teacher", "quantize")})
        config.teacher.update({"share": 1.0, "steps": 0})
        config.quantize.update({"share": 1.0, "steps": 0, "init": "teacher", "layers": "1,3", "vocabulary_min_count": 1})
        return pipeline.run(make_recipe(config), tmp_path / "work", lines.append, "none")

    first, lines = work(2.0, []), []
    assert [first[name]["steps"] for name in ("teacher", "quantized")] == [pytest.approx(53, abs=5), pytest.approx(100, abs=20)]
    assert work(2.0, lines) == first
    assert not [line for line in lines if "steps" in line]
    more = work(4.0, lines)
    assert list(more) == ["teacher", "quantized", "quantized_2", "packed"]
    assert more["quantized"] == first["quantized"]
    assert more["quantized_2"]["steps"] == pytest.approx(215, abs=30)  # of 240 s, what the first two took is over
    assert more["packed"]["path"] == str(tmp_path / "work" / "packed-quantize_2")
    assert (tmp_path / "work" / "packed" / "model.safetensors").exists()
    assert work(4.0, lines) == more
    assert work(2.0, lines) == more
