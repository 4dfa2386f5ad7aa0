"""Where examples come from: files on disk, the Hugging Face hub, or the pinned quick-start data."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from xtc_jax.data.labels import class_ids, class_names, finite_number, is_blank, is_missing_label, missing, outside
from xtc_jax.data.pinned import PINNED, pinned_directory
from xtc_jax.data.tables import SUFFIXES, read_table
from xtc_jax.data.tasks import Task
from xtc_jax.errors import UserError

MISSING = ("refuse", "drop")
"""What becomes of rows in which a text or the label is missing."""
PARTS = ("", "train", "validation")
"""The whole of a file, or what training and validation get of it where it serves both; see :func:`held_out`."""
_INDEX = "idx"


@dataclass(frozen=True)
class Examples:
    """Raw examples of one split.

    Attributes:
      texts: one tuple of one or two strings per example.
      labels: int32 class ids or float32 numbers, ``(examples,)``.
      where: the file or data set they came from, for messages.
      rows: int64 ``(examples,)``, the rows of the file that they are, from 0.
      dropped: rows left out because something was missing in them.
    """

    texts: list[tuple[str, ...]]
    labels: np.ndarray
    where: str
    rows: np.ndarray
    dropped: int = 0


@dataclass(frozen=True)
class Unlabelled:
    """Raw examples of a test split, whose labels nobody has.

    Attributes:
      texts: one tuple of one or two strings per example.
      index: int64 ``(examples,)``, the column ``idx``; rows are counted from 0 where there is none.
      where: the file or data set they came from, for messages.
    """

    texts: list[tuple[str, ...]]
    index: np.ndarray
    where: str


def splits_of(path: str, splits: tuple[str, ...]) -> tuple[str, ...]:
    """Which of a task's splits ``path`` can serve: a file is the first alone, anything else may have them all."""
    return splits[:1] if path and Path(path).is_file() else splits


def find_split(path: str, task: Task, split: str) -> Path:
    """The file of a split: ``path`` itself, ``path/<split>.*`` or ``path/<task>/<split>.*``.

    Raises:
      UserError: none of them exists.
    """
    if path.startswith(PINNED):
        path = str(pinned_directory(path))
    root = Path(path)
    if root.is_file():
        return root
    candidates = [folder / f"{split}{suffix}" for folder in (root / task.name, root) for suffix in SUFFIXES]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UserError(f"{path}: no {split} data; expected {task.name}/{split}.parquet (or csv, tsv, jsonl) inside it")


def _hub_table(task: Task, split: str) -> tuple[pa.Table, str]:
    import datasets  # heavy, and needed by hub users alone

    try:
        table = datasets.load_dataset("nyu-mll/glue", task.name, split=split).data.table
    except Exception as error:
        raise UserError(
            f"task {task.name}: the hub did not deliver ({type(error).__name__}); give a local copy with --config.data.path=DIR"
        ) from None
    return table, f"hub:glue/{task.name}/{split}"


