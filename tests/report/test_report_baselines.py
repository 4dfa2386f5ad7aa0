"""Baselines in a report: the table, and the verdict in words."""

import json

import pytest
import toy

from xtc_jax import pipeline
from xtc_jax.pipeline.baselines import BASELINES, measure_baselines
from xtc_jax.pipeline.inputs import load_inputs
from xtc_jax.recipe.recipe import make_recipe
from xtc_jax.recipe.schema import stage_config
from xtc_jax.report import read_baselines, verdicts, write_report
from xtc_jax.report.baselines import baseline_table

FOUND = [
    {"name": "the majority class", "metrics": {"accuracy": 0.5, "f1": 0.6}, "bytes": 4, "seconds": 0.0},
    {"name": "TF-IDF with logistic regression", "metrics": {"accuracy": 0.782, "f1": 0.8}, "bytes": 123456, "seconds": 0.54},
]


def results(**accuracy: float) -> dict:
    return {name: {"metrics": {"accuracy": value, "f1": 0.99}} for name, value in accuracy.items()}


def test_a_model_that_beats_all_is_said_to_by_how_many_points():
    assert verdicts(results(teacher=0.9, packed=0.802), FOUND) == [
        "packed has accuracy 80.20, 2.00 points above the best baseline, TF-IDF with logistic regression (78.20)."
    ]


@pytest.mark.parametrize("value", [0.782, 0.7])
def test_a_model_that_is_no_better_than_a_bag_of_words_is_said_not_to_beat_it(value):
    (line,) = verdicts(results(teacher=0.9, packed=value), FOUND)
    assert f"packed has accuracy {100 * value:.2f} and does not beat TF-IDF with logistic regression (78.20): " in line
    assert "the majority class" not in line


def test_a_perfect_model_is_not_advised_to_train_longer():
    perfect = [{**FOUND[1], "metrics": {"accuracy": 1.0}}]
    assert verdicts(results(packed=1.0), perfect) == [
        "packed has accuracy 100.00 and does not beat TF-IDF with logistic regression (100.00): on this data a simpler model "
        "does as well."
    ]


def test_a_model_at_chance_beats_neither():
    (line,) = verdicts(results(packed=0.5), FOUND)
    assert "does not beat the majority class (50.00) and TF-IDF with logistic regression (78.20)" in line


def test_a_metric_that_is_not_a_number_beats_nothing():
    (line,) = verdicts(results(packed=float("nan")), FOUND)
    assert "does not beat the majority class" in line


def test_every_packed_model_has_a_verdict_and_without_one_the_last_stage():
    names = [
        line.split(" has ")[0]
        for line in verdicts({**results(teacher=0.9, packed=0.8), "small packed": results(x=0.6)["x"]}, FOUND)
    ]
    assert names == ["packed", "small packed"]
    assert [line.split(" has ")[0] for line in verdicts(results(teacher=0.9, reduced=0.8), FOUND)] == ["reduced"]
    assert verdicts(results(teacher=0.9), []) == []


def test_the_table_has_every_metric_bytes_and_seconds():
    assert baseline_table(FOUND).splitlines() == [
        "| baseline | accuracy | f1 | bytes | seconds |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| the majority class | 50.00 | 60.00 | 4 | 0.0 |",
        "| TF-IDF with logistic regression | 78.20 | 80.00 | 123,456 | 0.5 |",
    ]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("baselines")
    toy.write_model(root / "model")
    toy.write_sentiment(root / "data")
    return root


def make_config(root, **values):
    """One stage that leaves the model as good as untrained: no better than chance."""
    config = toy.recipe_config(root / "model", root / "data")
    config.stages = ("measured",)
    config.measured = stage_config(layers=(0,), steps=1, batch_size=8, learning_rate=1e-9, dropout=0.0)
    config.update(values)
    return config


def run(root, workdir, **values) -> tuple[str, list[str]]:
    """The report, and what was logged."""
    recipe, lines = make_recipe(make_config(root, **values)), []
    write_report(pipeline.run(recipe, workdir, lines.append), recipe, workdir)
    return (workdir / "report.md").read_text(), lines


def test_a_run_measures_them_once_and_its_report_says_that_an_untrained_model_is_no_better(root, tmp_path):
    report, lines = run(root, tmp_path / "work")
    assert "| the majority class | 50.00 | 4 | " in report
    assert "does not beat the majority class (50.00) and TF-IDF with logistic regression (100.00)" in report
    assert sum(line.startswith("baseline: ") for line in lines) == 2
    before = (tmp_path / "work" / BASELINES).stat().st_mtime_ns
    again, lines = run(root, tmp_path / "work")
    assert (again, lines.count("baseline: ")) == (report, 0)
    assert (tmp_path / "work" / BASELINES).stat().st_mtime_ns == before


def test_a_run_without_them_has_none_in_directory_and_report(root, tmp_path):
    report, lines = run(root, tmp_path / "work", baselines=False)
    assert "TF-IDF" not in report
    assert not any("TF-IDF" in line for line in lines)
    assert not (tmp_path / "work" / BASELINES).exists()
    assert read_baselines(tmp_path / "work") == []


def test_those_of_other_data_are_measured_anew(root, tmp_path):
    inputs = load_inputs(make_recipe(make_config(root)), lambda line: None)
    stale = {"data_digest": {"train": "of another file"}, "baselines": []}
    (tmp_path / BASELINES).write_text(json.dumps(stale))
    measure_baselines(inputs, tmp_path, lambda line: None)
    assert len(read_baselines(tmp_path)) == 2
