"""The exceptions a person is meant to read."""

from pathlib import Path


class UserError(Exception):
    """Bad input: one line that names the file or key and says what to do about it.

    The ``xtc`` command prints the message alone and exits with status 2; a library caller sees an
    ordinary exception.
    """


class Preempted(BaseException):
    """SIGTERM has come, and what there was to save is saved. The ``xtc`` command exits with status 75: run it again.

    Like ``KeyboardInterrupt`` it may come anywhere, and no ``except Exception`` catches it.
    """


def refuse_pattern(path: Path) -> None:
    """Refuse a path that Orbax would take for a pattern of file names: it would save without the data, and only warn.

    Raises:
      UserError: ``path``, made absolute, contains ``*``, ``?`` or ``[``.
    """
    found = next((character for character in str(path.absolute()) if character in "*?["), "")
    if found:
        raise UserError(f"{path}: nothing can be saved under a path with {found!r}; choose a path without any of * ? [")
