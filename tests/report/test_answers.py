"""A few answers of a run's last model, for the screen."""

import json

import numpy as np

from xtc_jax.data import Task
from xtc_jax.pipeline.predictions import prediction_record
from xtc_jax.report import answer_lines

TEXTS = [(f"text number {i}", "its pair") for i in range(7)]


def written(tmp_path, task, labels, logits):
    (tmp_path / "predictions.json").write_text(json.dumps(prediction_record(task, TEXTS, labels, logits)))
    return answer_lines(tmp_path)


def test_three_evenly_spaced_examples_are_shown_with_the_last_models_answer_its_probability_and_the_label(tmp_path):
    task = Task("own", ("a", "b"), ("no", "yes"))
    teacher, student = np.zeros((7, 2)), np.stack([np.arange(7.0) - 3, np.zeros(7)], axis=1)
    lines = written(tmp_path, task, np.array([1, 1, 1, 0, 0, 0, 0]), {"teacher": teacher, "packed": student})
    assert lines == [
        "packed, on some of the validation data (the label in brackets):",
        "  yes 0.95 (yes): text number 0 | its pair",
        "  yes 0.73 (yes): text number 2 | its pair",
        "  no 0.73 (no): text number 4 | its pair",
    ]


def test_a_regressions_numbers_are_shown_beside_the_labels(tmp_path):
    task = Task("own", ("a", "b"), ("score",), regression=True, metrics=("pearson",))
    lines = written(tmp_path, task, np.arange(7) / 2, {"teacher": np.zeros((7, 1)), "packed": np.full((7, 1), 1.25)})
    assert lines[1] == "  1.25 (0): text number 0 | its pair"


def test_a_run_of_before_they_were_kept_shows_none(tmp_path):
    assert answer_lines(tmp_path) == []
