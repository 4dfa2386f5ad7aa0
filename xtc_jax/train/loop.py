"""The loop around the step: batches in, checkpoints and metrics out, best parameters back."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import jax

from xtc_jax.data import rank, train_batches
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
from xtc_jax.train.metrics import Record, metrics_writer, notice, progress
from xtc_jax.train.optimizer import learning_rates
from xtc_jax.train.phases import Phases, watchdog
from xtc_jax.train.profiling import profiler
from xtc_jax.train.run import Compiled, Run, RunResult, eval_step_of, optimizer_of, teacher_step_of, train_step_of
from xtc_jax.train.state import TrainState, init_state
from xtc_jax.train.step import student_params, trainable
from xtc_jax.train.teacher import teaching
from xtc_jax.train.teacher_cache import Targets


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
    optimizer = optimizer_of(run)
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
    steps = int(done.state.step)
    best = done.best
    speed = steps * run.train_set.batch_size / done.seconds
    return RunResult(fetch(student_params(best.params), mesh), best.metrics, steps, done.seconds, speed, best.logits)


def clear_checkpoints(directory: Path) -> None:
    """Delete what a finished run no longer needs."""
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)


def _measure(run: Run, state: TrainState, mesh: jax.sharding.Mesh, compiled: Compiled) -> RunResult:
    """A run of 0 steps. It leaves no checkpoint: there is nothing to resume, and its parameters are given anew each time."""
    begun = time.monotonic()
    found = evaluate(eval_step_of(run, mesh, compiled), state.params, run.eval_sets, run.task, mesh)
    seconds = time.monotonic() - begun
    if is_first():
        (run.directory / "metrics.jsonl").unlink(missing_ok=True)  # of a process that was killed right here
    with metrics_writer(run.directory) as write:
        write(0, {**_named(found.metrics), "seconds": seconds})
    return RunResult(fetch(student_params(state.params), mesh), found.metrics, 0, seconds, 0.0, found.logits)


def _named(metrics: Mapping[str, float]) -> Record:
    """Metrics of an evaluation as entries of a record."""
    return {f"eval/{name}": value for name, value in metrics.items()}


def _idle(run: Run, best: Best | None, step: int) -> bool:
    """Whether the run ends at ``step``: so many evaluations in a row were not better than the best."""
    return run.patience > 0 and best is not None and step - best.step >= run.patience * run.eval_every


def _leave(checkpoints: Checkpoints, message: str) -> NoReturn:
    checkpoints.wait()
    raise Preempted(message)


@contextmanager
def _targets(run: Run, teacher: Params | None, mesh: jax.sharding.Mesh, compiled: Compiled) -> Iterator[Targets | None]:
    """What gives the teacher's outputs, from its cache where there is one; None without a teacher."""
    if teacher is None:
        yield None
        return
    step = teacher_step_of(run, mesh, compiled)
    targets = Targets(step, put_sharded(teacher, mesh), mesh, lambda line: notice(f"{run.label}: {line}"))
    if run.cache is not None:
        told = teaching(run.objective)
        targets.use(run.cache, told, run.train_set, lambda: teacher_identity(told, teacher, run.train_set, mesh))
    try:
        yield targets
    finally:
        targets.close()


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
    """Steps ``done.state.step .. run.optimizer.steps``, or until the metric no longer rises, see :class:`Run`."""
    state, best, start, total = done.state, done.best, int(done.state.step), run.optimizer.steps
    rates = learning_rates(run.optimizer)
    eval_step = eval_step_of(run, mesh, compiled)
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

        for step in range(start + 1, start + 1 if _idle(run, best, start) else total + 1):
            with phases("data"):
                own = next(batches)
                batch = put_batch(own, mesh)
            if targets is not None and targets.waits(own):  # so that the time of the steps before is not the teacher's
                with phases("step"):
                    jax.block_until_ready(meter.latest)
            with phases("teacher") if targets is not None else nullcontext():
                target = None if targets is None else targets(own, batch)
            last, logs = step == total, step % run.upkeep.log_every == 0 or step == total
            with phases("step"), traced(step) as finish:
                if step - 1 in changes:
                    train_step = train_step_of(run, step - 1, mesh, compiled)
                previous = meter.latest
                state, losses = train_step(state, target, batch, rates[step - 1])
                jax.block_until_ready(previous)  # one step in flight, so that times and the display are true
                finish(losses)
                meter.add(losses, (train_step, (state, target, batch, rates[step - 1])), *(targets.ran if targets else ()))
                means = meter.means() if logs else {}
            stop = preempted()
            if logs:
                spent = phases.take()
                log(step, {**means, "learning_rate": float(rates[step - 1]), **meter.speed(spent), **split_of(spent)})
            if step % run.eval_every == 0 or last:
                with phases("eval"):
                    found = evaluate(eval_step, state.params, run.eval_sets, run.task, mesh)
                    best = _better(best, Best(step, found.metrics, state.params, found.logits))
                log(step, {**_named(found.metrics), **split_of(phases.take())})
                last = last or _idle(run, best, step)
            if last or stop or (logs and checkpoints.due()):
                with phases("checkpoint"):
                    checkpoints.save(Progress(state, best, done.seconds + phases.elapsed))
                log(step, split_of(phases.take()))
            if stop:
                _leave(checkpoints, f"{run.label}: stopped by SIGTERM at step {step}; checkpoint saved")
            show(step, shown)
            if last:
                break
    return Progress(state, best, done.seconds + phases.elapsed)
