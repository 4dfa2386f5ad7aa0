"""The loop around the step: batches in, checkpoints and metrics out, best parameters back."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax

from xtc_jax.data import Dataset, Task, rank, train_batches
from xtc_jax.errors import Preempted
from xtc_jax.parallel.mesh import check_batch, fetch, local_rows, make_mesh, put_batch
from xtc_jax.parallel.preemption import preemption_notice
from xtc_jax.parallel.processes import is_first
from xtc_jax.parallel.sharding import put_sharded
from xtc_jax.params import Params
from xtc_jax.train.checkpoints import Best, Checkpoints, Progress, copy, open_checkpoints
from xtc_jax.train.evaluate import evaluate
from xtc_jax.train.identity import run_identity, teacher_identity
from xtc_jax.train.meter import Meter, split_of
from xtc_jax.train.metrics import Record, Screen, metrics_writer, notice, progress
from xtc_jax.train.objective import Objective
from xtc_jax.train.optimizer import OptimizerSpec, learning_rates, make_optimizer
from xtc_jax.train.phases import Phases, watchdog
from xtc_jax.train.profiling import profiler
from xtc_jax.train.state import TrainState, init_state
from xtc_jax.train.step import EvalStep, TrainStep, make_eval_step, make_train_step, student_params, trainable
from xtc_jax.train.teacher import make_teacher_step, teaching
from xtc_jax.train.teacher_cache import Targets, TeacherCache


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
    """Train, or go on where a killed process left its last checkpoint; both end with the same bits.

    Args:
      run: what to do; with 0 steps, ``params`` are evaluated as they are.
      params: initial latent parameters.
      teacher: the teacher's, if the objective has one.
      compiled: steps of earlier runs; gets those of this one.

    Returns:
      The best parameters and the account of the run; of a run of 0 steps the initial parameters, evaluated.

    Raises:
      UserError: the mesh or the batch size does not fit the devices; checkpoints of another run lie in the directory; or one
        could not be written.
      Preempted: SIGTERM came; a checkpoint is saved.
    """
    mesh = make_mesh(run.mesh)
    check_batch(run.train_set.batch_size, mesh, run.objective.accumulate)
    optimizer = make_optimizer(run.optimizer)
    key = jax.random.key(run.seed)
    params = trainable(run.objective, params, jax.random.fold_in(key, run.optimizer.steps))
    state = put_sharded(init_state(params, optimizer, key), mesh)
    compiled = {} if compiled is None else compiled
    if run.optimizer.steps == 0:
        return _measure(run, state, mesh, compiled)
    identity = run_identity(run.train_set, run.seed, run.optimizer.steps, run.optimizer.learning_rate, run.config)
    with (
        preemption_notice() as preempted,
        open_checkpoints(
            run.directory / "checkpoints", identity, run.upkeep.keep, run.upkeep.save_minutes, notice
        ) as checkpoints,
    ):
        done = checkpoints.restore(state) or Progress(state)
        del state  # the steps donate it
        with _targets(run, teacher, mesh, compiled) as targets:
            done = _steps(run, done, targets, checkpoints, preempted, mesh, compiled)
    assert done.best is not None, "the last step evaluates"
    speed = run.optimizer.steps * run.train_set.batch_size / done.seconds
    best = fetch(student_params(done.best.params), mesh)
    return RunResult(best, done.best.metrics, run.optimizer.steps, done.seconds, speed)


def clear_checkpoints(directory: Path) -> None:
    """Delete what a finished run no longer needs."""
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)


def _measure(run: Run, state: TrainState, mesh: jax.sharding.Mesh, compiled: Compiled) -> RunResult:
    """A run of 0 steps. It leaves no checkpoint: there is nothing to resume, and its parameters are given anew each time."""
    begun = time.monotonic()
    metrics = evaluate(_eval_step(run, mesh, compiled), state.params, run.eval_sets, run.task, mesh)
    seconds = time.monotonic() - begun
    if is_first():
        (run.directory / "metrics.jsonl").unlink(missing_ok=True)  # of a process that was killed right here
    with metrics_writer(run.directory) as write:
        write(0, {**_named(metrics), "seconds": seconds})
    return RunResult(fetch(student_params(state.params), mesh), metrics, 0, seconds, 0.0)


def _named(metrics: Mapping[str, float]) -> Record:
    """Metrics of an evaluation as entries of a record."""
    return {f"eval/{name}": value for name, value in metrics.items()}


def _train_step(run: Run, step: int, mesh: jax.sharding.Mesh, compiled: Compiled) -> TrainStep:
    """The jitted step under the rules in force at ``step``."""
    rules = run.objective.rules
    objective = replace(run.objective, rules=None if rules is None else rules.at(step))
    optimizer = replace(run.optimizer, learning_rate=0.0, steps=0, warmup=0)  # the rate is an argument of the step
    key = (objective, optimizer, mesh)
    if key not in compiled:
        compiled[key] = make_train_step(objective, make_optimizer(run.optimizer), mesh)
    return compiled[key]


@contextmanager
def _targets(run: Run, teacher: Params | None, mesh: jax.sharding.Mesh, compiled: Compiled) -> Iterator[Targets | None]:
    """What gives the teacher's outputs, from its cache where there is one; None without a teacher."""
    if teacher is None:
        yield None
        return
    told = teaching(run.objective)
    if (told, mesh) not in compiled:
        compiled[told, mesh] = make_teacher_step(told, mesh)
    targets = Targets(compiled[told, mesh], put_sharded(teacher, mesh), mesh, lambda line: notice(f"{run.label}: {line}"))
    if run.cache is not None:
        targets.use(run.cache, told, run.train_set, lambda: teacher_identity(told, teacher, run.train_set, mesh))
    try:
        yield targets
    finally:
        targets.close()


