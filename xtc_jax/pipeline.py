"""The recipe as resumable stages: train each, pack the last, measure the packed file, report.

Every stage owns a directory of the work directory: ``metrics.jsonl``, ``tensorboard/``, the trained ``model/`` and, when it
is finished, a ``DONE`` record with its result and the config it was made with. A finished stage is not run
again; one made with another config is refused by name, and nothing is ever overwritten.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from xtc_jax.bert import BertConfig, complete, init, with_head
from xtc_jax.compress import LayerMap, float32_bytes, layer_map, pack, ready, reduce_layers
from xtc_jax.data import (
    Dataset,
    Examples,
    Task,
    compute_metrics,
    default_buckets,
    discover_labels,
    find_task,
    load_examples,
    load_tokenizer,
    tokenize,
)
from xtc_jax.errors import UserError
from xtc_jax.export import WEIGHTS, PackedModel, load_flax, load_model, load_packed, save_flax, save_packed
from xtc_jax.quantize import Params, assign_rules
from xtc_jax.recipe import Recipe, Stage, digest
from xtc_jax.report import Row, draw, markdown_table
from xtc_jax.train import (
    Objective,
    OptimizerSpec,
    Run,
    clear_checkpoints,
    make_eval_step,
    make_mesh,
    predict_logits,
    put_replicated,
    train,
)

PACKED = "packed"
Say = Callable[[str], None]
Result = dict[str, Any]


@dataclass(frozen=True)
class _Setup:
    """What all stages share: model, task and data, loaded and checked once."""

    config: BertConfig
    params: Params
    source: Path
    task: Task
    train: Dataset
    validation: Dataset
    max_length: int


@dataclass(frozen=True)
class _Plan:
    """A stage with what its config implies for this model."""

    stage: Stage
    config: BertConfig
    layers: LayerMap
    directory: Path
    fingerprint: dict[str, Any]


def run(recipe: Recipe, workdir: Path, say: Say) -> Result:
    """Run a recipe in ``workdir``, or what is left of it.

    Args:
      recipe: what to do.
      workdir: created if need be.
      say: called with one line of text as things happen.

    Returns:
      What ``results.json`` holds: one entry per stage, and ``packed`` if the last stage quantizes.

    Raises:
      UserError: anything wrong with config, model, data or work directory, found before the first step.
    """
    notes: list[str] = []  # not said before all is checked: a mistake is one line
    setup = _load(recipe, notes.append)
    plans = _plan(recipe, setup, workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    for note in notes:
        say(note)
    results: Result = {}
    for plan in plans:
        results[plan.stage.result] = _finished(plan.directory) or _train_stage(plan, plans, setup, say)
    if plans[-1].stage.rules is not None:
        results[PACKED] = _finished(workdir / PACKED) or _export(plans, setup, workdir, say)
    _write_json(workdir / "results.json", results)
    return results


def _load(recipe: Recipe, say: Say) -> _Setup:
    config = recipe.config
    data = config["data"]
    task = find_task(config["task"], tuple(data["text"]), data["label"], tuple(data["labels"]), data["regression"])
    paths = {split: data[split] or data["path"] for split in ("train", "validation")}
    if not task.labels:
        task = replace(task, labels=discover_labels(paths["train"], task))
    shape, params, source = load_model(config["model"])
    if data["max_length"] > shape.max_position_embeddings:
        raise UserError(f"config.data.max_length={data['max_length']} is more than the model's {shape.max_position_embeddings}")
    shape = with_head(shape, task.labels, task.regression)
    params, fresh = complete(shape, params, jax.random.key(config["seed"]))
    tokenizer = load_tokenizer(source)
    datasets = {}
    for split, batch_size in (("train", recipe.stages[0].batch_size), ("validation", data["eval_batch_size"])):
        examples = _limit(load_examples(paths[split], task, split), data[f"limit_{split}"])
        tokens = tokenize(tokenizer, examples.texts, data["max_length"])
        buckets = tuple(data["buckets"]) or default_buckets(data["max_length"])
        if buckets[-1] < tokens.lengths.max():
            raise UserError(
                f"config.data.buckets={buckets} end below {tokens.lengths.max()} tokens; the last must be data.max_length"
            )
        datasets[split] = Dataset(tokens, examples.labels, batch_size, buckets, shape.pad_token_id)
        say(f"{split}: {len(examples.labels):,} examples from {examples.where}")
    note = f"; new: {', '.join(fresh)}" if fresh else ""
    say(f"model: {config['model']}, {shape.num_hidden_layers} layers of {shape.hidden_size}{note}")
    return _Setup(shape, params, source, task, datasets["train"], datasets["validation"], data["max_length"])


def _limit(examples: Examples, most: int) -> Examples:
    """``most`` examples, evenly spaced (files are often sorted by label); 0 is all."""
    if not most or most >= len(examples.texts):
        return examples
    chosen = [i * len(examples.texts) // most for i in range(most)]
    return Examples([examples.texts[i] for i in chosen], examples.labels[chosen], examples.where)


def _plan(recipe: Recipe, setup: _Setup, workdir: Path) -> list[_Plan]:
    """Check every stage against the model and against what ``workdir`` already holds, before any runs."""
    plans: dict[str, _Plan] = {}
    for stage in recipe.stages:
        origin = plans[stage.init].config if stage.init else setup.config
        try:
            layers = layer_map(stage.layers, origin.num_hidden_layers)
        except UserError as error:
            raise UserError(f"config.{stage.name}.{error}") from None
        config = replace(origin, num_hidden_layers=len(layers.teacher_layers))
        if stage.dropout >= 0:
            rate = stage.dropout
            config = replace(config, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate, classifier_dropout=rate)
        if stage.rules is not None:
            _check_rules(config, stage)
        plan = _Plan(stage, config, layers, workdir / stage.name, recipe.fingerprint(stage))
        _refuse_other_config(plan)
        plans[stage.name] = plan
    ordered = list(plans.values())
    for plan in ordered:
        if plan.stage.teacher:
            _teacher_map(plan, ordered)
        try:
            make_mesh(plan.stage.batch_size)
        except UserError as error:
            raise UserError(f"config.{plan.stage.name}.{error}") from None
    try:
        make_mesh(setup.validation.batch_size)
    except UserError as error:
        raise UserError(f"config.data.eval_{error}") from None
    _refuse_other_packed(workdir / PACKED, ordered[-1])
    return ordered


def _check_rules(config: BertConfig, stage: Stage) -> None:
    """Refuse, before anything trains, rules that match nothing or that no packed model can hold."""
    assert stage.rules is not None
    try:
        assigned = assign_rules(jax.eval_shape(lambda: init(config, jax.random.key(0))), stage.rules)
    except UserError as error:
        raise UserError(f"config.{stage.name}: {error}") from None
    for path, spec in assigned.items():
        if isinstance(spec.granularity, int):
            raise UserError(f"config.{stage.name}: {path} in groups of {spec.granularity} cannot be packed; use tensor or row")
        if spec.activation_bits is not None and path.startswith("embeddings/"):
            raise UserError(
                f"config.{stage.name}: {path} is a table, it has no input to quantize; leave a{spec.activation_bits} out"
            )


def _teacher_map(plan: _Plan, plans: list[_Plan]) -> LayerMap:
    """Student layers as layers of the teacher, followed back through the stages in between."""
    named = {other.stage.name: other for other in plans}
    layers, at = plan.layers.teacher_layers, plan
    while at.stage.init and at.stage.init != plan.stage.teacher:
        at = named[at.stage.init]
        layers = tuple(at.layers.teacher_layers[layer] for layer in layers)
    try:
        return layer_map(layers, named[plan.stage.teacher].config.num_hidden_layers)
    except UserError as error:
        raise UserError(f"config.{plan.stage.name}.teacher={plan.stage.teacher!r}: {error}") from None


def _refuse_other_config(plan: _Plan) -> None:
    """A directory made with another config is refused, with the first key that differs."""
    file = plan.directory / "config.json"
    if not file.exists():
        return
    then = _flatten(json.loads(file.read_text()))
    now = _flatten(plan.fingerprint)
    for key in sorted(then.keys() | now.keys()):
        if then.get(key) != now.get(key):
            raise UserError(
                f"{plan.directory}: stage {plan.stage.name!r} was made with another config ({key}: {then.get(key)!r} then, "
                f"{now.get(key)!r} now); use another --workdir"
            )


def _refuse_other_packed(directory: Path, last: _Plan) -> None:
    """A packed model of another last stage is refused."""
    file = directory / "DONE"
    if file.exists() and json.loads(file.read_text())["config"] != digest(last.fingerprint):
        raise UserError(f"{directory}: was packed from another stage than {last.stage.name!r}; use another --workdir")


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {name: leaf for key, child in value.items() for name, leaf in _flatten(child, f"{prefix}.{key}".lstrip(".")).items()}


def _finished(directory: Path) -> Result | None:
    """The result of a finished stage, or None."""
    file = directory / "DONE"
    return json.loads(file.read_text())["result"] if file.exists() else None


def _write_json(path: Path, value: Any) -> None:
    """Write at once: a file that exists is complete."""
    scratch = path.with_name(path.name + ".tmp")
    scratch.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(scratch, path)


def _train_stage(plan: _Plan, plans: list[_Plan], setup: _Setup, say: Say) -> Result:
    stage = plan.stage
    plan.directory.mkdir(parents=True, exist_ok=True)
    _write_json(plan.directory / "config.json", plan.fingerprint)
    origin = load_flax(plan.directory.parent / stage.init / "model")[1] if stage.init else setup.params
    teacher_plan = next((other for other in plans if other.stage.name == stage.teacher), None)
    teacher = load_flax(teacher_plan.directory / "model")[1] if teacher_plan else None
    against = _teacher_map(plan, plans) if teacher_plan else plan.layers
    objective = Objective(plan.config, stage.rules, teacher_plan.config if teacher_plan else None, against, stage.loss)
    train_set = replace(setup.train, batch_size=stage.batch_size)
    steps, warmup = stage.counts(train_set.batches_per_epoch)
    work = Run(
        label=stage.name,
        objective=objective,
        optimizer=OptimizerSpec(stage.learning_rate, steps, warmup, stage.weight_decay, stage.clip),
        train_set=train_set,
        eval_set=setup.validation,
        task=setup.task,
        directory=plan.directory,
        seed=plan.fingerprint["seed"],
        eval_every=stage.eval_every,
    )
    say(
        f"{stage.name}: {plan.config.num_hidden_layers} layers, {stage.weight_bits} bits, {steps:,} steps of {stage.batch_size}"
    )
    done = train(work, reduce_layers(origin, plan.layers), teacher)
    save_flax(plan.directory / "model", plan.config, done.params, setup.source)
    result = {
        "metrics": done.metrics,
        "layers": plan.config.num_hidden_layers,
        "weight_bits": stage.weight_bits,
        "steps": done.steps,
        "seconds": round(done.seconds, 2),
        "examples_per_second": round(done.examples_per_second, 2),
        "bytes": float32_bytes(done.params),
    }
    _write_json(plan.directory / "DONE", {"config": digest(plan.fingerprint), "result": result})
    clear_checkpoints(plan.directory)
    say(f"{stage.name}: {_metrics_text(done.metrics)} in {done.seconds:.0f} s")
    return result


def _export(plans: list[_Plan], setup: _Setup, workdir: Path, say: Say) -> Result:
    """Pack the last stage, then measure the file against the fake-quantized student it came from."""
    begun, plan, rules = time.monotonic(), plans[-1], plans[-1].stage.rules
    assert rules is not None
    latent = load_flax(plan.directory / "model")[1]
    packed = PackedModel(plan.config, pack(latent, rules), setup.task, setup.max_length)
    save_packed(workdir / PACKED, packed, setup.source)
    mesh = make_mesh(setup.validation.batch_size)
    fake = predict_logits(make_eval_step(plan.config, rules, mesh), put_replicated(latent, mesh), setup.validation, mesh)
    stored = put_replicated(ready(load_packed(workdir / PACKED).params), mesh)
    start = time.monotonic()
    logits = predict_logits(make_eval_step(plan.config, None, mesh), stored, setup.validation, mesh)
    speed = len(setup.validation) / (time.monotonic() - start)
    size = (workdir / PACKED / WEIGHTS).stat().st_size
    fp32 = float32_bytes(load_flax(plans[0].directory / "model")[1])
    metrics = compute_metrics(setup.task, logits, setup.validation.labels)
    result = {
        "path": str(workdir / PACKED),
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
    _write_json(workdir / PACKED / "DONE", {"config": digest(plan.fingerprint), "result": result})
    say(f"{PACKED}: {size:,} bytes, {_metrics_text(metrics)}")
    return result


def _agreement(a: np.ndarray, b: np.ndarray, task: Task) -> float:
    """Share of examples with the same class; of a regression, within 0.01 of each other."""
    same = np.abs(a - b)[:, 0] <= 0.01 if task.regression else a.argmax(axis=1) == b.argmax(axis=1)
    return float(same.mean())


def _metrics_text(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def result_rows(results: Result) -> list[Row]:
    """The lines of the final table; the first stage is the teacher."""
    first = next(iter(results.values()))
    metric = next(iter(first["metrics"]))
    return [
        Row(
            name,
            result["layers"],
            result["weight_bits"],
            metric,
            result["metrics"][metric],
            first["metrics"][metric],
            result["bytes"],
            first["bytes"],
        )
        for name, result in results.items()
    ]


def write_report(results: Result, recipe: Recipe, workdir: Path) -> None:
    """Write ``report.md`` and its picture ``report.png``."""
    title = f"{recipe.config['task']}: {recipe.config['model']}"
    rows = result_rows(results)
    # The fake-quantized student is stored in float32 and has the packed model's metric: no bar of its own.
    drawn = [row for row in rows if row.bits == 32 or row.stage == PACKED or PACKED not in results]
    draw(drawn, workdir / "report.png", title)
    lines = [f"# {title}", "", markdown_table(rows), "![weights and metric of every stage](report.png)", ""]
    if PACKED in results:
        packed = results[PACKED]
        lines += [
            f"Packed model: `{packed['path']}`, {packed['bytes']:,} bytes of weights, {packed['ratio']:.2f} times fewer than "
            f"the teacher's {packed['fp32_bytes']:,} at four bytes each (tokenizer and config on neither side).",
            "",
            f"Against the fake-quantized student: predictions agree on {100 * packed['prediction_agreement']:.2f} % of the "
            f"validation examples, logits differ by at most {packed['max_logit_difference']:.2e}.",
            "",
        ]
    lines += ["```json", json.dumps(recipe.config, indent=1), "```", ""]
    (workdir / "report.md").write_text("\n".join(lines))
