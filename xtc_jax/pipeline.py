"""The recipe as resumable stages: train each, pack the last, measure the packed file, report.

Every stage owns a directory of the work directory: ``metrics.jsonl``, ``tensorboard/``, the trained ``model/`` and, when it
is finished, a ``DONE`` record with its result and the config it was made with. A finished stage is not run
again; one made with another config is refused by name, and nothing is ever overwritten.
"""

import functools
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from xtc_jax.augmentation import AugmentSpec, augment
from xtc_jax.bert import read_config
from xtc_jax.compress import float32_bytes, pack, ready, reduce_layers
from xtc_jax.data import Dataset, Task, compute_all, far_below_chance
from xtc_jax.errors import UserError
from xtc_jax.export import WEIGHTS, PackedModel, load_flax, load_packed, save_flax, save_packed
from xtc_jax.plan import PACKED, StagePlan, check_schedule, make_plans, packed_directory, packed_plans, teacher_map
from xtc_jax.quantize import Params, split
from xtc_jax.recipe import Recipe, digest
from xtc_jax.setup import Say, Setup, load_setup
from xtc_jax.train import (
    Compiled,
    Objective,
    OptimizerSpec,
    Run,
    RunResult,
    clear_checkpoints,
    make_eval_step,
    make_mesh,
    predict_logits,
    put_replicated,
    train,
)

Result = dict[str, Any]
AUGMENTED = "augmented.parquet"