def _eval_step(run: Run, mesh: jax.sharding.Mesh, compiled: Compiled) -> EvalStep:
    """The jitted evaluation of what will be packed, also while the bits of a schedule are still on their way down."""
    rules = run.objective.rules
    final = None if rules is None else rules.at(run.optimizer.steps)
    key = (run.objective.student, final, mesh, run.objective.arithmetic)
    if key not in compiled:
        compiled[key] = make_eval_step(*key)
    return compiled[key]


def _better(best: Best | None, new: Best) -> Best:
    """The one with the higher selecting metric, which is the first; of equals the earlier, and NaN is the lowest.

    The new one's params are copied.
    """
    if best is not None and rank(next(iter(best.metrics.values()))) >= rank(next(iter(new.metrics.values()))):
        return best
    return replace(new, params=copy(new.params))


def _steps(
    run: Run,
    done: Progress,
    targets: Targets | None,
    checkpoints: Checkpoints,
    preempted: Callable[[], bool],
    mesh: jax.sharding.Mesh,
    compiled: Compiled,
) -> Progress:
    """Steps ``done.state.step .. run.optimizer.steps``."""
    state, best, start, total = done.state, done.best, int(done.state.step), run.optimizer.steps
    rates = learning_rates(run.optimizer)
    eval_step = _eval_step(run, mesh, compiled)
    changes = {start, *(run.objective.rules.changes if run.objective.rules else ())}
    phases, meter, shown = Phases(), Meter(run.train_set.batch_size, run.upkeep.peak_flops), Record()
    with phases("data"):
        rows = local_rows(run.train_set.batch_size, mesh)
        batches = train_batches(run.train_set, run.seed, total, start, rows)
    with (
        metrics_writer(run.directory, start) as write,
        progress(run.label, total, start, screen=run.upkeep.screen) as show,
        watchdog(phases, lambda line: notice(f"{run.label}: {line}")),
        profiler(run.directory / "profile", run.upkeep.profile) as traced,
    ):

        def log(step: int, record: Record) -> None:
            write(step, {**record, "seconds": done.seconds + phases.elapsed})
            shown.update(record)

        for step in range(start + 1, total + 1):
            with phases("data"):
                own = next(batches)
                batch = put_batch(own, mesh)
            if targets is not None and targets.waits:  # so that the time of the steps before is not the teacher's
                with phases("step"):
                    jax.block_until_ready(meter.latest)
            with phases("teacher") if targets is not None else nullcontext():
                target = None if targets is None else targets(own, batch)
            last, logs = step == total, step % run.upkeep.log_every == 0 or step == total
            with phases("step"), traced(step) as finish:
                if step - 1 in changes:
                    train_step = _train_step(run, step - 1, mesh, compiled)
                previous = meter.latest
                state, losses = train_step(state, target, batch, rates[step - 1])
                jax.block_until_ready(previous)  # one step in flight, so that times and the display are true
                finish(losses)
                meter.add(losses, (train_step, (state, target, batch, rates[step - 1])), *(targets.ran if targets else ()))
                means = meter.means() if logs else {}
            stop = preempted()
            if logs:
                spent = phases.take()
                rate = {"learning_rate": float(rates[step - 1])}
                log(step, {**means, **rate, **meter.speed(spent), **split_of(spent)})
            if step % run.eval_every == 0 or last:
                with phases("eval"):
                    metrics = evaluate(eval_step, state.params, run.eval_sets, run.task, mesh)
                    best = _better(best, Best(step, metrics, state.params))
                log(step, {**_named(metrics), **split_of(phases.take())})
            if last or stop or (logs and checkpoints.due()):
                with phases("checkpoint"):
                    checkpoints.save(Progress(state, best, done.seconds + phases.elapsed))
                log(step, split_of(phases.take()))
            if stop:
                checkpoints.wait()
                raise Preempted(f"{run.label}: stopped by SIGTERM at step {step}; checkpoint saved")
            show(step, shown)
    return Progress(state, best, done.seconds + phases.elapsed)
