"""Paths that a library would misread."""

from pathlib import Path

from xtc_jax.errors import UserError

_PATTERN = "*?["


def refuse_pattern(path: Path) -> None:
    """Refuse a path that Orbax would take for a pattern of file names: it would save without the data, and only warn.

    Raises:
      UserError: ``path``, made absolute, contains ``*``, ``?`` or ``[``.
    """
    found = next((character for character in str(path.absolute()) if character in _PATTERN), "")
    if found:
        raise UserError(f"{path}: nothing can be saved under a path with {found!r}; choose a path without any of * ? [")
