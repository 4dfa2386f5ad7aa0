"""Files of examples as tables: parquet, csv, tsv (no quoting, as GLUE writes it) and jsonl.

Csv and tsv do not say what a column holds. The columns that a task names are read as text, exactly as written: ``007`` stays
``007`` and ``true`` stays ``true``; what a label means is decided where the classes are known.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from xtc_jax.errors import UserError

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl")
_LARGEST_BLOCK = 2**31 - 1  # bytes: what pyarrow takes
_SMALLEST_BLOCK = 2**20


def read_table(path: Path, columns: tuple[str, ...] = ()) -> pa.Table:
    """Read a file; of a csv, a tsv and a jsonl, ``columns`` are the columns that are of interest.

    Raises:
      UserError: no such file, another suffix, a damaged file, or one of ``columns`` twice.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: unknown file type; use one of {', '.join(SUFFIXES)}")
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty")
        table = _READERS[path.suffix](path, columns)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: parquet with a column twice
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{path}: cannot be read as {path.suffix[1:]} ({reason})") from None
    for column in columns:
        if table.column_names.count(column) > 1:
            raise UserError(f"{path}: column {column!r} stands in it twice; rename or remove one")
    return table


def _read_parquet(path: Path, _: tuple[str, ...]) -> pa.Table:
    return pa.parquet.read_table(path, partitioning=None)


def _read_delimited(path: Path, columns: tuple[str, ...]) -> pa.Table:
    options = {"newlines_in_values": True} if path.suffix == ".csv" else {"delimiter": "\t", "quote_char": False}
    # One block: a field longer than a block, and a quoted line break at its end, cannot be read.
    block = min(max(path.stat().st_size + 1, _SMALLEST_BLOCK), _LARGEST_BLOCK)
    return pa.csv.read_csv(
        path,
        read_options=pa.csv.ReadOptions(block_size=block),
        parse_options=pa.csv.ParseOptions(**options),
        convert_options=pa.csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string())),
    )


def _read_jsonl(path: Path, columns: tuple[str, ...]) -> pa.Table:
    names: dict[str, None] = {}  # a set in order
    found: dict[str, list[Any]] = {column: [] for column in columns}
    for row in _json_rows(path):
        names |= dict.fromkeys(row)
        for column, values in found.items():
            values.append(row.get(column))
    rows = len(next(iter(found.values()), []))
    # Columns that nobody asked for may hold anything; only their names matter, to messages.
    return pa.table({n: _json_column(path, n, found[n]) if n in found else pa.nulls(rows) for n in names})


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file's lines; blank lines are none."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                row = json.loads(text, object_pairs_hook=_without_repetition) if text.strip() else None
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}: line {number} is not a JSON object ({error})") from None
            if row is None and not text.strip():
                continue
            if not isinstance(row, dict):
                raise UserError(f"{path}: line {number} is not a JSON object; every line must be one example, {{...}}")
            yield row


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a key stands in it twice")
    return row


def _json_column(path: Path, name: str, values: list[Any]) -> pa.Array:
    """An array of one type; a number beside a text, or a truth value beside a number, is refused."""
    kinds = {_kind(value): row for row, value in reversed(list(enumerate(values, 1))) if value is not None}
    if len(kinds) > 1:
        several = " and ".join(f"{kind} (row {row})" for kind, row in sorted(kinds.items(), key=lambda item: item[1]))
        raise UserError(f"{path}: column {name!r} holds {several}; write all of them alike")
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeError) as error:
        raise UserError(f"{path}: column {name!r} cannot be read ({str(error).splitlines()[0][:200]})") from None


def _kind(value: object) -> str:
    names = {bool: "a truth value", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return names[type(value)]


_READERS = {".parquet": _read_parquet, ".csv": _read_delimited, ".tsv": _read_delimited, ".jsonl": _read_jsonl}
