"""How long a run's steps take here, and how many of them fit into a time."""

import functools
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from xtc_jax.parallel import check_batch, local_rows, make_mesh, put_batch, put_sharded
from xtc_jax.params import Params
from xtc_jax.train.evaluate import evaluate
from xtc_jax.train.objective import DeviceBatch
from xtc_jax.train.run import Compiled, Run, eval_step_of, optimizer_of, teacher_step_of, train_step_of
from xtc_jax.train.state import TrainState, init_state
from xtc_jax.train.step import TrainStep, trainable
from xtc_jax.train.teacher import Target

_REPEATS = 4
_MOST_EVALUATIONS = 12
_EVALUATING = 0.1
"""Share of a stage's time that may go into evaluation."""


@dataclass(frozen=True)
class StepTimes:
    """Seconds, compilation left out.

    Attributes:
      step: of a training step, the mean over an epoch's batches; without its teacher.
      teacher: of the teacher on the same batches; 0 without one.
      evaluation: of one evaluation on all validation splits.
    """

    step: float
    teacher: float
    evaluation: float


def time_steps(run: Run, params: Params, teacher: Params | None, compiled: Compiled) -> StepTimes:
    """Time steps of every padded length, on a state that is thrown away; ``compiled`` keeps what was compiled for it.

    Args:
      run: its optimizer's number of steps may be any.
      params: initial latent parameters.
      teacher: the teacher's, if the objective has one.
      compiled: steps of earlier runs; gets those of this one.

    Raises:
      UserError: the mesh or the batch size does not fit the devices.
    """
    mesh, data = make_mesh(run.mesh), run.train_set
    check_batch(data.batch_size, mesh, run.objective.accumulate)
    ready, optimizer = trainable(run.objective, params, jax.random.key(0)), optimizer_of(run)
    state = put_sharded(init_state(ready, optimizer, jax.random.key(0)), mesh)
    step, rows = train_step_of(run, 0, mesh, compiled), local_rows(data.batch_size, mesh)
    teach = None if teacher is None else functools.partial(teacher_step_of(run, mesh, compiled), put_sharded(teacher, mesh))
    plan = data.plan(run.seed, 0)
    own = taught = 0.0
    for width, count in Counter(planned.length for planned in plan).items():
        batch = put_batch(data.batch(next(planned for planned in plan if planned.length == width), rows), mesh)
        seconds, target = (0.0, None) if teach is None else _time(teach, batch)
        taught += count / len(plan) * seconds
        seconds, state = _time_updates(step, state, target, batch)
        own += count / len(plan) * seconds
    evaluation, _ = _time(evaluate, eval_step_of(run, mesh, compiled), state.params, run.eval_sets, run.task, mesh, repeats=1)
    return StepTimes(own, taught, evaluation)


def _time(call: Callable[..., Any], *arguments: Any, repeats: int = _REPEATS) -> tuple[float, Any]:
    """The median time of a call after a first one, which compiles; and what it gave."""
    result, times = jax.block_until_ready(call(*arguments)), []
    for _ in range(repeats):
        begun = time.monotonic()
        result = jax.block_until_ready(call(*arguments))
        times.append(time.monotonic() - begun)
    return float(np.median(times)), result


def _time_updates(step: TrainStep, state: TrainState, target: Target | None, batch: DeviceBatch) -> tuple[float, TrainState]:
    """:func:`_time` of a step, which takes its state away: the state goes from one to the next."""
    times = []
    for _ in range(1 + _REPEATS):
        begun = time.monotonic()
        state, _ = jax.block_until_ready(step(state, target, batch, np.float32(0)))
        times.append(time.monotonic() - begun)
    return float(np.median(times[1:])), state


def fit_steps(seconds: float, times: StepTimes, epoch: int, kept: bool) -> tuple[int, int]:
    """``(steps, steps between evaluations)`` that take ``seconds``.

    At most 12 evaluations, which together take a tenth of the time at most, but for the last one.

    Args:
      seconds: for all of it.
      times: of one.
      epoch: batches of the data.
      kept: what the teacher says of a batch is kept, so that it runs in the first epoch alone.
    """
    evaluations = min(max(int(_EVALUATING * seconds / times.evaluation), 1), _MOST_EVALUATIONS)
    left = seconds - evaluations * times.evaluation
    steps = left / (times.step + times.teacher)
    if kept and steps > epoch:
        steps = (left - epoch * times.teacher) / times.step
    whole = max(int(steps), 1)
    return whole, math.ceil(whole / evaluations)
