"""A recipe is data: its config schema, config files, and the checked and frozen form."""

from xtc_jax.recipe.files import read_config_file
from xtc_jax.recipe.recipe import Recipe, Stage, digest, make_recipe
from xtc_jax.recipe.schema import base_config, choose, parse_arg, stage_config

__all__ = [
    "Recipe",
    "Stage",
    "base_config",
    "choose",
    "digest",
    "make_recipe",
    "parse_arg",
    "read_config_file",
    "stage_config",
]
