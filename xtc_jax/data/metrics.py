"""The official GLUE metrics, by scikit-learn and SciPy, on raw model outputs."""

import math
from collections.abc import Callable

import numpy as np
from scipy import stats
from sklearn import metrics as sk

from xtc_jax.data.tasks import Task


def _correlation(function: Callable[..., tuple[float, float]]) -> Callable[[np.ndarray, np.ndarray], float]:
    def score(labels: np.ndarray, predictions: np.ndarray) -> float:
        # A constant side has no correlation; report 0, as for Matthews, and not NaN.
        if len(labels) < 2 or np.ptp(labels) == 0 or np.ptp(predictions) == 0:
            return 0.0
        return float(function(labels, predictions)[0])

    return score


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": lambda labels, predictions: float(sk.accuracy_score(labels, predictions)),
    "f1": lambda labels, predictions: float(sk.f1_score(labels, predictions, zero_division=0)),
    "matthews_correlation": lambda labels, predictions: float(sk.matthews_corrcoef(labels, predictions)),
    "pearson": _correlation(stats.pearsonr),
    "spearman": _correlation(stats.spearmanr),
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
