"""The augmented training data of a recipe."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xtc_jax.augment import AugmentSpec, augment, rounds_of
from xtc_jax.parallel import on_first
from xtc_jax.pipeline.inputs import Inputs, Log, serves_both
from xtc_jax.recipe.recipe import Recipe

AUGMENTED = "augmented.parquet"


def augmented_file(inputs: Inputs, recipe: Recipe, file: Path, log: Log) -> str:
    """The path of the augmented training data; written to ``file``, or found there. "" where the data has rows enough."""
    config, data = recipe.config["augment"], recipe.config["data"]
    rows, sides = len(inputs.examples["train"].labels), len(inputs.task.text)
    count = rounds_for(config, inputs.task.name, rows, sides)
    if count == 0:
        log(f"augment: {rows:,} training examples are enough for config.augment.rows={config['rows']:,}: none are added")
        return ""
    spec = AugmentSpec(
        model=config["model"] or recipe.config["model"],
        task=inputs.task,
        data=data["train"] or data["path"],
        count=count,
        probability=config["probability"],
        candidates=config["candidates"],
        limit=data["limit_train"],
        missing=data["missing"],
        part="train" if serves_both(data) else "",
        seed=recipe.config["seed"],
        processes=config["processes"],
    )
    return on_first(lambda: str(augment(spec, file, log).path))


def rounds_for(config: Mapping[str, Any], task: str, rows: int, sides: int) -> int:
    """Rounds for every text, each of which adds a row at most, with which the data has about ``config["rows"]`` rows at most.

    Args:
      config: the block ``augment``. Its ``count``, or the task's, is the most; it decides alone where ``rows`` is 0.
      task: its name.
      rows: examples of the data.
      sides: texts of an example.

    >>> [rounds_for({"count": 0, "rows": 12_000}, "mine", rows, 2) for rows in (300, 2_000, 5_749, 9_000)]
    [20, 2, 1, 0]
    """
    most = config["count"] or rounds_of(task)
    return max(min(most, round((config["rows"] / rows - 1) / sides)), 0) if config["rows"] else most
