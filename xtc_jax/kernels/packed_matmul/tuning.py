"""Tuning tables: which block sizes to use for which shape, as data beside the code.

``tuning/<name>.json`` holds ``columns`` and ``rows``; the other keys record how the table was made. A table belongs to
one device and one backend, and is only ever a hint: the backend checks what it reads against its own limits.
"""

import functools
import json
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType


@functools.cache
def _rows(name: str) -> Mapping[tuple[int, int, int], Mapping[int, Mapping[str, int | float]]]:
    """``(bits, k, n)`` to M to row; empty where no table has that name."""
    file = resources.files(__package__) / "tuning" / f"{name}.json"
    table: dict[tuple[int, int, int], dict[int, Mapping[str, int | float]]] = {}
    if file.is_file():
        text = json.loads(file.read_text())
        for values in text["rows"]:
            row = dict(zip(text["columns"], values, strict=True))
            table.setdefault((row["bits"], row["k"], row["n"]), {})[row["m"]] = MappingProxyType(row)
    return MappingProxyType(table)


def rows(name: str) -> list[Mapping[str, int | float]]:
    """All rows of the table ``name``, each by column; none where there is no such table."""
    return [row for by_m in _rows(name).values() for row in by_m.values()]


def lookup(name: str, bits: int, k: int, n: int, m: int) -> Mapping[str, int | float] | None:
    """The row of the table ``name`` for a matmul of ``(m, k)`` by ``(k, n)``, or None.

    M is rounded up to the next one that was tuned; beyond the last, the last serves.
    """
    by_m = _rows(name).get((bits, k, n))
    if not by_m:
        return None
    return by_m[min((tuned for tuned in by_m if tuned >= m), default=max(by_m))]