def evenly_spaced(count: int, most: int) -> list[int]:
    """``most`` of ``count`` row numbers, evenly spaced, for files are often sorted by label; 0 is all."""
    most = min(most or count, count)
    return [i * count // most for i in range(most)]


def load_table(path: str, task: Task, split: str, labelled: bool = True) -> tuple[pa.Table, str]:
    """One split as it lies in its file, with the columns of the task among its own; and where it came from.

    Args:
      path: a file, a directory (see :func:`find_split`), ``pinned:NAME``, or "" for the hub.
      task: columns and labels.
      split: ``train``, or one of ``task.validation`` or ``task.test``.
      labelled: whether the label's column must be there.

    Raises:
      UserError: nothing there, no rows, or a missing column.
    """
    if path:
        file = find_split(path, task, split)
        table, where = read_table(file, (*task.text, task.label, _INDEX)), str(file)
    else:
        table, where = _hub_table(task, split)
    for column in (*task.text, task.label) if labelled else task.text:
        if column not in table.column_names:
            raise UserError(f"{where}: no column {column!r}; it has {', '.join(table.column_names)}")
    if table.num_rows == 0:
        raise UserError(f"{where}: the file holds no examples")
    return table, where


def table_examples(table: pa.Table, task: Task, where: str, missing_rows: str = "refuse", part: str = "") -> Examples:
    """Check and convert the columns of :func:`load_table`.

    Args:
      table: as read.
      task: columns and labels.
      where: names the table in errors.
      missing_rows: of :data:`MISSING`, what becomes of rows without a text or a label.
      part: of :data:`PARTS`.

    Raises:
      UserError: a missing value, a label outside the task's range, or nothing left; names row and column.
    """
    columns = [_texts(table, column, where) for column in task.text]
    labels = _values(table, task.label, where)
    complete = np.ones(table.num_rows, bool)
    every: list[Sequence[object]] = [*columns, labels]
    for column, values in zip((*task.text, task.label), every, strict=True):
        gaps = [is_missing_label(value, task.labels) if values is labels else is_blank(value) for value in values]
        if missing_rows == "refuse" and True in gaps:
            row = gaps.index(True)
            raise UserError(f"{where}: row {row + 1}, {missing(task, column, values[row])}")
        complete &= ~np.array(gaps)
    texts = list(zip(*columns, strict=True))
    chosen = complete if not part else complete & np.array([held_out(text) == (part == "validation") for text in texts])
    rows = np.flatnonzero(chosen)
    if not len(rows):
        raise UserError(f"{where}: {_nothing_left(part)}")
    converted = _labels([labels[row] for row in rows], rows, task, where)
    return Examples([texts[row] for row in rows], converted, where, rows, int((~complete).sum()))


def _nothing_left(part: str) -> str:
    if part:
        return f"one example in ten is held out for validation, which leaves none for {part}; set config.data.validation"
    return "no row has all of its texts and its label"


def held_out(texts: Sequence[str | None]) -> bool:
    """Whether an example is for validation, where one file serves training too: its MD5, as a number, is a multiple of 10.

    Examples of the same texts are always on the same side. A pair is hashed as its texts with a line break between them.
    """
    joined = "\n".join(text or "" for text in texts).encode("utf-8")
    return int(hashlib.md5(joined, usedforsecurity=False).hexdigest(), 16) % 10 == 0


def load_examples(path: str, task: Task, split: str, missing_rows: str = "refuse", part: str = "") -> Examples:
    """Load and check one split; arguments and errors are those of :func:`load_table` and :func:`table_examples`."""
    table, where = load_table(path, task, split)
    return table_examples(table, task, where, missing_rows, part)


def load_unlabelled(path: str, task: Task, split: str) -> Unlabelled:
    """Load and check one test split, as :func:`load_table` does; a label column, if there is one, is not looked at.

    Raises:
      UserError: also a missing text, or an ``idx`` that is no whole number.
    """
    table, where = load_table(path, task, split, labelled=False)
    columns = [_texts(table, column, where) for column in task.text]
    for column, values in zip(task.text, columns, strict=True):
        for row, value in enumerate(values):
            if is_blank(value):
                raise UserError(f"{where}: row {row + 1}, column {column!r} is empty; every row must have an answer")
    return Unlabelled(list(zip(*columns, strict=True)), _index(table, where), where)


def _index(table: pa.Table, where: str) -> np.ndarray:
    if _INDEX not in table.column_names:
        return np.arange(table.num_rows, dtype=np.int64)
    values = table.column(_INDEX).to_pylist()
    numbers = [int(v) if isinstance(v, str) and v.isascii() and v.isdecimal() and len(v) < 19 else v for v in values]
    for row, value in enumerate(numbers):
        if type(value) is not int or not 0 <= value < 2**63:
            raise UserError(f"{where}: row {row + 1}, column {_INDEX!r}: {value!r} is not a whole number")
    return np.array(numbers, np.int64)


def _texts(table: pa.Table, column: str, where: str) -> list[str | None]:
    """A column of texts; None where it has a null."""
    kind = _kind(table, column)
    if not (_is_text(kind) or pa.types.is_null(kind)):
        raise UserError(f"{where}: column {column!r} holds {kind}, not text")
    return table.column(column).to_pylist()


def _values(table: pa.Table, column: str, where: str) -> list[object]:
    """A column of labels: texts, numbers or truth values; None where it has a null."""
    kind, types = _kind(table, column), pa.types
    known = (_is_text, types.is_null, types.is_integer, types.is_floating, types.is_boolean)
    if not any(check(kind) for check in known):
        raise UserError(f"{where}: column {column!r} holds {kind}; a label is a text, a number or a truth value")
    return table.column(column).to_pylist()


def _kind(table: pa.Table, column: str) -> pa.DataType:
    kind = table.column(column).type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _labels(values: list[object], rows: np.ndarray, task: Task, where: str) -> np.ndarray:
    """Class ids or numbers; ``rows`` are their rows in the file."""
    found = [finite_number(value) for value in values] if task.regression else class_ids(values, task.labels)
    if None in found:
        at = found.index(None)
        problem = f"{values[at]!r} is not a number" if task.regression else outside(values[at], task.labels)
        raise UserError(f"{where}: row {rows[at] + 1}, column {task.label!r}: {problem}")
    return np.array(found, np.float32 if task.regression else np.int32)


def discover_labels(path: str, task: Task, missing_rows: str = "refuse") -> tuple[str, ...]:
    """Class names of a user's own task: the distinct values of the training split, sorted.

    Raises:
      UserError: no such data or column, a missing value, fewer than two classes, or two classes that are one.
    """
    table, where = load_table(path, task, "train")
    values = _values(table, task.label, where)
    if missing_rows == "refuse":
        for row, value in enumerate(values):
            if is_missing_label(value, ()):
                raise UserError(f"{where}: row {row + 1}, {missing(task, task.label, value)}")
    return class_names(values, f"{where}: column {task.label!r}")
