"""Records of a work directory: a file that exists is complete, and a directory with ``DONE`` is finished."""

import errno
import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from xtc_jax.errors import UserError

Result = dict[str, Any]
LOCK = "LOCK"
"""The file whose lock one process holds as long as it works in a directory. It stays; its text is for messages alone."""


def finished(directory: Path) -> Result | None:
    """The result of a finished stage, or None."""
    file = directory / "DONE"
    return json.loads(file.read_text())["result"] if file.exists() else None


def write_done(directory: Path, config: str, result: Result) -> Result:
    """Record that a directory is finished, with the hash of the config it was made with."""
    write_json(directory / "DONE", {"config": config, "result": result})
    return result


def write_json(path: Path, value: Any) -> None:
    """Write at once: a file that exists is complete."""
    scratch = path.with_name(path.name + ".tmp")
    scratch.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(scratch, path)


def make_directory(path: Path) -> None:
    """Make a directory with its parents; one that exists is left as it is."""
    path.mkdir(parents=True, exist_ok=True)


@contextmanager
def hold(directory: Path, log: Callable[[str], None]) -> Iterator[None]:
    """Hold the exclusive lock on a work directory that exists. The system ends it with the process, however that ends.

    Where the file system has no locks, ``log`` receives a line, and the work goes on without.

    Raises:
      UserError: another process holds it; says which, where, and since when.
    """
    with open(directory / LOCK, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise UserError(f"{directory}: {_holder(file)}; wait for its end, or use another --workdir") from None
            log(f"{directory}: cannot be locked here ({error.strerror}); start no second run in it")
        else:
            _sign(file)
        yield


def _sign(file: IO[str]) -> None:
    since = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    file.truncate(0)
    file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}) + "\n")
    file.flush()


def _holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        record = json.loads(file.read())
        return f"process {record['pid']} on {record['host']} works in it since {record['since']}"
    except (ValueError, KeyError, TypeError):  # it has just been locked and is not signed yet
        return "another process works in it"
