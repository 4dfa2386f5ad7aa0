"""Logits and metrics of a model over a whole data set, every example exactly once."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from xtc_jax.data import Dataset, Task, compute_all, eval_batches
from xtc_jax.parallel.mesh import local_rows, put_batch
from xtc_jax.params import Params
from xtc_jax.train.step import EvalStep


def predict_logits(step: EvalStep, params: Params, dataset: Dataset, mesh: jax.sharding.Mesh) -> np.ndarray:
    """Logits ``(examples, labels)`` in the order of the data set: of every example, in every process.

    A process reads its own rows of each batch; the step hands the logits of all rows to all.
    """
    logits, seen = None, np.zeros(len(dataset), bool)
    batches = eval_batches(dataset, local_rows(dataset.batch_size, mesh))
    for planned, batch in zip(dataset.in_order(), batches, strict=True):
        rows = np.asarray(step(params, put_batch(batch, mesh)))
        if logits is None:
            logits = np.zeros((len(dataset), rows.shape[1]), rows.dtype)
        logits[planned.indices] = rows[: len(planned.indices)]
        seen[planned.indices] = True
    assert logits is not None, "no examples"
    assert seen.all(), "an example was not evaluated"
    return logits


Logits = dict[str, np.ndarray]
"""Of a model on every validation split, by its name: ``(examples, labels)`` in the order of the split."""


class Evaluation(NamedTuple):
    """The task's metrics on each of its validation splits, as fractions, and the logits that they were computed from."""

    metrics: dict[str, float]
    logits: Logits


def evaluate(
    step: EvalStep, params: Params, datasets: Mapping[str, Dataset], task: Task, mesh: jax.sharding.Mesh
) -> Evaluation:
    """Logits and metrics of a model on every split of ``datasets``; see :func:`xtc_jax.data.compute_all`."""
    logits = {split: predict_logits(step, params, dataset, mesh) for split, dataset in datasets.items()}
    return Evaluation(compute_all(task, logits, {split: dataset.labels for split, dataset in datasets.items()}), logits)
