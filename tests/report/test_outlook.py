"""What more minutes would bring, in words."""

import json

from xtc_jax.report import outlook


def told(tmp_path, teacher=0.90, packed=0.86, examples=1000, teacher_bound="time", student_bound="time"):
    record = {"minutes": 30.0, "seconds": 1000.0, "steps": 500}
    budget = {"teacher": {**record, "bound": teacher_bound}, "quantize": {**record, "bound": student_bound}}
    (tmp_path / "budget.json").write_text(json.dumps(budget))
    (tmp_path / "predictions.json").write_text(json.dumps({"labels": [0] * examples}))
    return outlook({"teacher": {"metrics": {"accuracy": teacher}}, "packed": {"metrics": {"accuracy": packed}}}, tmp_path)


def test_the_share_of_the_teacher_is_said_with_what_the_validation_set_can_tell(tmp_path):
    assert told(tmp_path)[0] == (
        "packed keeps 95.6 % of the teacher's accuracy (86.00 of 90.00); 1,000 validation examples tell it to about 1.1 points."
    )


def test_a_student_behind_its_teacher_gains_half_of_the_distance_from_twice_the_steps(tmp_path):
    assert told(tmp_path, teacher_bound="epochs")[1] == (
        "Another 17 minutes, which double the student's steps, are expected to bring about 2.0 points: run the same command "
        "with minutes=47."
    )


def test_a_teacher_that_its_time_ended_is_said_to_gain_too(tmp_path):
    assert told(tmp_path)[1].endswith("The teacher was ended by its time too, and would gain as well.")


def test_a_student_within_the_noise_of_its_teacher_is_not_promised_more(tmp_path):
    assert told(tmp_path, packed=0.895, teacher_bound="epochs")[1] == (
        "More minutes are not expected to bring the student anything that would show: it is as good as its teacher within that."
    )


def test_stages_that_had_all_their_epochs_are_not_promised_more(tmp_path):
    both = {"teacher_bound": "epochs", "student_bound": "epochs"}
    assert told(tmp_path, **both)[1] == "No stage was ended by its time: more minutes are not expected to bring anything."


def test_a_run_without_a_time_or_without_a_packed_model_has_no_outlook(tmp_path):
    assert outlook({"teacher": {"metrics": {"accuracy": 0.9}}}, tmp_path) == []
