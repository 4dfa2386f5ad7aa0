"""The official GLUE metrics, by scikit-learn and SciPy, on raw model outputs."""

import math
from collections.abc import Callable

import numpy as np

from xtc_jax.data.tasks import Task

Metric = Callable[[np.ndarray, np.ndarray], float]

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
      ``{metric: fraction}``, the selecting metric first.
    """
    predictions = logits[:, 0] if task.regression else logits.argmax(axis=1)
    values = {name: METRICS[name](labels, predictions) for name in task.metrics}
    assert all(math.isfinite(value) for value in values.values()), values
    return values
