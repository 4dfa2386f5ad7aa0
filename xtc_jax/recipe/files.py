"""Config files with an argument and overrides, read by ``ml_collections``: ``FILE.py:arg`` and ``--config.key=value``."""

import os
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from xtc_jax.errors import UserError


def read_config_file(path: str, overrides: Sequence[str]) -> ConfigDict:
    """Call the file's ``get_config(arg)`` and apply the overrides.

    Args:
      path: ``FILE.py`` or ``FILE.py:ARGUMENT``; or, in place of the file, the name of a recipe that ships with the package
        (``quickstart``, ``study/depth``).
      overrides: ``--config.key=value`` strings; values are read as the type of the key.

    Raises:
      UserError: no such file, an unknown key, a value of another type, or a bad argument.
    """
    file = find_config_file(path.partition(":")[0])
    for text in overrides:
        if not (text.startswith("--config.") and "=" in text):
            raise UserError(f"{text}: not understood; overrides are written --config.KEY=VALUE")
    config = _get_config(file, path.partition(":")[2])
    for text in overrides:
        _check_key(config, text)
    values = flags.FlagValues()
    argv = ["xtc", *overrides]
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
        values(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: {_one_line(error)}") from None
    return config


def find_config_file(name: str) -> str:
    """The file of a config: ``name`` itself if there is such a file, else the recipe of this name in the package.

    Raises:
      UserError: neither; lists the recipes.
    """
    if os.path.isfile(name):
        return name
    shipped = Path(__file__).parents[1] / "configs"
    recipes = sorted(file.relative_to(shipped).with_suffix("").as_posix() for file in shipped.rglob("*.py"))
    recipes = [recipe for recipe in recipes if not recipe.endswith(("__init__", "common"))]
    if name in recipes:
        return str(shipped / f"{name}.py")
    raise UserError(f"{name}: no such config file, nor one of the recipes that ship with xtc_jax: {', '.join(recipes)}")


def _get_config(file: str, argument: str) -> ConfigDict:
    """What the file's ``get_config(argument)`` returns; whatever goes wrong in the file is the user's error."""
    try:
        config = runpy.run_path(file)["get_config"](*filter(None, [argument]))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{file}: {type(error).__name__}: {_one_line(error)}") from None
    if not isinstance(config, ConfigDict):
        raise UserError(f"{file}: get_config returned a {type(config).__name__}, not a ConfigDict")
    return config


def _check_key(config: ConfigDict, text: str) -> None:
    node: Any = config
    for name in text.removeprefix("--config.").partition("=")[0].split("."):
        if not isinstance(node, ConfigDict) or name not in node:
            known = f"; it has {', '.join(node)}" if isinstance(node, ConfigDict) else ""
            raise UserError(f"{text}: the config has no key {name!r}{known}")
        node = node[name]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
