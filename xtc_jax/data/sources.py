"""Where examples come from: files on disk, the Hugging Face hub, or the pinned quick-start data."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from xtc_jax.data.pinned import PINNED, pinned_directory
from xtc_jax.data.tasks import Task
from xtc_jax.errors import UserError

_NUMBER = re.compile(r"-?\d+(\.\d+)?")
SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl")


@dataclass(frozen=True)
class Examples:
    """Raw examples of one split.

    Attributes:
      texts: one tuple of one or two strings per example.
      labels: int32 class ids or float32 numbers, ``(examples,)``.
      where: the file or data set they came from, for messages.
    """

    texts: list[tuple[str, ...]]
    labels: np.ndarray
    where: str


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


def read_table(path: Path, text: tuple[str, ...] = ()) -> pa.Table:
    """Read parquet, csv, tsv (no quoting, as GLUE writes it) or jsonl.

    Args:
      path: the file.
      text: columns that are text whatever they look like; csv and tsv do not log, and "007" is no number.

    Raises:
      UserError: no such file, another suffix, or a damaged file.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: unknown file type; use one of {', '.join(SUFFIXES)}")
    try:
        if path.suffix == ".parquet":
            return pa.parquet.read_table(path)
        if path.suffix == ".jsonl":
            return pa.json.read_json(path)
        options = pa.csv.ParseOptions(newlines_in_values=True)
        if path.suffix == ".tsv":
            options = pa.csv.ParseOptions(delimiter="\t", quote_char=False)
        types = pa.csv.ConvertOptions(column_types=dict.fromkeys(text, pa.string()))
        return pa.csv.read_csv(path, parse_options=options, convert_options=types)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (pa.ArrowInvalid, pa.ArrowException, OSError) as error:
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty") from None
        raise UserError(f"{path}: cannot be read as {path.suffix[1:]} ({str(error).splitlines()[0]})") from None


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
        table, where = read_table(file, task.text), str(file)
    else:
        table, where = _hub_table(task, split)
    for column in (*task.text, task.label) if labelled else task.text:
        if column not in table.column_names:
            raise UserError(f"{where}: no column {column!r}; it has {', '.join(table.column_names)}")
    if table.num_rows == 0:
        raise UserError(f"{where}: the file holds no examples")
    return table, where


def table_examples(table: pa.Table, task: Task, where: str) -> Examples:
    """Check and convert the columns of :func:`load_table`.

    Raises:
      UserError: a missing value, or a label outside the task's range.
    """
    columns = [_text_column(table, column, where) for column in task.text]
    return Examples(list(zip(*columns, strict=True)), _labels(table, task, where), where)


def load_examples(path: str, task: Task, split: str) -> Examples:
    """Load and check one split; arguments and errors are those of :func:`load_table` and :func:`table_examples`."""
    table, where = load_table(path, task, split)
    return table_examples(table, task, where)


def load_unlabelled(path: str, task: Task, split: str) -> Unlabelled:
    """Load and check one test split, as :func:`load_table` does; a label column, if there is one, is not looked at.

    Raises:
      UserError: also a missing text, or an ``idx`` that is no whole number.
    """
    table, where = load_table(path, task, split, labelled=False)
    columns = [_text_column(table, column, where) for column in task.text]
    return Unlabelled(list(zip(*columns, strict=True)), _index(table, where), where)


def _index(table: pa.Table, where: str) -> np.ndarray:
    if "idx" not in table.column_names:
        return np.arange(table.num_rows, dtype=np.int64)
    values = table.column("idx").to_pylist()
    for row, value in enumerate(values):
        if type(value) is not int:
            raise UserError(f"{where}: row {row + 1}, column 'idx': {value!r} is not a whole number")
    return np.array(values, np.int64)


def _text_column(table: pa.Table, column: str, where: str) -> list[str]:
    values = table.column(column).to_pylist()
    for row, value in enumerate(values):
        if value is None:
            raise UserError(f"{where}: row {row + 1}, column {column!r} is empty")
    return [str(value) for value in values]


def _labels(table: pa.Table, task: Task, where: str) -> np.ndarray:
    values = table.column(task.label).to_pylist()
    if task.regression:
        return np.array([_number(value, row, task, where) for row, value in enumerate(values)], np.float32)
    ids = {name: i for i, name in enumerate(task.labels)}
    return np.array([_class_id(value, row, ids, task, where) for row, value in enumerate(values)], np.int32)


def _number(value: object, row: int, task: Task, where: str) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = float("nan")
    if not np.isfinite(number):
        raise UserError(f"{where}: row {row + 1}, column {task.label!r}: {value!r} is not a number")
    return number


def _class_id(value: object, row: int, ids: dict[str, int], task: Task, where: str) -> int:
    if str(value) in ids:
        return ids[str(value)]
    if isinstance(value, float) and value.is_integer():
        return _class_id(int(value), row, ids, task, where)
    # A number is an id, unless the names are numbers themselves: 0 is no class where the classes are 1, 2 and 3.
    if isinstance(value, int) and 0 <= value < len(ids) and not any(_NUMBER.fullmatch(name) for name in ids):
        return int(value)
    known = ", ".join(f"{i}={name}" for name, i in ids.items())
    raise UserError(f"{where}: row {row + 1}, column {task.label!r}: label {value!r} is outside the task's range ({known})")


def discover_labels(path: str, task: Task) -> tuple[str, ...]:
    """Class names of a user's own task: the distinct values of the training split, sorted.

    Raises:
      UserError: no such data or column, or fewer than two classes.
    """
    file = find_split(path, task, "train")
    table = read_table(file)
    if task.label not in table.column_names:
        raise UserError(f"{file}: no column {task.label!r}; it has {', '.join(table.column_names)}")
    values = set(table.column(task.label).to_pylist()) - {None}
    if len(values) < 2:
        raise UserError(f"{file}: column {task.label!r} has {len(values)} distinct values; a task needs two classes or more")
    return tuple(str(value) for value in sorted(values, key=lambda value: (isinstance(value, str), value)))
