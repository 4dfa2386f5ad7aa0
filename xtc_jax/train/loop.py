"""The loop around the step: batches in, checkpoints and metrics out, best parameters back."""

import shutil
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from xtc_jax.data import Dataset, Task, train_batches
from xtc_jax.quantize import Params
from xtc_jax.train import checkpoints
from xtc_jax.train.evaluate import evaluate
from xtc_jax.train.mesh import make_mesh, put_batch, put_replicated
from xtc_jax.train.metrics import Record, metrics_writer, progress, read_metrics
from xtc_jax.train.optimizer import OptimizerSpec, learning_rates, make_optimizer
from xtc_jax.train.state import TrainState, init_state
from xtc_jax.train.step import EvalStep, Objective, TrainStep, make_eval_step, make_train_step, student_params, trainable


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
      label: name on the screen.
      objective: model, teacher and losses.
      optimizer: hyper-parameters, with the number of steps.
      train_set: what it learns from.
      eval_sets: validation splits by name; the first of the task's metrics on the first selects the best step.
      task: names the metrics.
      directory: gets ``metrics.jsonl``, ``tensorboard/`` and, until the run ends, ``checkpoints/``.
      seed: of dropout and of the data order.
      eval_every: steps between evaluations, each of which saves a checkpoint; the last step always
        evaluates.
      log_every: steps averaged into one record of ``metrics.jsonl``.
    """

    label: str
    objective: Objective
    optimizer: OptimizerSpec
    train_set: Dataset
    eval_sets: Mapping[str, Dataset]
    task: Task
    directory: Path
    seed: int
    eval_every: int
    log_every: int = 10


@dataclass(frozen=True)
class RunResult:
    """What a run gives back.

    Attributes:
      params: latent parameters of the best evaluation, host arrays.
      metrics: the task's metrics there, fractions.
      steps: optimizer steps done in all.
      seconds: wall time, evaluation and compilation included, over all processes that worked on it.
      examples_per_second: training examples per second of that time.
    """

    params: Params
    metrics: dict[str, float]
    steps: int
    seconds: float
    examples_per_second: float


Compiled = dict[tuple[Any, ...], Any]
"""Jitted steps by what determines them, kept by the caller: runs that differ in learning rate, length or data compile once."""


def train(run: Run, params: Params, teacher: Params | None, compiled: Compiled | None = None) -> RunResult:
    """Train, or go on where a killed process left its last checkpoint.

    Args:
      run: what to do; with 0 steps, ``params`` are evaluated as they are.
      params: initial latent parameters.
      teacher: the teacher's, if the objective has one.
      compiled: steps of earlier runs; gets those of this one.

    Returns:
      The best parameters and the account of the run; of a run of 0 steps the initial parameters, evaluated.

    Raises:
      UserError: the batch size does not fit the devices.
    """
    mesh = make_mesh(run.train_set.batch_size)
    optimizer = make_optimizer(run.optimizer)
    key = jax.random.key(run.seed)
    params = trainable(run.objective, params, jax.random.fold_in(key, run.optimizer.steps))
    state = put_replicated(init_state(params, optimizer, key), mesh)
    teacher = None if teacher is None else put_replicated(teacher, mesh)
    if run.optimizer.steps == 0:
        return _measure(run, state, mesh, {} if compiled is None else compiled)
    with checkpoints.open_checkpoints(run.directory / "checkpoints") as checkpointer:
        state = checkpoints.restore_latest(checkpointer, state) or state
        state = _steps(run, state, teacher, checkpointer, mesh, {} if compiled is None else compiled)
        best = checkpoints.restore_best(checkpointer, state)
    records = read_metrics(run.directory / "metrics.jsonl")
    metrics = next(_metrics(record) for record in records if record["step"] == int(best.step) and _metrics(record))
    seconds = records[-1]["seconds"]
    speed = run.optimizer.steps * run.train_set.batch_size / seconds
    return RunResult(jax.device_get(student_params(best.params)), metrics, run.optimizer.steps, seconds, speed)


def clear_checkpoints(directory: Path) -> None:
    """Delete what a finished run no longer needs."""
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)


def _measure(run: Run, state: TrainState, mesh: jax.sharding.Mesh, compiled: Compiled) -> RunResult:
    """A run of 0 steps. It leaves no checkpoint: there is nothing to resume, and its parameters are given anew each time."""
    begun = time.monotonic()
    metrics = evaluate(_eval_step(run, mesh, compiled), state.params, run.eval_sets, run.task, mesh)
    seconds = time.monotonic() - begun
    (run.directory / "metrics.jsonl").unlink(missing_ok=True)  # of a process that was killed right here
    with metrics_writer(run.directory) as write:
        write(0, {**{f"eval/{name}": value for name, value in metrics.items()}, "seconds": seconds})
    return RunResult(jax.device_get(student_params(state.params)), metrics, 0, seconds, 0.0)


def _metrics(record: Record) -> dict[str, float]:
    return {name.removeprefix("eval/"): value for name, value in record.items() if name.startswith("eval/")}


def _train_step(run: Run, step: int, mesh: jax.sharding.Mesh, compiled: Compiled) -> TrainStep:
    """The jitted step under the rules in force at ``step``."""
    rules = run.objective.rules
    objective = replace(run.objective, rules=None if rules is None else rules.at(step))
    optimizer = replace(run.optimizer, learning_rate=0.0, steps=0, warmup=0)  # the rate is an argument of the step
    key = (objective, optimizer, mesh)
    if key not in compiled:
        compiled[key] = make_train_step(objective, make_optimizer(run.optimizer), mesh)
    return compiled[key]


def _eval_step(run: Run, mesh: jax.sharding.Mesh, compiled: Compiled) -> EvalStep:
    """The jitted evaluation of what will be packed, also while the bits of a schedule are still on their way down."""
    rules = run.objective.rules
    final = None if rules is None else rules.at(run.optimizer.steps)
    key = (run.objective.student, final, mesh)
    if key not in compiled:
        compiled[key] = make_eval_step(run.objective.student, final, mesh)
    return compiled[key]


def _steps(
    run: Run,
    state: TrainState,
    teacher: Params | None,
    checkpointer: checkpoints.Checkpointer,
    mesh: jax.sharding.Mesh,
    compiled: Compiled,
) -> TrainState:
    """Steps ``state.step .. run.optimizer.steps``."""
    rates = learning_rates(run.optimizer)
    eval_step = _eval_step(run, mesh, compiled)
    start, total, metrics_file = int(state.step), run.optimizer.steps, run.directory / "metrics.jsonl"
    changes = {start, *(run.objective.rules.changes if run.objective.rules else ())}
    before = max((record["seconds"] for record in read_metrics(metrics_file) if record["step"] <= start), default=0.0)
    begun = time.monotonic()
    window: defaultdict[str, list[jax.Array]] = defaultdict(list)
    shown: Record = {}
    with metrics_writer(run.directory, start) as write, progress(run.label, total, start) as show:
        for step, batch in enumerate(train_batches(run.train_set, run.seed, total, start), start + 1):
            previous = window["loss"][-1:]
            if step - 1 in changes:
                train_step = _train_step(run, step - 1, mesh, compiled)
            state, losses = train_step(state, teacher, put_batch(batch, mesh), rates[step - 1])
            jax.block_until_ready(previous)  # one step in flight, so that times and the display are true
            for name, value in losses.items():
                window[name].append(value)
            seconds = time.monotonic() - begun
            if step % run.log_every == 0 or step == total:
                means = {name: float(np.mean(jax.device_get(values))) for name, values in window.items()}
                means["examples_per_second"] = (step - start) * run.train_set.batch_size / seconds
                write(step, {**means, "seconds": before + seconds})
                shown |= means
                window.clear()
            if step % run.eval_every == 0 or step == total:
                metrics = evaluate(eval_step, state.params, run.eval_sets, run.task, mesh)
                record = {f"eval/{name}": value for name, value in metrics.items()}
                # The record first: a checkpoint without its metrics could not be chosen, a record without its
                # checkpoint is dropped on resuming.
                write(step, {**record, "seconds": before + time.monotonic() - begun})
                checkpoints.save(checkpointer, state, metrics[run.task.metrics[0]])
                shown |= record
            show(step, shown)
    return state
