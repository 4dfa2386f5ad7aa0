"""Tasks by name, and the user's own."""

import pytest

from xtc_jax.data import GLUE, find_task
from xtc_jax.errors import UserError


@pytest.mark.parametrize(
    ("name", "columns", "labels", "metrics"),
    [
        ("sst2", 1, 2, ("accuracy",)),
        ("cola", 1, 2, ("matthews_correlation",)),
        ("mrpc", 2, 2, ("accuracy", "f1")),
        ("stsb", 2, 1, ("pearson", "spearman")),
        ("rte", 2, 2, ("accuracy",)),
        ("qqp", 2, 2, ("accuracy", "f1")),
        ("qnli", 2, 2, ("accuracy",)),
        ("mnli", 2, 3, ("accuracy",)),
        ("wnli", 2, 2, ("accuracy",)),
    ],
)
def test_a_glue_task_has_its_columns_labels_and_metrics(name, columns, labels, metrics):
    task = find_task(name)
    assert (task.name, len(task.text), len(task.labels), task.metrics) == (name, columns, labels, metrics)


def test_the_tasks_are_the_nine_of_glue():
    assert sorted(GLUE) == ["cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli"]


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("mnli", ("entailment", "neutral", "contradiction")),
        ("qnli", ("entailment", "not_entailment")),
        ("rte", ("entailment", "not_entailment")),
        ("wnli", ("not_entailment", "entailment")),
    ],
)
def test_inference_has_the_label_order_of_the_hugging_face_data_set(name, labels):
    assert GLUE[name].labels == labels


def test_mnli_has_two_validation_and_two_test_splits_and_every_other_task_one():
    assert GLUE["mnli"].validation == ("validation_matched", "validation_mismatched")
    assert GLUE["mnli"].test == ("test_matched", "test_mismatched")
    others = {(task.validation, task.test) for name, task in GLUE.items() if name != "mnli"}
    assert others == {(("validation",), ("test",))}


@pytest.mark.parametrize(
    ("name", "split", "suffix"),
    [
        ("mnli", "validation_matched", ""),
        ("mnli", "validation_mismatched", "_mismatched"),
        ("mnli", "train", ""),
        ("sst2", "validation", ""),
    ],
)
def test_the_metrics_of_a_further_validation_split_have_a_suffix(name, split, suffix):
    assert GLUE[name].suffix(split) == suffix


def test_stsb_is_the_only_regression():
    assert [name for name, task in GLUE.items() if task.regression] == ["stsb"]


def test_given_columns_override_those_of_glue():
    task = find_task("mrpc", text=("left", "right"), label="same")
    assert (task.text, task.label, task.labels) == (("left", "right"), "same", ("not_equivalent", "equivalent"))
    assert find_task("mrpc").text == ("sentence1", "sentence2")


@pytest.mark.parametrize("name", ["custom", "reviews"])
def test_a_task_of_another_name_classifies_with_labels_found_later(name):
    task = find_task(name, text=("review",))
    assert (task.name, task.text, task.label, task.labels) == (name, ("review",), "label", ())
    assert (task.regression, task.metrics) == (False, ("accuracy",))


def test_a_custom_task_takes_the_labels_and_the_column_it_is_given():
    task = find_task("custom", text=("a", "b"), label="class", labels=("no", "yes"))
    assert (task.labels, task.label) == (("no", "yes"), "class")


def test_a_custom_regression_has_one_label_and_the_correlations():
    task = find_task("custom", text=("a",), regression=True)
    assert (task.labels, task.regression, task.metrics) == (("score",), True, ("pearson", "spearman"))


@pytest.mark.parametrize("text", [(), ("a", "b", "c")])
def test_a_custom_task_needs_one_or_two_text_columns(text):
    with pytest.raises(UserError, match=r"data\.text"):
        find_task("custom", text=text)


def test_an_unknown_task_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"unknown task 'sst-2'; use one of cola, mnli, mrpc, qnli, qqp, rte, sst2, stsb, wnli"):
        find_task("sst-2")


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("sst2", {"labels": ("bad", "good")}, "data.labels=('bad', 'good'), but task 'sst2' is GLUE's, with the labels"),
        ("sst2", {"labels": ("positive", "negative")}, "data.labels=('positive', 'negative'), but task 'sst2' is GLUE's"),
        (
            "sst2",
            {"regression": True},
            "data.regression=True, but task 'sst2' is GLUE's, a classification; for data of your own",
        ),
        ("sst2", {"text": ("a", "b", "c")}, "data.text=('a', 'b', 'c'): name one text column, or the two of a pair"),
        ("own", {"text": ("a", "a")}, "data.text=('a', 'a'): name one text column, or the two of a pair"),
        ("own", {"labels": ("yes", "yes")}, "data.labels=('yes', 'yes'): name every class once, two or more"),
        ("own", {"labels": ("yes",)}, "data.labels=('yes',): name every class once, two or more"),
        ("own", {"labels": ("low", "high"), "regression": True}, "data.labels=('low', 'high'): name every class once"),
    ],
)
def test_what_a_task_would_ignore_or_mistake_is_refused(name, values, message):
    with pytest.raises(UserError) as refused:
        find_task(name, **{"text": ("a",), **values})
    assert str(refused.value).startswith(message)


def test_labels_and_regression_that_a_glue_task_has_anyway_may_be_given():
    assert find_task("sst2", labels=("negative", "positive")) == GLUE["sst2"]
    assert find_task("stsb", labels=("similarity",), regression=True) == GLUE["stsb"]
