"""The augmented training data of a recipe."""

from pathlib import Path

from xtc_jax.augment.job import AugmentSpec, augment
from xtc_jax.parallel import on_first
from xtc_jax.pipeline.inputs import Inputs, Log, serves_both
from xtc_jax.recipe.recipe import Recipe

AUGMENTED = "augmented.parquet"


def augmented_file(inputs: Inputs, recipe: Recipe, file: Path, log: Log) -> str:
    """The path of the augmented training data; written to ``file``, or found there."""
    config, data = recipe.config["augment"], recipe.config["data"]
    spec = AugmentSpec(
        model=config["model"] or recipe.config["model"],
        task=inputs.task,
        data=data["train"] or data["path"],
        count=config["count"],
        probability=config["probability"],
        candidates=config["candidates"],
        limit=data["limit_train"],
        missing=data["missing"],
        part="train" if serves_both(data) else "",
        seed=recipe.config["seed"],
        processes=config["processes"],
    )
    return on_first(lambda: str(augment(spec, file, log).path))
