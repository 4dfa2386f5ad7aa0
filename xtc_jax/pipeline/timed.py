"""A recipe with a time: how many steps each stage gets, measured when it begins and kept in ``budget.json``.

What is kept makes the stage one of a known number of steps: it is resumed, and repeated elsewhere, to the bit. A stage that
took less or more time than it was given leaves the others more or less. Started again with more minutes, a finished recipe goes
on: its last stage is followed by another of the same kind, which starts where it ended and is packed in a directory of its own.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from xtc_jax.errors import UserError
from xtc_jax.pipeline.workdir import finished, write_json
from xtc_jax.recipe.recipe import Recipe, Stage, parse_rules
from xtc_jax.train import StepTimes, fit_steps

BUDGET = "budget.json"
_LEAST_STEPS = 20
_WARMUP = (0.1, 100)
"""Share of a stage's steps, and most steps, of its warm-up."""
_END = (10.0, 8)
"""Seconds, and evaluations, for what comes after training: packing, its check, predictions and the report."""
_WIDTH = 384
"""Hidden size that learning rates of stages with a share are for; of a wider model they are smaller in proportion."""
_WORTH = 60.0
"""Seconds that must be left of more minutes for another stage."""
_FOUND = ("steps", "warmup_steps", "eval_every", "learning_rate")
"""Keys of a stage that are decided with its time."""

Budget = dict[str, dict[str, Any]]


def read_budget(workdir: Path) -> Budget:
    """What the stages of an earlier start got, by name; {} if there was none."""
    file = workdir / BUDGET
    return json.loads(file.read_text()) if file.is_file() else {}


def with_known_steps(recipe: Recipe, workdir: Path) -> Recipe:
    """The recipe with the numbers of steps that ``budget.json`` has, and with the stages that went on from its last."""
    budget = read_budget(workdir) if recipe.config["minutes"] else {}
    while any(name not in {stage.name for stage in recipe.stages} for name in budget):
        recipe = with_continuation(recipe)
    return replace(recipe, stages=tuple(_with_steps(recipe, stage, budget.get(stage.name)) for stage in recipe.stages))


def seconds_before(recipe: Recipe, workdir: Path) -> float:
    """Wall time that the finished stages of a work directory took."""
    results = (finished(workdir / stage.name) for stage in recipe.stages)
    return float(sum(result["seconds"] for result in results if result))


def is_open(stage: Stage, workdir: Path) -> bool:
    """Whether a stage's number of steps is still to be found."""
    return stage.share > 0 and stage.name not in read_budget(workdir)


def goes_on(recipe: Recipe, workdir: Path, used: float) -> bool:
    """Whether all stages are finished, and more minutes are asked for than there were when they began."""
    minutes, asked = recipe.config["minutes"], [record["minutes"] for record in read_budget(workdir).values()]
    done = all(finished(workdir / stage.name) for stage in recipe.stages)
    return bool(asked) and done and minutes > max(asked) and 60 * minutes - used > _WORTH


def decide_steps(
    recipe: Recipe, name: str, width: int, times: StepTimes, epoch: int, kept: bool, used: float, workdir: Path
) -> str:
    """Find the number of steps of a stage, and write it down.

    Args:
      recipe: with a time.
      name: of the stage.
      width: hidden size of its model.
      times: of its steps, measured.
      epoch: batches of its data.
      kept: what its teacher says is kept after the first epoch.
      used: seconds of the recipe's time that are over.
      workdir: gets ``budget.json``.

    Returns:
      A line for the screen.

    Raises:
      UserError: too little time for any training.
    """
    budget, minutes = read_budget(workdir), recipe.config["minutes"]
    stage = next(each for each in recipe.stages if each.name == name)
    waiting = [each for each in recipe.stages if each.share > 0 and each.name not in budget]
    left = 60 * minutes - used - _END[0] - _END[1] * times.evaluation
    seconds = left * stage.share / sum(each.share for each in waiting) / len(stage.learning_rates)
    steps, eval_every = fit_steps(seconds, times, epoch, kept)
    if seconds <= 0 or steps < _LEAST_STEPS:
        needed = _minutes_needed(stage, waiting, times, used)
        raise UserError(
            f"config.minutes={minutes:g} is too little: stage {name!r} would get {max(seconds, 0):.0f} s, and one step takes "
            f"{times.step + times.teacher:.2f} s here; give at least {needed}"
        )
    most = max(round(stage.most_epochs * epoch), _LEAST_STEPS)
    bounded = stage.most_epochs > 0 and most < steps
    if bounded:
        steps, eval_every = most, max(-(-eval_every * most // steps), 1)
    budget[name] = {
        "steps": steps,
        "warmup_steps": min(int(_WARMUP[0] * steps), _WARMUP[1]),
        "eval_every": eval_every,
        "learning_rate": stage.learning_rate * _WIDTH / width,
        "minutes": minutes,
        "seconds": round(seconds, 1),
        "epochs": round(steps / epoch, 2),
        "bound": "epochs" if bounded else "time",
        "measured": {key: round(value, 5) for key, value in asdict(times).items()},
    }
    write_json(workdir / BUDGET, budget)
    return _line(name, budget[name])


def _minutes_needed(stage: Stage, waiting: Sequence[Stage], times: StepTimes, used: float) -> int:
    own = _LEAST_STEPS * (times.step + times.teacher) + times.evaluation
    rest = own * sum(each.share for each in waiting) / stage.share * len(stage.learning_rates)
    return int((used + rest + _END[0] + _END[1] * times.evaluation) / 60) + 1


def _line(name: str, record: Mapping[str, Any]) -> str:
    times = record["measured"]
    teacher = f", its teacher {1e3 * times['teacher']:.0f} ms" if times["teacher"] else ""
    return (
        f"{name}: a step takes {1e3 * times['step']:.0f} ms{teacher}; "
        f"{record['steps']:,} steps, {record['epochs']:g} epochs, in "
        f"{'less than ' if record['bound'] == 'epochs' else ''}{record['seconds'] / 60:.1f} minutes"
    )


def _with_steps(recipe: Recipe, stage: Stage, record: Mapping[str, Any] | None) -> Stage:
    if record is None:
        return stage
    found = {key: record[key] for key in _FOUND}
    rules = stage.rules
    if stage.raw["bit_schedule"]:  # per cent of the steps
        rules = parse_rules(stage.name, ConfigDict({**recipe.config[stage.name], **found}))
    return replace(stage, **found, rules=rules, raw={**stage.raw, **found})


def with_continuation(recipe: Recipe) -> Recipe:
    """One more stage like the last, from where that ended; ``quantize_2`` goes on from ``quantize``."""
    first, last = next(stage for stage in recipe.stages if stage.name == recipe.config["stages"][-1]), recipe.stages[-1]
    number = len(recipe.stages) - len(recipe.config["stages"]) + 2
    changed: dict[str, Any] = {"init": last.name, "model": "", "layers": "", "split": False}
    changed["result"] = f"{first.result}_{number}"
    none: dict[str, Any] = {"vocabulary": 0, "vocabulary_min_count": 0, "vocabulary_corpus": ""}
    found = recipe.config[first.name]  # of before its steps and rate were decided
    changed |= {key: found[key] for key in _FOUND}
    raw = {key: value for key, value in first.raw.items() if key not in none}
    rules = first.rules and first.rules.at(max(first.rules.changes, default=0))  # the bits have fallen
    text = {**changed, "bit_schedule": ""}
    more = replace(first, name=f"{first.name}_{number}", **changed, **none, rules=rules, raw={**raw, **text})
    return replace(recipe, stages=(*recipe.stages, more))
