"""One stage: what it starts from, its training, and its record."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax

from xtc_jax.compress import Vocabulary, float32_bytes, reduce_layers, reduce_vocabulary, rows_between
from xtc_jax.data import Dataset, far_below_chance, rank
from xtc_jax.devices import known_peaks
from xtc_jax.errors import UserError
from xtc_jax.formats import clear_unfinished, load_flax, read_config, save_flax, save_tokenizer
from xtc_jax.parallel import choose_arithmetic, on_first
from xtc_jax.params import Params
from xtc_jax.pipeline.inputs import Inputs, Log
from xtc_jax.pipeline.plan import (
    StagePlan,
    check_schedule,
)
from xtc_jax.pipeline.records import stage_record
from xtc_jax.pipeline.workdir import Result, make_directory, write_done, write_json
from xtc_jax.quantize import split
from xtc_jax.recipe.recipe import Recipe, digest
from xtc_jax.train import (
    Compiled,
    Logits,
    OptimizerSpec,
    Run,
    RunResult,
    Screen,
    StepTimes,
    TeacherCache,
    Upkeep,
    clear_checkpoints,
    time_steps,
    train,
)


def train_stage(
    plan: StagePlan,
    recipe: Recipe,
    inputs: Inputs,
    augmented: Callable[[], str],
    compiled: Compiled,
    answers: dict[str, Logits],
    cache: TeacherCache | None,
    log: Log,
    screen: Screen = "live",
) -> Result:
    """Train one stage at each of its learning rates, keep the best model, and record it.

    Args:
      plan: the stage.
      recipe: settings that stages share.
      inputs: checkpoints, task and data.
      augmented: makes the file of augmented training data, or finds it.
      compiled: steps that earlier stages compiled; this stage adds its own.
      answers: validation logits of the stages that were trained by this process, by name; this stage adds its own.
      cache: where what its teacher says is kept; None keeps nothing.
      log: receives lines of progress.
      screen: what is shown of the steps.

    Raises:
      UserError: a schedule longer than the stage, a teacher that is far below chance, or training that diverges at every
        learning rate.
    """
    stage = plan.stage
    on_first(_begin_stage, plan, inputs)
    runs, origin, teacher = _prepare(plan, recipe, inputs, augmented, cache, screen)
    steps = runs[stage.learning_rates[0]].optimizer.steps
    check_schedule(stage, steps)
    bits = stage.weight_bits
    pieces = f", {plan.config.vocab_size:,} word pieces" if plan.vocabulary else ""
    log(f"{stage.name}: {plan.config.num_hidden_layers} layers, {bits} bits{pieces}, {steps:,} steps of {stage.batch_size}")
    tried = {rate: train(run, origin, teacher, compiled) for rate, run in runs.items()}
    best = _best_rate(plan, {rate: run.metrics[inputs.task.metrics[0]] for rate, run in tried.items()}, log)
    if plan.teaches:
        _refuse_bad_teacher(plan, inputs, tried[best].metrics)
    if (logits := tried[best].logits) is not None:
        answers[stage.name] = logits
    save_flax(plan.directory / "model", plan.config, tried[best].params, _tokenizer(plan, inputs))
    return on_first(_finish_stage, plan, tried, best, log)


def time_stage(
    plan: StagePlan, recipe: Recipe, inputs: Inputs, augmented: Callable[[], str], compiled: Compiled
) -> tuple[StepTimes, int]:
    """How long a stage's steps take here, and how many make an epoch; arguments as of :func:`train_stage`."""
    runs, origin, teacher = _prepare(plan, recipe, inputs, augmented, None, "none")
    run = next(iter(runs.values()))
    return time_steps(run, origin, teacher, compiled), run.train_set.batches_per_epoch


def _prepare(
    plan: StagePlan, recipe: Recipe, inputs: Inputs, augmented: Callable[[], str], cache: TeacherCache | None, screen: Screen
) -> tuple[dict[float, Run], Params, Params | None]:
    """A stage's runs by learning rate, the params they start from, and the teacher's."""
    stage = plan.stage
    teacher = _teacher(plan, plan.teacher) if plan.teacher else None
    objective = replace(plan.objective, arithmetic=choose_arithmetic(recipe.config["arithmetic"]))
    train_set = train_set_of(plan, inputs, augmented)
    steps, warmup = stage.counts(train_set.batches_per_epoch)
    several = len(stage.learning_rates) > 1
    runs = {
        rate: Run(
            label=f"{stage.name} at {rate:g}" if several else stage.name,
            objective=objective,
            optimizer=OptimizerSpec(rate, steps, warmup, stage.weight_decay, stage.clip),
            train_set=train_set,
            eval_sets=inputs.sets(plan.vocabulary).validation,
            task=inputs.task,
            directory=plan.directory / f"learning_rate_{rate:g}" if several else plan.directory,
            seed=plan.fingerprint["seed"],
            eval_every=stage.eval_every,
            mesh=tuple(recipe.config["mesh"]),
            upkeep=_upkeep(recipe, screen),
            config=plan.fingerprint,
            cache=cache,
            patience=stage.patience,
        )
        for rate in stage.learning_rates
    }
    return runs, reduce_layers(_origin(plan, inputs), plan.layers), teacher


