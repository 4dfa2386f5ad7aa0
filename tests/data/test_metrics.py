"""The GLUE metrics, against numbers worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from xtc_jax.data import GLUE, compute_all, compute_metrics, far_below_chance
from xtc_jax.data.metrics import METRICS

# Two true positives, one false positive, one false negative, two true negatives.
LABELS = np.array([1, 1, 1, 0, 0, 0])
PREDICTIONS = np.array([1, 1, 0, 1, 0, 0])


def logits_of(classes):
    return np.eye(2, dtype=np.float32)[classes]


def test_accuracy_is_the_fraction_of_right_answers():
    assert compute_metrics(GLUE["sst2"], logits_of(PREDICTIONS), LABELS) == {"accuracy": 4 / 6}


def test_matthews_correlation_is_that_of_the_confusion_matrix():
    # (2 * 2 - 1 * 1) / sqrt(3 * 3 * 3 * 3)
    assert compute_metrics(GLUE["cola"], logits_of(PREDICTIONS), LABELS) == {"matthews_correlation": 1 / 3}


def test_f1_takes_class_one_as_positive_and_comes_after_accuracy():
    values = compute_metrics(GLUE["mrpc"], logits_of([1, 1, 1, 1, 0, 0]), np.array([1, 1, 0, 0, 1, 0]))
    assert list(values) == ["accuracy", "f1"]
    assert values == {"accuracy": 1 / 2, "f1": 2 * 2 / (2 * 2 + 2 + 1)}


def test_pearson_and_spearman_use_the_unclipped_numbers():
    labels, predictions = np.array([0, 1, 2, 3], np.float32), np.array([[0], [1], [4], [9]], np.float32)
    values = compute_metrics(GLUE["stsb"], predictions, labels)
    # covariance 15 of deviations (-3, -1, 1, 3) / 2 and (-3.5, -2.5, 0.5, 5.5)
    assert values == {"pearson": pytest.approx(15 / math.sqrt(5 * 49), rel=0, abs=2e-15), "spearman": 1}


def test_spearman_gives_ties_their_mean_rank():
    # ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4
    assert METRICS["spearman"](np.array([0, 5, 5, 9]), np.array([1, 2, 3, 4])) == pytest.approx(
        4.5 / math.sqrt(4.5 * 5), rel=0, abs=2e-15
    )


@pytest.mark.parametrize("predicted", [0, 1])
def test_a_constant_answer_has_matthews_correlation_zero(predicted):
    assert compute_metrics(GLUE["cola"], logits_of([predicted] * 6), LABELS) == {"matthews_correlation": 0}


def test_a_constant_answer_to_a_constant_label_has_matthews_correlation_zero():
    assert compute_metrics(GLUE["cola"], logits_of([1] * 4), np.ones(4, np.int32)) == {"matthews_correlation": 0}


def test_f1_without_a_positive_is_zero():
    assert compute_metrics(GLUE["mrpc"], logits_of([0, 0]), np.zeros(2, np.int32)) == {"accuracy": 1, "f1": 0}


@pytest.mark.parametrize(
    ("labels", "predictions"),
    [([1, 2, 3], [2.5] * 3), ([2] * 3, [1, 2, 3]), ([1], [1])],
    ids=["constant predictions", "constant labels", "one example"],
)
def test_what_has_no_correlation_scores_zero(labels, predictions):
    values = compute_metrics(GLUE["stsb"], np.array(predictions, np.float32)[:, None], np.array(labels, np.float32))
    assert values == {"pearson": 0, "spearman": 0}


def test_nearly_constant_predictions_score_without_a_warning():
    predictions = np.array([[2.5], [2.5], [2.5 + 2**-22]], np.float32)
    values = compute_metrics(GLUE["stsb"], predictions, np.array([1, 2, 3], np.float32))
    assert values["pearson"] == math.sqrt(3) / 2


def test_several_splits_are_scored_each_by_itself_and_the_selecting_one_comes_first():
    logits = {"validation_matched": np.eye(3)[[0, 1, 2, 0]], "validation_mismatched": np.eye(3)[[2, 2, 0]]}
    labels = {"validation_matched": np.array([0, 1, 2, 1]), "validation_mismatched": np.array([2, 1, 1])}
    values = compute_all(GLUE["mnli"], logits, labels)
    assert list(values.items()) == [("accuracy", 3 / 4), ("accuracy_mismatched", 1 / 3)]


@pytest.mark.parametrize(
    ("name", "metrics", "reason"),
    [
        ("mnli", {"accuracy": 0.07}, "accuracy 0.0700, where guessing has 0.3333"),
        ("mnli", {"accuracy": 0.166}, "accuracy 0.1660, where guessing has 0.3333"),
        ("mnli", {"accuracy": 0.167}, None),
        ("mnli", {"accuracy": 0.5, "accuracy_mismatched": 0.1}, None),
        ("sst2", {"accuracy": 0.249}, "accuracy 0.2490, where guessing has 0.5000"),
        ("sst2", {"accuracy": 0.25}, None),
        ("mrpc", {"accuracy": 0.6, "f1": 0.1}, None),
        ("cola", {"matthews_correlation": -0.26}, "matthews_correlation -0.2600, where guessing has 0.0000"),
        ("cola", {"matthews_correlation": -0.25}, None),
        ("cola", {"matthews_correlation": 0.0}, None),
        ("stsb", {"pearson": -0.8, "spearman": -0.8}, "pearson -0.8000, where guessing has 0.0000"),
        ("stsb", {"pearson": 0.1, "spearman": -0.9}, None),
    ],
)
def test_half_of_chance_or_a_correlation_of_minus_a_quarter_is_the_least_that_passes(name, metrics, reason):
    assert far_below_chance(GLUE[name], metrics, 1000) == reason


@pytest.mark.parametrize(
    ("name", "metrics", "examples", "refused"),
    [
        ("sst2", {"accuracy": 0.2}, 24, False),  # chance minus 3 deviations of 0.102 is 0.194
        ("sst2", {"accuracy": 0.19}, 24, True),
        ("cola", {"matthews_correlation": -0.37}, 64, False),  # 3 / 8 = 0.375
        ("cola", {"matthews_correlation": -0.38}, 64, True),
        ("mnli", {"accuracy": 0.07}, 48, True),
    ],
)
def test_bad_luck_on_few_examples_is_no_reason(name, metrics, examples, refused):
    assert (far_below_chance(GLUE[name], metrics, examples) is not None) is refused


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(-50, 50)), min_size=3, max_size=40))
def test_the_correlations_are_those_of_scipy_and_the_classes_those_of_counting(pairs):
    labels, predictions = np.array(pairs, np.float64).T
    if np.ptp(labels) > 0 and np.ptp(predictions) > 0:
        values = compute_metrics(GLUE["stsb"], predictions[:, None], labels)
        assert values["pearson"] == pytest.approx(np.corrcoef(labels, predictions)[0, 1], rel=0, abs=5e-15)
        ranks = stats.rankdata(labels), stats.rankdata(predictions)
        assert values["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1], rel=0, abs=5e-15)
    classes, guesses = (labels > 10).astype(int), (predictions > 0).astype(int)
    expected = sum(a == b for a, b in zip(classes, guesses, strict=True)) / len(pairs)
    assert compute_metrics(GLUE["sst2"], logits_of(guesses), classes)["accuracy"] == expected
