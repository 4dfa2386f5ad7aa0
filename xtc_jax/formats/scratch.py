"""Directories that appear complete, or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SUFFIX = ".unfinished"


def make_scratch(target: Path) -> Path:
    """An empty directory beside ``target``, of a new name and inside a private one; :func:`publish` or :func:`discard` ends it.

    Raises:
      OSError: nothing can be written there.
    """
    target = _absolute(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Two levels: what tempfile makes is readable by its owner alone, and a model is to have the permissions of any directory.
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=_SUFFIX, dir=target.parent)) / target.name
    scratch.mkdir()
    return scratch


def publish(scratch: Path, target: Path) -> None:
    """Put what lies in ``scratch`` where ``target`` is; a directory there is replaced, an empty one is filled."""
    target = _absolute(target)
    if target.is_dir() and not any(target.iterdir()):  # perhaps the one that a shell stands in: it must stay
        for path in sorted(scratch.iterdir(), key=lambda path: path.name == "config.json"):  # last: without it nothing loads
            path.rename(target / path.name)
    else:
        shutil.rmtree(target, ignore_errors=True)
        scratch.rename(target)
    discard(scratch)


def discard(scratch: Path) -> None:
    """Delete a directory that :func:`make_scratch` made."""
    shutil.rmtree(scratch.parent, ignore_errors=True)


@contextmanager
def scratch_for(target: Path) -> Iterator[Path]:
    """A directory to write in, which becomes ``target`` when the context ends, and is deleted if it ends with an error."""
    scratch = make_scratch(target)
    try:
        yield scratch
        publish(scratch, target)
    except BaseException:
        discard(scratch)
        raise


def clear_unfinished(target: Path) -> None:
    """Delete what processes that were killed while they wrote ``target`` left beside it. None may be writing it now."""
    for path in target.parent.iterdir() if target.parent.is_dir() else ():
        if path.name.startswith(f".{target.name}.") and path.name.endswith(_SUFFIX):
            shutil.rmtree(path, ignore_errors=True)


def _absolute(path: Path) -> Path:
    """With a name of its own: ``.`` and ``..`` have none."""
    return Path(os.path.abspath(path))