def run(recipe: Recipe, workdir: Path, say: Say) -> Result:
    """Run a recipe in ``workdir``, or what is left of it.

    Args:
      recipe: what to do.
      workdir: created if need be.
      say: called with one line of text as things happen.

    Returns:
      What ``results.json`` holds: one entry per stage, ``packed`` if the last stage quantizes, and ``NAME packed`` for every
      other quantized stage that none goes on from.

    Raises:
      UserError: anything wrong with config, model, data or work directory, found before the first step.
    """
    notes: list[str] = []  # not said before all is checked: a mistake is one line
    setup = load_setup(recipe, notes.append)
    plans = make_plans(recipe, setup, workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    for note in notes:
        say(note)
    results: Result = {}
    compiled: Compiled = {}
    augmented = functools.cache(lambda: _augmented(setup, recipe, workdir / AUGMENTED, say))  # once, and only if asked for
    for plan in plans:
        results[plan.stage.result] = _finished(plan.directory) or _train_stage(plan, plans, setup, augmented, compiled, say)
    for plan in packed_plans(plans):
        directory = packed_directory(plan, plans)
        key = PACKED if plan is plans[-1] else f"{plan.stage.result} {PACKED}"
        results[key] = _finished(directory) or _export(plan, plans[0], setup, directory, say)
    _write_json(workdir / "results.json", results)
    return results


def _finished(directory: Path) -> Result | None:
    """The result of a finished stage, or None."""
    file = directory / "DONE"
    return json.loads(file.read_text())["result"] if file.exists() else None


def _write_json(path: Path, value: Any) -> None:
    """Write at once: a file that exists is complete."""
    scratch = path.with_name(path.name + ".tmp")
    scratch.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(scratch, path)


def _train_stage(
    plan: StagePlan, plans: list[StagePlan], setup: Setup, augmented: Callable[[], Dataset], compiled: Compiled, say: Say
) -> Result:
    stage = plan.stage
    plan.directory.mkdir(parents=True, exist_ok=True)
    _write_json(plan.directory / "config.json", plan.fingerprint)
    named = {other.stage.name: other for other in plans}
    teacher_plan = named.get(stage.teacher)
    teacher = load_flax(teacher_plan.directory / "model")[1] if teacher_plan else None
    objective = Objective(
        plan.config,
        stage.rules,
        teacher_plan.config if teacher_plan else None,
        teacher_map(plan, plans) if teacher_plan else plan.layers,
        stage.loss,
        teacher_plan.stage.rules if teacher_plan else None,
        plan.fingerprint["compute_dtype"],
    )
    origin = reduce_layers(_origin(plan, named, setup), plan.layers)
    train_set = replace(augmented() if stage.augmented else setup.train, batch_size=stage.batch_size)
    steps, warmup = stage.counts(train_set.batches_per_epoch)
    check_schedule(stage, steps)
    bits = stage.weight_bits
    say(f"{stage.name}: {plan.config.num_hidden_layers} layers, {bits} bits, {steps:,} steps of {stage.batch_size}")
    tried: dict[float, RunResult] = {}
    several = len(stage.learning_rates) > 1
    for rate in stage.learning_rates:
        work = Run(
            label=f"{stage.name} at {rate:g}" if several else stage.name,
            objective=objective,
            optimizer=OptimizerSpec(rate, steps, warmup, stage.weight_decay, stage.clip),
            train_set=train_set,
            eval_sets=setup.validation,
            task=setup.task,
            directory=plan.directory / f"learning_rate_{rate:g}" if several else plan.directory,
            seed=plan.fingerprint["seed"],
            eval_every=stage.eval_every,
        )
        tried[rate] = train(work, origin, teacher, compiled)
    best = max(tried, key=lambda rate: tried[rate].metrics[setup.task.metrics[0]])
    if any(other.stage.teacher == stage.name for other in plans):
        _refuse_bad_teacher(plan, setup, tried[best].metrics)
    return _finish_stage(plan, setup, tried, best, say)


def _origin(plan: StagePlan, named: dict[str, StagePlan], setup: Setup) -> Params:
    """The params that a stage starts from, layers not yet reduced: a checkpoint's or a stage's, split where it says so."""
    if not plan.stage.init:
        return setup.checkpoints[plan.model].params
    before = named[plan.stage.init]
    params = load_flax(before.directory / "model")[1]
    if not plan.stage.split:
        return params
    assert before.stage.rules is not None
    return split(params, before.stage.rules)


def _augmented(setup: Setup, recipe: Recipe, file: Path, say: Say) -> Dataset:
    """The augmented training data; written to ``file``, or found there."""
    config, data = recipe.config["augment"], recipe.config["data"]
    spec = AugmentSpec(
        model=config["model"] or recipe.config["model"],
        task=setup.task,
        data=data["train"] or data["path"],
        count=config["count"],
        probability=config["probability"],
        candidates=config["candidates"],
        limit=data["limit_train"],
        seed=recipe.config["seed"],
        processes=config["processes"],
    )
    return setup.read_train(str(augment(spec, file, say).path))


def _finish_stage(plan: StagePlan, setup: Setup, tried: dict[float, RunResult], rate: float, say: Say) -> Result:
    """Write the model of the best of the learning rates that were tried, ``rate``, and the record of the stage."""
    stage, done = plan.stage, tried[rate]
    save_flax(plan.directory / "model", plan.config, done.params, setup.checkpoints[plan.model].source)
    result = {
        "metrics": done.metrics,
        "layers": plan.config.num_hidden_layers,
        "weight_bits": stage.weight_bits,
        "learning_rate": rate,
        "steps": done.steps,
        "seconds": round(sum(run.seconds for run in tried.values()), 2),
        "examples_per_second": round(done.examples_per_second, 2),
        "bytes": float32_bytes(done.params),
    }
    if stage.grid:
        result["grid"] = {f"{rate:g}": run.metrics for rate, run in tried.items()}
    _write_json(plan.directory / "DONE", {"config": digest(plan.fingerprint), "result": result})
    for directory in (plan.directory, *plan.directory.glob("learning_rate_*")):
        clear_checkpoints(directory)
    best = f" (best at learning rate {rate:g})" if stage.grid else ""
    say(f"{stage.name}: {_metrics_text(done.metrics)} in {result['seconds']:.0f} s{best}")
    return result


def _refuse_bad_teacher(plan: StagePlan, setup: Setup, metrics: dict[str, float]) -> None:
    """A teacher far below chance has its labels in another order; a student would learn that order from it."""
    examples = len(next(iter(setup.validation.values())))
    reason, file = far_below_chance(setup.task, metrics, examples), setup.checkpoints[plan.model].source / "config.json"
    if reason:
        raise UserError(
            f"config.{plan.stage.name}: this teacher has {reason}; most likely its head has the labels in another order than "
            f"the task ({', '.join(setup.task.labels)}): correct id2label in {file}, which has "
            f"({', '.join(read_config(file).labels)}), and use another --workdir"
        )


def _export(plan: StagePlan, first: StagePlan, setup: Setup, directory: Path, say: Say) -> Result:
    """Pack a stage's model, then measure the file against the fake-quantized student it came from."""
    begun, rules = time.monotonic(), plan.stage.rules
    assert rules is not None
    latent = load_flax(plan.directory / "model")[1]
    packed = PackedModel(plan.config, pack(latent, rules), setup.task, setup.max_length)
    save_packed(directory, packed, setup.checkpoints[plan.model].source)
    mesh, sets = make_mesh(setup.eval_batch_size), setup.validation
    step, replicated = make_eval_step(plan.config, rules, mesh), put_replicated(latent, mesh)
    fake = np.concatenate([predict_logits(step, replicated, dataset, mesh) for dataset in sets.values()])
    stored = put_replicated(ready(load_packed(directory).params), mesh)
    start, step = time.monotonic(), make_eval_step(plan.config, None, mesh)
    by_split = {split: predict_logits(step, stored, dataset, mesh) for split, dataset in sets.items()}
    logits = np.concatenate(list(by_split.values()))
    speed = len(logits) / (time.monotonic() - start)
    size = (directory / WEIGHTS).stat().st_size
    fp32 = float32_bytes(load_flax(first.directory / "model")[1])
    metrics = compute_all(setup.task, by_split, {split: dataset.labels for split, dataset in sets.items()})
    result = {
        "path": str(directory),
        "bytes": size,
        "fp32_bytes": fp32,
        "ratio": fp32 / size,
        "metrics": metrics,
        "max_logit_difference": float(np.abs(logits - fake).max()),
        "prediction_agreement": _agreement(logits, fake, setup.task),
        "layers": plan.config.num_hidden_layers,
        "weight_bits": plan.stage.weight_bits,
        "steps": 0,
        "seconds": round(time.monotonic() - begun, 2),
        "examples_per_second": round(speed, 2),
    }
    _write_json(directory / "DONE", {"config": digest(plan.fingerprint), "result": result})
    say(f"{directory.name}: {size:,} bytes, {_metrics_text(metrics)}")
    return result


def _agreement(a: np.ndarray, b: np.ndarray, task: Task) -> float:
    """Share of examples with the same class; of a regression, within 0.01 of each other."""
    same = np.abs(a - b)[:, 0] <= 0.01 if task.regression else a.argmax(axis=1) == b.argmax(axis=1)
    return float(same.mean())


def _metrics_text(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
