"""The official GLUE metrics, by scikit-learn and SciPy, on raw model outputs."""

import math
from collections.abc import Callable, Mapping

import numpy as np

from xtc_jax.data.tasks import Task

Metric = Callable[[np.ndarray, np.ndarray], float]
_CORRELATED_BACKWARDS = -0.25

# scikit-learn and SciPy take seconds to import: only what measures a model pays for them.


def _accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    return float(np.mean(labels == predictions))


def _f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, zero_division=0))


def _matthews(labels: np.ndarray, predictions: np.ndarray) -> float:
    from sklearn.metrics import matthews_corrcoef

    # A constant side has no correlation; scikit-learn says 0 too, but warns where both sides are constant.
    if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return 0.0
    return float(matthews_corrcoef(labels, predictions))


def _correlation(name: str) -> Metric:
    def score(labels: np.ndarray, predictions: np.ndarray) -> float:
        from scipy import stats

        # A constant side has no correlation; report 0, as for Matthews, and not NaN.
        if len(labels) < 2 or np.ptp(labels) == 0 or np.ptp(predictions) == 0:
            return 0.0
        # In float64: float32 predictions that differ by little lose digits, and SciPy warns.
        return float(getattr(stats, name)(labels.astype(np.float64), predictions.astype(np.float64))[0])

    return score


METRICS: dict[str, Metric] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews_correlation": _matthews,
    "pearson": _correlation("pearsonr"),
    "spearman": _correlation("spearmanr"),
}
"""``name -> function(labels, predictions)``; every value is a fraction, 1.0 is perfect."""


def compute_metrics(task: Task, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The task's metrics.

    Args:
      task: names the metrics; F1 takes class 1 as positive.
      logits: ``(examples, labels)``; a regression's single column is used as it is, unclipped.
      labels: class ids, or numbers, ``(examples,)``.

    Returns:
      ``{metric: fraction}``, the selecting metric first. All are NaN where a logit is not finite: nothing is predicted.
    """
    if not np.isfinite(logits).all():
        return dict.fromkeys(task.metrics, math.nan)
    predictions = logits[:, 0] if task.regression else logits.argmax(axis=1)
    values = {name: METRICS[name](labels, predictions) for name in task.metrics}
    assert all(math.isfinite(value) for value in values.values()), values
    return values


def compute_all(task: Task, logits: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The task's metrics on several splits; those of a further validation split carry its suffix.

    Args:
      task: names the metrics and the suffixes.
      logits, labels: of every split, as :func:`compute_metrics` takes them.

    Returns:
      ``{metric + suffix: fraction}``, for MNLI ``accuracy`` and ``accuracy_mismatched``; the selecting one first.
    """
    return {
        name + task.suffix(split): value
        for split, rows in logits.items()
        for name, value in compute_metrics(task, rows, labels[split]).items()
    }


def rank(value: float) -> float:
    """What a metric is selected by: itself, and of a diverged model, NaN, less than any other."""
    return -math.inf if math.isnan(value) else value


def far_below_chance(task: Task, metrics: Mapping[str, float], examples: int) -> str | None:
    """What is wrong with a model that does far worse than guessing; None if it does not.

    Bad training ends near chance. Far below it the answers are right and carry the wrong names: an MNLI teacher whose
    head is in another label order has 7 % accuracy (docs/method.md, section 13.12). The selecting metric decides: an accuracy
    below half of 1 / classes, a correlation below -0.25; and, measured on n ``examples``, by more than bad luck: three
    standard deviations of guessing.
    """
    name, n = task.metrics[0], max(examples, 1)
    chance = 1 / len(task.labels) if name == "accuracy" else 0.0
    deviation = math.sqrt(chance * (1 - chance) / n) if name == "accuracy" else 1 / math.sqrt(n)
    least = min(0.5 * chance if name == "accuracy" else _CORRELATED_BACKWARDS, chance - 3 * deviation)
    return f"{name} {metrics[name]:.4f}, where guessing has {chance:.4f}" if metrics[name] < least else None