def train_set_of(plan: StagePlan, inputs: Inputs, augmented: Callable[[], str]) -> Dataset:
    """The data that a stage trains on, in batches of its size; ``augmented`` as of :func:`train_stage`."""
    sets = inputs.sets(plan.vocabulary)
    train = sets.read_train(augmented()) if plan.stage.augmented else sets.train_with_pairs(plan.stage.new_pairs)
    return replace(train, batch_size=plan.stage.batch_size)


def _begin_stage(plan: StagePlan, inputs: Inputs) -> None:
    make_directory(plan.directory)
    clear_unfinished(plan.directory / "model")
    write_json(plan.directory / "config.json", stage_record(plan, inputs))
    if plan.vocabulary is not None:
        save_tokenizer(inputs.checkpoints[plan.model].source, _tokenizer(plan, inputs), plan.vocabulary)


def _tokenizer(plan: StagePlan, inputs: Inputs) -> Path:
    """The directory with the tokenizer that goes with a stage's model."""
    return plan.directory / "tokenizer" if plan.vocabulary else inputs.checkpoints[plan.model].source


def _teacher(plan: StagePlan, teacher: StagePlan) -> Params:
    """The teacher's params, with the rows of the student's word pieces alone: what both read has no others."""
    return _with_rows(load_flax(teacher.directory / "model")[1], teacher.vocabulary, plan.vocabulary)


def _with_rows(params: Params, before: Vocabulary | None, after: Vocabulary | None) -> Params:
    rows = rows_between(before, after)
    return params if rows is None else reduce_vocabulary(params, rows)


def _upkeep(recipe: Recipe, screen: Screen) -> Upkeep:
    saves, window = recipe.config["checkpoint"], recipe.config["profile"]
    known = known_peaks(jax.devices()[0].device_kind)
    peak = known.operations["bfloat16"] if known else 0.0  # what a model's FLOPs utilisation is commonly a fraction of
    return Upkeep(saves["minutes"], saves["keep"], (window[0], window[1]) if window else None, peak_flops=peak, screen=screen)


def _origin(plan: StagePlan, inputs: Inputs) -> Params:
    """The params that a stage starts from, layers not yet reduced: a checkpoint's or a stage's, split where it says so.

    They have the rows of the stage's own word pieces alone.
    """
    before = plan.start
    if before is None:
        return _with_rows(inputs.checkpoints[plan.model].params, None, plan.vocabulary)
    params = _with_rows(load_flax(before.directory / "model")[1], before.vocabulary, plan.vocabulary)
    if not plan.stage.split:
        return params
    assert before.stage.rules is not None
    return split(params, before.stage.rules)


def _best_rate(plan: StagePlan, scores: dict[float, float], log: Log) -> float:
    """The learning rate with the highest selecting metric; those that diverged, NaN, are named and not taken."""
    diverged = [rate for rate, score in scores.items() if math.isnan(score)]
    named = ", ".join(f"{rate:g}" for rate in diverged)
    if len(diverged) == len(scores):
        raise UserError(
            f"config.{plan.stage.name}: training diverged at learning rate {named}: no evaluation had finite logits; "
            "use a smaller one"
        )
    if diverged:
        log(f"{plan.stage.name}: diverged at learning rate {named}; not taken")
    return max(scores, key=lambda rate: rank(scores[rate]))


def _finish_stage(plan: StagePlan, tried: dict[float, RunResult], rate: float, log: Log) -> Result:
    """Write the record of the stage; ``rate`` is the best of the learning rates that were tried."""
    stage, done = plan.stage, tried[rate]
    result = {
        "metrics": done.metrics,
        "layers": plan.config.num_hidden_layers,
        "word_pieces": plan.config.vocab_size,
        "weight_bits": stage.weight_bits,
        "learning_rate": rate,
        "steps": done.steps,
        "seconds": round(sum(run.seconds for run in tried.values()), 2),
        "examples_per_second": round(done.examples_per_second, 2),
        "bytes": float32_bytes(done.params),
    }
    if stage.grid:
        result["grid"] = {f"{rate:g}": _finite(run.metrics) for rate, run in tried.items()}
    write_done(plan.directory, digest(plan.fingerprint), result)
    for directory in (plan.directory, *plan.directory.glob("learning_rate_*")):
        clear_checkpoints(directory)
    best = f" (best at learning rate {rate:g})" if stage.grid else ""
    log(f"{stage.name}: {metrics_text(done.metrics)} in {result['seconds']:.0f} s{best}")
    return result


def _finite(metrics: dict[str, float]) -> dict[str, float | None]:
    """``metrics`` for a JSON file, which has no NaN."""
    return {name: None if math.isnan(value) else value for name, value in metrics.items()}


def _refuse_bad_teacher(plan: StagePlan, inputs: Inputs, metrics: dict[str, float]) -> None:
    """A teacher far below chance has its labels in another order; a student would learn that order from it."""
    examples = len(next(iter(inputs.validation.values())))
    reason, file = far_below_chance(inputs.task, metrics, examples), inputs.checkpoints[plan.model].source / "config.json"
    if reason:
        raise UserError(
            f"config.{plan.stage.name}: this teacher has {reason}; most likely its head has the labels in another order than "
            f"the task ({', '.join(inputs.task.labels)}): correct id2label in {file}, which has "
            f"({', '.join(read_config(file).labels)}), and use another --workdir"
        )


def metrics_text(metrics: dict[str, float]) -> str:
    """``accuracy 0.8253, f1 0.8100``."""
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
