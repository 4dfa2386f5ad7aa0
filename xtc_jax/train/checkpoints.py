"""Checkpoints of a run, by Orbax: the latest, to resume from, and the best, to go on with."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import jax
from orbax.checkpoint import v1 as ocp

from xtc_jax.train.state import TrainState

Checkpointer: TypeAlias = ocp.training.Checkpointer
_METRIC, _STEP = "selection", "step"


@contextmanager
def open_checkpoints(directory: Path) -> Iterator[Checkpointer]:
    """A checkpointer on ``directory`` that keeps two: the latest and the best by the selecting metric.

    Saves are asynchronous; leaving the context waits for them. A half-written checkpoint of a killed
    process is removed, never read.
    """
    policies = ocp.training.preservation_policies
    keep = policies.AnyPreservationPolicy(
        [policies.LatestN(1), policies.BestN(get_metric_fn=lambda metrics: (metrics[_METRIC], -metrics[_STEP]), n=1)]
    )
    checkpointer = Checkpointer(
        directory.absolute(),
        save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
        preservation_policy=keep,
        cleanup_tmp_directories=True,
    )
    try:
        yield checkpointer
        checkpointer.wait()
    finally:
        checkpointer.close()


def save(checkpointer: Checkpointer, state: TrainState, metric: float) -> None:
    """Start to save ``state`` under its step; at most one save is in flight."""
    checkpointer.wait()
    step = int(state.step)
    checkpointer.save_checkpointables_async(step, {"state": state}, metrics={_METRIC: metric, _STEP: step})


def restore_latest(checkpointer: Checkpointer, like: TrainState) -> TrainState | None:
    """The latest checkpoint, placed as ``like`` is; None if there is none."""
    latest = checkpointer.latest
    return None if latest is None else _restore(checkpointer, latest.step, like)


def restore_best(checkpointer: Checkpointer, like: TrainState) -> TrainState:
    """The checkpoint with the highest selecting metric; of equals, the earliest."""
    checkpointer.wait()
    best = max(checkpointer.checkpoints, key=lambda checkpoint: (checkpoint.metrics[_METRIC], -checkpoint.step))
    return _restore(checkpointer, best.step, like)


def _restore(checkpointer: Checkpointer, step: int, like: TrainState) -> TrainState:
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
    restored: TrainState = checkpointer.load_checkpointables(step, {"state": abstract})["state"]
    return restored
