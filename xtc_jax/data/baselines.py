"""What a user would take instead of a BERT: the majority class, and a bag of words with a linear model.

A compressed model is worth its training only where it beats them. TF-IDF of words and of pairs of words, logistic
regression and ridge regression are scikit-learn's: Pedregosa et al. 2011, "Scikit-learn: Machine Learning in Python".
"""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xtc_jax.data.metrics import compute_metrics
from xtc_jax.data.sources import Examples
from xtc_jax.data.tasks import Task

_FLOAT = 4
"""Bytes of a stored number."""
_WORDS = (1, 2)
"""Single words, and pairs of neighbours."""
_INVERSE_REGULARIZATION = 10.0
"""Weaker than scikit-learn's 1, which underfits sentences: a baseline should be hard to beat."""


@dataclass(frozen=True)
class Baseline:
    """One baseline, fitted on the training data and measured on validation data.

    Attributes:
      name: in words.
      metrics: the task's, fractions.
      bytes: that its numbers take in float32, and its words in UTF-8.
      seconds: of fitting and predicting, on one core.
    """

    name: str
    metrics: dict[str, float]
    bytes: int
    seconds: float


def fit_baselines(task: Task, train: Examples, validation: Examples) -> list[Baseline]:
    """The constant answer, and TF-IDF with logistic regression (or, for a number, ridge regression).

    The two texts of a pair are one text for it. The second is left out where it cannot be fitted: training labels that are all
    alike, or texts without a word.
    """
    return [_constant(task, train, validation), *_bag_of_words(task, train, validation)]


def _constant(task: Task, train: Examples, validation: Examples) -> Baseline:
    begun = time.monotonic()
    answer = float(np.mean(train.labels)) if task.regression else int(np.bincount(train.labels).argmax())
    metrics = _measure(task, np.full(len(validation.labels), answer), validation)
    return Baseline("the training mean" if task.regression else "the majority class", metrics, _FLOAT, _since(begun))


def _bag_of_words(task: Task, train: Examples, validation: Examples) -> list[Baseline]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge

    if len(np.unique(train.labels)) < 2:
        return []
    begun = time.monotonic()
    vectorizer = TfidfVectorizer(ngram_range=_WORDS)
    try:
        words = vectorizer.fit_transform(_joined(train.texts))
    except ValueError:  # "empty vocabulary"
        return []
    model = Ridge() if task.regression else LogisticRegression(C=_INVERSE_REGULARIZATION, max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a baseline that stops early is one all the same
        model.fit(words, train.labels)
    metrics = _measure(task, model.predict(vectorizer.transform(_joined(validation.texts))), validation)
    name = f"TF-IDF with {'ridge' if task.regression else 'logistic'} regression"
    return [Baseline(name, metrics, _bytes(vectorizer, model), _since(begun))]


def _joined(texts: Sequence[tuple[str, ...]]) -> list[str]:
    return [" ".join(text) for text in texts]


def _measure(task: Task, answers: np.ndarray, validation: Examples) -> dict[str, float]:
    """The task's metrics of class ids or numbers, ``(examples,)``."""
    outputs = answers[:, None] if task.regression else np.eye(max(len(task.labels), 2))[answers]
    return compute_metrics(task, outputs, validation.labels)


def _bytes(vectorizer: Any, model: Any) -> int:
    numbers = vectorizer.idf_.size + np.size(model.coef_) + np.size(model.intercept_)
    return _FLOAT * int(numbers) + sum(len(word.encode()) for word in vectorizer.vocabulary_)


def _since(begun: float) -> float:
    return round(time.monotonic() - begun, 2)
