"""Where the numbers of a run go: ``metrics.jsonl``, TensorBoard, and the screen; process 0 alone writes them."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from xtc_jax.parallel.processes import is_first

Record = dict[str, float]
Write = Callable[[int, Record], None]
Show = Callable[[int, Record], None]
Screen = Literal["live", "every", "none"]
"""What is shown of the steps: one live line (plain lines where there is no terminal), a line for every record, or nothing."""
_PLAIN_INTERVAL = 15.0
"""Seconds between lines where the screen is no terminal."""


def read_metrics(path: Path) -> list[Record]:
    """All records of a ``metrics.jsonl``; a line that a killed process left half-written is skipped."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


@contextmanager
def metrics_writer(directory: Path, resume_step: int = 0) -> Iterator[Write]:
    """``write(step, record)`` appends to ``metrics.jsonl`` and to TensorBoard's event file.

    Records beyond ``resume_step``, of a run that was killed after its last checkpoint, are dropped. Of several processes
    the first writes.
    """
    if not is_first():
        yield _nothing
        return
    path = directory / "metrics.jsonl"
    kept = [record for record in read_metrics(path) if record["step"] <= resume_step]
    scratch = path.with_name(path.name + ".tmp")
    scratch.write_text("".join(json.dumps(record) + "\n" for record in kept))
    os.replace(scratch, path)
    board = SummaryWriter(str(directory / "tensorboard"), purge_step=resume_step or None)
    with path.open("a") as file:

        def write(step: int, record: Record) -> None:
            file.write(json.dumps({"step": step, **record}) + "\n")
            file.flush()
            for name, value in record.items():
                board.add_scalar(name, value, step)

        try:
            yield write
        finally:
            board.close()


def notice(line: str) -> None:
    """One line on the screen, above the live one if there is one."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def progress(label: str, total: int, start: int = 0, console: Console | None = None, screen: Screen = "live") -> Iterator[Show]:
    """A live line with step, loss, metric, speed and time left. Of several processes the first shows.

    Plain lines, one in fifteen seconds, where there is no terminal or ``NO_COLOR`` is set.

    Args:
      label: what the line begins with.
      total, start: steps in all, and those done before.
      console: where the live line stands; standard error.
      screen: ``every`` prints a plain line whenever it is called with a record that changed, ``none`` prints nothing.
    """
    if screen == "none" or not is_first():
        yield _nothing
        return
    console = console or Console(stderr=True)
    if screen == "every" or not console.is_terminal or console.no_color:
        yield _plain_lines(label, total, start, 0.0 if screen == "every" else _PLAIN_INTERVAL)
        return
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), "{task.fields[text]}", TimeRemainingColumn())
    rendered = [TextColumn(column) if isinstance(column, str) else column for column in columns]
    with Progress(*rendered, console=console, speed_estimate_period=60) as bar:
        task = bar.add_task(label, total=total, completed=start, text="compiling")
        yield lambda step, record: bar.update(task, completed=step, text=_summary(record))


def _nothing(step: int, record: Record) -> None:
    del step, record


def _plain_lines(label: str, total: int, start: int, interval: float) -> Show:
    begun = last = time.monotonic()
    shown = Record()

    def show(step: int, record: Record) -> None:
        nonlocal last, shown
        now = time.monotonic()
        if step < total and (now - last < interval or (not interval and record == shown)):
            return
        last, shown = now, dict(record)
        left = (now - begun) / max(step - start, 1) * (total - step)
        print(f"{label}: step {step}/{total}  {_summary(record)}  {left:.0f} s left", file=sys.stderr, flush=True)

    return show


def _summary(record: Record) -> str:
    parts = [f"loss {record['loss']:.3f}"] if "loss" in record else []
    parts += [f"{name.removeprefix('eval/')} {value:.4f}" for name, value in record.items() if name.startswith("eval/")]
    if "examples_per_second" in record:
        parts.append(f"{record['examples_per_second']:.0f} examples/s")
    return "  ".join(parts)
