"""What one training run is, and its compiled steps."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import optax

from xtc_jax.data import Dataset, Task
from xtc_jax.params import Params
from xtc_jax.train.evaluate import Logits
from xtc_jax.train.frozen import freezing
from xtc_jax.train.metrics import Screen
from xtc_jax.train.objective import Objective
from xtc_jax.train.optimizer import OptimizerSpec, make_optimizer
from xtc_jax.train.step import EvalStep, TrainStep, make_eval_step, make_train_step
from xtc_jax.train.teacher import TeacherStep, make_teacher_step, teaching
from xtc_jax.train.teacher_cache import TeacherCache


@dataclass(frozen=True)
class Upkeep:
    """What is done beside training and does not change its result.

    Attributes:
      save_minutes: between checkpoints, looked at when a record is written; the last step and SIGTERM always save.
      keep: checkpoints there are at a time, the newest; each has the best parameters in it.
      profile: ``(first step, how many)`` to trace; None traces nothing.
      log_every: steps averaged into one record of ``metrics.jsonl``.
      peak_flops: FLOPs per second of one device, for the utilisation; 0 if unknown.
      screen: what is shown of the steps, see :func:`xtc_jax.train.progress`.
    """

    save_minutes: float = 5.0
    keep: int = 2
    profile: tuple[int, int] | None = None
    log_every: int = 10
    peak_flops: float = 0.0
    screen: Screen = "live"


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
      directory: gets ``metrics.jsonl``, ``tensorboard/``, ``profile/`` and, until the run ends, ``checkpoints/``.
      seed: of dropout and of the data order.
      eval_every: steps between evaluations; the last step always evaluates.
      mesh: sizes of its axes ``(data, fsdp, tensor)``; it does not change the result.
      upkeep: checkpoints, records and traces.
      config: what the run was made from, as plain data; a checkpoint of another one is refused.
      cache: where the teacher's outputs are kept; None keeps none. It does not change the result.
      patience: evaluations in a row without a better one after which the run ends; 0 runs all steps.
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
    mesh: tuple[int, ...] = (-1, 1, 1)
    upkeep: Upkeep = field(default_factory=Upkeep)
    config: Mapping[str, Any] = field(default_factory=dict)
    cache: TeacherCache | None = None
    patience: int = 0


@dataclass(frozen=True)
class RunResult:
    """What a run gives back.

    Attributes:
      params: latent parameters of the best evaluation, host arrays.
      metrics: the task's metrics there, fractions.
      steps: optimizer steps done in all.
      seconds: wall time, evaluation and compilation included, over all processes that worked on it.
      examples_per_second: training examples per second of that time.
      logits: of the best evaluation, by validation split; None where a process made it that was stopped since.
    """

    params: Params
    metrics: dict[str, float]
    steps: int
    seconds: float
    examples_per_second: float
    logits: Logits | None = None


Compiled = dict[tuple[Any, ...], Any]
"""Jitted steps by what determines them, kept by the caller: runs that differ in learning rate, length or data compile once."""


def optimizer_of(run: Run) -> optax.GradientTransformationExtraArgs:
    """What updates the parameters that train."""
    return freezing(make_optimizer(run.optimizer), run.objective.freeze)


def train_step_of(run: Run, step: int, mesh: jax.sharding.Mesh, compiled: Compiled) -> TrainStep:
    """The jitted step under the rules in force at ``step``."""
    rules = run.objective.rules
    objective = replace(run.objective, rules=None if rules is None else rules.at(step))
    optimizer = replace(run.optimizer, learning_rate=0.0, steps=0, warmup=0)  # the rate is an argument of the step
    key = (objective, optimizer, mesh)
    if key not in compiled:
        compiled[key] = make_train_step(objective, optimizer_of(run), mesh)
    return compiled[key]


def teacher_step_of(run: Run, mesh: jax.sharding.Mesh, compiled: Compiled) -> TeacherStep:
    """The jitted teacher of a run that has one."""
    told = teaching(run.objective)
    if (told, mesh) not in compiled:
        compiled[told, mesh] = make_teacher_step(told, mesh)
    return compiled[told, mesh]


def eval_step_of(run: Run, mesh: jax.sharding.Mesh, compiled: Compiled) -> EvalStep:
    """The jitted evaluation of what will be packed, also while the bits of a schedule are still on their way down."""
    rules = run.objective.rules
    final = None if rules is None else rules.at(run.optimizer.steps)
    key = (run.objective.student, final, mesh, run.objective.arithmetic)
    if key not in compiled:
        compiled[key] = make_eval_step(*key)
    return compiled[key]
