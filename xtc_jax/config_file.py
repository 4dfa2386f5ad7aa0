"""Config files with an argument and overrides, read by ``ml_collections``: ``FILE.py:arg`` and ``--config.key=value``."""

import os
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from xtc_jax.errors import UserError


def read_config_file(path: str, overrides: Sequence[str]) -> ConfigDict:
    """Call the file's ``get_config(arg)`` and apply the overrides.

    Args:
      path: ``FILE.py`` or ``FILE.py:ARGUMENT``.
      overrides: ``--config.key=value`` strings; values are read as the type of the key.

    Raises:
      UserError: no such file, an unknown key, a value of another type, or a bad argument.
    """
    file = path.partition(":")[0]
    if not os.path.isfile(file):
        raise UserError(f"{file}: no such config file")
    for text in overrides:
        if not (text.startswith("--config.") and "=" in text):
            raise UserError(f"{text}: not understood; overrides are written --config.KEY=VALUE")
    values = flags.FlagValues()
    argv = ["xtc", f"--config={path}", *overrides]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    try:
        values(argv)
        config: ConfigDict = values["config"].value
    except UserError:
        raise
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(_one_line(error, file)) from None
    return config


def _one_line(error: Exception, file: str) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return f"{file}: " + " ".join(str(error).split())
