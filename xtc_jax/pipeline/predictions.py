"""What teacher and student answer on the validation data, kept for the report: ``predictions.json`` of the work directory.

It has texts of the user's data in it, and stays beside the data on the user's disk.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from xtc_jax.data import Dataset, Task, evenly_spaced
from xtc_jax.formats import load_flax
from xtc_jax.parallel import choose_arithmetic, make_mesh, on_first, put_sharded
from xtc_jax.pipeline.inputs import Inputs
from xtc_jax.pipeline.plan import StagePlan
from xtc_jax.pipeline.workdir import write_json
from xtc_jax.recipe.recipe import Recipe, digest
from xtc_jax.train import Compiled, Logits, make_eval_step, predict_logits

PREDICTIONS = "predictions.json"
_SHOWN = 16
"""Examples whose texts are kept: those on which the two differ most."""
_SOME = 3


def keep_predictions(
    recipe: Recipe, inputs: Inputs, plans: list[StagePlan], workdir: Path, compiled: Compiled, answers: Mapping[str, Logits]
) -> None:
    """Write the logits of the first stage and of the last on the selecting validation split, unless they are there already.

    Args:
      recipe, inputs, plans: of the run, all of whose stages are finished.
      workdir: gets the file.
      compiled: evaluation steps of the stages; those that are missing are added.
      answers: validation logits of the stages that this process trained, by name; those of others are computed.
    """
    chosen = [plans[0]] if len(plans) == 1 else [plans[0], plans[-1]]
    key = digest([*(plan.fingerprint for plan in chosen), dict(inputs.digests)])
    if on_first(_is_there, workdir / PREDICTIONS, key):
        return
    split = next(iter(inputs.validation))
    logits = {}
    for plan in chosen:
        known = answers.get(plan.stage.name)
        logits[plan.stage.result] = known[split] if known else _logits(plan, recipe, inputs, split, compiled)
    texts = inputs.examples[split].texts
    labels = inputs.validation[split].labels
    record = {"key": key, "split": split, **prediction_record(inputs.task, texts, labels, logits)}
    on_first(write_json, workdir / PREDICTIONS, record)


def _is_there(file: Path, key: str) -> bool:
    try:
        return bool(json.loads(file.read_text())["key"] == key)
    except (OSError, ValueError, KeyError):
        return False


def _logits(plan: StagePlan, recipe: Recipe, inputs: Inputs, split: str, compiled: Compiled) -> np.ndarray:
    """Of a stage's model, quantized as it will be packed."""
    stage, mesh = plan.stage, make_mesh(recipe.config["mesh"])
    dataset: Dataset = inputs.sets(plan.vocabulary).validation[split]
    rules = None if stage.rules is None else stage.rules.at(max(stage.rules.changes, default=0))
    key = (plan.config, rules, mesh, choose_arithmetic(recipe.config["arithmetic"]))
    if key not in compiled:
        compiled[key] = make_eval_step(*key)
    params = put_sharded(load_flax(plan.directory / "model")[1], mesh)
    return np.asarray(predict_logits(compiled[key], params, dataset, mesh))


def prediction_record(
    task: Task, texts: list[tuple[str, ...]], labels: np.ndarray, logits: dict[str, np.ndarray]
) -> dict[str, Any]:
    """What the file holds.

    Args:
      task: names the classes.
      texts: of every example.
      labels: class ids, or numbers.
      logits: float ``(examples, classes)`` of one model or of two, the teacher first.

    Returns:
      ``classes`` (empty for a regression), ``labels``, ``answers``: each model's class ids, or its numbers; and ``examples``:
      where two models differ in class (or, for a regression, most), the largest difference first, with texts, label, and
      what each model answers with which probability (or number); and ``some``: three examples, evenly spaced, in the same form.
    """
    answers = {name: each[:, 0] if task.regression else each.argmax(axis=1) for name, each in logits.items()}
    values = {name: each if task.regression else np.asarray(jax.nn.softmax(each, axis=1)) for name, each in logits.items()}

    def shown(i: int) -> dict[str, Any]:
        given = {name: [answers[name][i].item(), round(float(values[name][i].max()), 4)] for name in logits}
        return {"texts": list(texts[i]), "label": labels[i].item(), **given}

    return {
        "classes": [] if task.regression else list(task.labels),
        "labels": labels.tolist(),
        "answers": {name: np.round(each, 4).tolist() for name, each in answers.items()},
        "examples": [shown(i) for i in _most_different(answers, values, task.regression)],
        "some": [shown(int(i)) for i in evenly_spaced(len(texts), _SOME)],
    }


def _most_different(answers: dict[str, np.ndarray], values: dict[str, np.ndarray], regression: bool) -> list[int]:
    if len(answers) < 2:
        return []
    (first, second), (one, two) = answers.values(), values.values()
    distance = np.abs(one - two).max(axis=1)
    order = np.argsort(-distance, kind="stable")
    return [int(i) for i in order if regression or first[i] != second[i]][:_SHOWN]
