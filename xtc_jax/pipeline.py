"""The recipe as resumable stages: train each, pack the last, measure the packed file, report.

Every stage owns a directory of the work directory: ``metrics.jsonl``, ``tensorboard/``, the trained ``model/`` and, when it
is finished, a ``DONE`` record with its result and the config it was made with. A finished stage is not run
again; one made with another config is refused by name, and nothing is ever overwritten.

Of several processes all run every stage, in a work directory that all can read; what is written is written by process 0.
"""

import functools
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from xtc_jax.augmentation import AugmentSpec, augment
from xtc_jax.bert import read_config
from xtc_jax.compress import float32_bytes, pack, ready, reduce_layers
from xtc_jax.data import Dataset, Task, compute_all, far_below_chance
from xtc_jax.errors import UserError
from xtc_jax.export import WEIGHTS, PackedModel, load_flax, load_packed, save_flax, save_packed
from xtc_jax.peaks import known_peaks
from xtc_jax.plan import (
    PACKED,
    StagePlan,
    check_schedule,
    make_objective,
    make_plans,
    packed_digest,
    packed_directory,
    packed_plans,
)
from xtc_jax.quantize import Params, split
from xtc_jax.recipe import Recipe, digest
from xtc_jax.setup import Say, Setup, load_setup
from xtc_jax.train import (
    Compiled,
    OptimizerSpec,
    Run,
    RunResult,
    Upkeep,
    agree,
    choose_arithmetic,
    clear_checkpoints,
    is_first,
    make_eval_step,
    make_mesh,
    on_first,
    predict_logits,
    put_replicated,
    put_sharded,
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
      UserError: anything wrong with config, model, data or work directory, or processes that differ in it, found before the
        first step.
    """
    agree(recipe.config, "config")
    notes: list[str] = []  # not said before all is checked: a mistake is one line
    setup = load_setup(recipe, notes.append)
    plans = make_plans(recipe, setup, workdir)
    agree({split: len(dataset) for split, dataset in {"train": setup.train, **setup.validation}.items()}, "data set")
    say = say if is_first() else lambda _: None
    on_first(_make_directory, workdir)
    if not workdir.is_dir():
        raise UserError(f"{workdir}: process 0 has made it and this process does not see it; all must share it")
    for note in notes:
        say(note)
    results: Result = {}
    compiled: Compiled = {}
    augmented = functools.cache(lambda: _augmented(setup, recipe, workdir / AUGMENTED, say))  # once, and only if asked for
    for plan in plans:
        done = on_first(_finished, plan.directory)
        results[plan.stage.result] = done or _train_stage(plan, plans, recipe, setup, augmented, compiled, say)
    for plan in packed_plans(plans):
        directory = packed_directory(plan, plans)
        key = PACKED if plan is plans[-1] else f"{plan.stage.result} {PACKED}"
        done = on_first(_finished, directory)
        results[key] = done or _export(plan, plans[0], recipe, setup, directory, say)
    on_first(_write_json, workdir / "results.json", results)
    return results


def _finished(directory: Path) -> Result | None:
    """The result of a finished stage, or None."""
    file = directory / "DONE"
    return json.loads(file.read_text())["result"] if file.exists() else None


def _write_done(directory: Path, config: str, result: Result) -> Result:
    """Record that a directory is finished, with the hash of the config it was made with."""
    _write_json(directory / "DONE", {"config": config, "result": result})
    return result


def _write_json(path: Path, value: Any) -> None:
    """Write at once: a file that exists is complete."""
    scratch = path.with_name(path.name + ".tmp")
    scratch.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(scratch, path)


def _make_directory(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)


def _begin_stage(plan: StagePlan) -> None:
    _make_directory(plan.directory)
    _write_json(plan.directory / "config.json", plan.fingerprint)


def _train_stage(
    plan: StagePlan,
    plans: list[StagePlan],
    recipe: Recipe,
    setup: Setup,
    augmented: Callable[[], Dataset],
    compiled: Compiled,
    say: Say,
) -> Result:
    stage = plan.stage
    on_first(_begin_stage, plan)
    named = {other.stage.name: other for other in plans}
    teacher_plan = named.get(stage.teacher)
    teacher = load_flax(teacher_plan.directory / "model")[1] if teacher_plan else None
    objective = make_objective(plan, plans, choose_arithmetic(recipe.config["arithmetic"]))
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
            mesh=tuple(recipe.config["mesh"]),
            upkeep=_upkeep(recipe),
            config=plan.fingerprint,
        )
        tried[rate] = train(work, origin, teacher, compiled)
    best = max(tried, key=lambda rate: tried[rate].metrics[setup.task.metrics[0]])
    if any(other.stage.teacher == stage.name for other in plans):
        _refuse_bad_teacher(plan, setup, tried[best].metrics)
    save_flax(plan.directory / "model", plan.config, tried[best].params, setup.checkpoints[plan.model].source)
    return on_first(_finish_stage, plan, tried, best, say)


def _upkeep(recipe: Recipe) -> Upkeep:
    saves, window = recipe.config["checkpoint"], recipe.config["profile"]
    known = known_peaks(jax.devices()[0].device_kind)
    peak = known.operations["bfloat16"] if known else 0.0  # what a model's FLOPs utilisation is commonly a fraction of
    return Upkeep(saves["minutes"], saves["keep"], (window[0], window[1]) if window else None, peak_flops=peak)


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
    return setup.read_train(on_first(lambda: str(augment(spec, file, say).path)))


def _finish_stage(plan: StagePlan, tried: dict[float, RunResult], rate: float, say: Say) -> Result:
    """Write the record of the stage; ``rate`` is the best of the learning rates that were tried."""
    stage, done = plan.stage, tried[rate]
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
    _write_done(plan.directory, digest(plan.fingerprint), result)
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


def _export(plan: StagePlan, first: StagePlan, recipe: Recipe, setup: Setup, directory: Path, say: Say) -> Result:
    """Pack a stage's model, then measure the file against the fake-quantized student it came from."""
    begun, rules, storage = time.monotonic(), plan.stage.rules, recipe.config["storage"]
    assert rules is not None
    latent = load_flax(plan.directory / "model")[1]
    packed = PackedModel(plan.config, pack(latent, rules), setup.task, setup.max_length)
    on_first(save_packed, directory, packed, setup.checkpoints[plan.model].source, storage)
    mesh, sets = make_mesh(recipe.config["mesh"]), setup.validation
    step, placed = make_eval_step(plan.config, rules, mesh), put_sharded(latent, mesh)
    fake = np.concatenate([predict_logits(step, placed, dataset, mesh) for dataset in sets.values()])
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
    say(f"{directory.name}: {size:,} bytes, {_metrics_text(metrics)}")
    return on_first(_write_done, directory, packed_digest(plan, storage), result)


def _agreement(a: np.ndarray, b: np.ndarray, task: Task) -> float:
    """Share of examples with the same class; of a regression, within 0.01 of each other."""
    same = np.abs(a - b)[:, 0] <= 0.01 if task.regression else a.argmax(axis=1) == b.argmax(axis=1)
    return float(same.mean())


def _metrics_text(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
