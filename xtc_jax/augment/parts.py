"""A table made in parts by a job that may be killed at any time, and by any number of processes.

``OUT.parts/`` holds one parquet file per finished part and ``job.json``, what the table is made of. The table appears
at once under its final name; it depends on the parts alone, so an interruption leaves no trace in it. What was
made of something else is refused by name, and nothing is ever overwritten.
"""

import contextlib
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from xtc_jax.errors import UserError

Job = dict[str, Any]
"""All that determines a table, as flat JSON."""
_KEY = b"xtc_jax.job"
_GROUP = 256
"""Parts in a row group of the table: thousands of tiny groups would be slow to read."""


def parts_directory(out: Path) -> Path:
    """Where the parts of ``out`` lie until it is finished."""
    return out.with_name(out.name + ".parts")


def is_finished(out: Path, job: Job) -> bool:
    """Whether ``out`` exists and is the table of this job.

    Raises:
      UserError: it exists and is something else.
    """
    if not out.exists():
        return False
    try:
        metadata = pa.parquet.read_schema(out).metadata or {}
        then = json.loads(metadata.get(_KEY, b"null"))
    except (pa.ArrowException, OSError, ValueError):
        then = None
    _refuse_another(out, then, job)
    return True


def open_parts(out: Path, job: Job) -> Path:
    """The directory for the parts of ``out``: a new one, or that of the same job, which goes on.

    Raises:
      UserError: it holds parts of another job.
    """
    directory = parts_directory(out)
    record = directory / "job.json"
    if directory.exists() and (record.exists() or any(directory.iterdir())):
        _refuse_another(directory, _read(record), job)
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    scratch = out.with_name(out.name + ".job.tmp")
    scratch.write_text(json.dumps(job, indent=1) + "\n")
    os.replace(scratch, record)
    return directory


def _refuse_another(path: Path, then: Any, now: Job) -> None:
    if not isinstance(then, dict):
        raise UserError(f"{path}: exists already and is not of this command; choose another name")
    for key in (*now, *then):
        if then.get(key) != now.get(key):
            raise UserError(
                f"{path}: was made from something else ({key}: {then.get(key)!r} then, {now.get(key)!r} now); "
                "choose another name, or remove it"
            )


def part_file(directory: Path, number: int) -> Path:
    """The file of one part; it exists only when it is complete."""
    return directory / f"{number:07d}.parquet"


def finished_parts(directory: Path) -> int:
    """How many parts are there."""
    return sum(1 for _ in directory.glob("*.parquet"))


def write_part(directory: Path, number: int, table: pa.Table) -> None:
    """Write one part at once; another process may write the same one, for both have the same content."""
    scratch = directory / f"{number:07d}.{os.getpid()}.tmp"
    pa.parquet.write_table(table, scratch)
    os.replace(scratch, part_file(directory, number))


def assemble(out: Path, job: Job, count: int) -> int:
    """Write the table from its ``count`` parts and remove them; returns its number of rows."""
    directory, scratch, rows = parts_directory(out), out.with_name(out.name + ".tmp"), 0
    schema = pa.parquet.read_schema(part_file(directory, 0)).with_metadata({_KEY: json.dumps(job, sort_keys=True)})
    with pa.parquet.ParquetWriter(scratch, schema) as writer:
        for first in range(0, count, _GROUP):
            numbers = range(first, min(first + _GROUP, count))
            table = pa.concat_tables([pa.parquet.read_table(part_file(directory, number)) for number in numbers])
            writer.write_table(table.replace_schema_metadata(schema.metadata), row_group_size=max(table.num_rows, 1))
            rows += table.num_rows
    os.replace(scratch, out)
    remove_parts(out, job)
    return rows


def remove_parts(out: Path, job: Job) -> None:
    """Remove the parts of a finished table, if they are there and of this job; the record goes last, should we be killed."""
    directory = parts_directory(out)
    record = directory / "job.json"
    if _read(record) != job:
        return
    for scrap in (*directory.glob("*.parquet"), *directory.glob("*.tmp")):
        scrap.unlink(missing_ok=True)
    record.unlink()
    with contextlib.suppress(OSError):  # whatever else lies there is not ours
        directory.rmdir()


def _read(record: Path) -> Any:
    try:
        return json.loads(record.read_text())
    except (OSError, ValueError):
        return None


def run_processes(work: Callable[..., None], arguments: tuple[Any, ...], count: int, poll: Callable[[], None]) -> None:
    """Run ``work(*arguments, rank, count, go_on)`` in ``count`` fresh processes, until all have returned.

    ``work`` must be importable and call ``go_on()`` between parts: it ends the process once this one is gone, so that a
    killed command leaves nobody at work. ``poll`` is called here every half second or oftener.

    Raises:
      UserError, OSError: the first that one of them raises.
      UserError: one of them ended in another way; its traceback stands on standard error.
    """
    context = multiprocessing.get_context("spawn")  # a fork of a process that uses JAX may hang
    running: dict[int, tuple[Any, multiprocessing.connection.Connection]] = {}
    try:
        for rank in range(count):
            receive, send = context.Pipe(duplex=False)
            child = context.Process(target=_child, args=(work, arguments, rank, count, send), daemon=True)
            child.start()
            send.close()
            running[rank] = child, receive
        while running:
            multiprocessing.connection.wait([child.sentinel for child, _ in running.values()], timeout=0.5)
            poll()
            for rank, (child, receive) in list(running.items()):
                if child.exitcode is not None:
                    del running[rank]
                    _raise_error_of(child.exitcode, receive)
    finally:
        for child, _ in running.values():
            child.terminate()
            child.join()


def _raise_error_of(status: int, receive: "multiprocessing.connection.Connection") -> None:
    if status == 0:
        return
    try:
        error = receive.recv()
    except EOFError:
        error = UserError(
            f"one of the processes ended with status {status}; run the same command again to go on, "
            "with fewer processes if memory was short"
        )
    raise error


def _child(
    work: Callable[..., None],
    arguments: tuple[Any, ...],
    rank: int,
    count: int,
    errors: "multiprocessing.connection.Connection",
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers for all
    parent = multiprocessing.parent_process()

    def go_on() -> None:
        if parent is not None and not parent.is_alive():
            sys.exit()

    try:
        work(*arguments, rank, count, go_on)
    except (UserError, OSError) as error:
        go_on()  # without a parent the parts may be gone, and nobody listens
        errors.send(error)
        sys.exit(1)
