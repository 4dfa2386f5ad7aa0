"""What the values of a label's column mean: a class by its name, a class by its number, a number, or nothing."""

import math
import re
from collections.abc import Iterable, Mapping

from xtc_jax.data.tasks import Task
from xtc_jax.errors import UserError

_WHOLE = re.compile(r"\s*[+-]?[0-9]+\s*", re.ASCII)
_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*", re.ASCII)
_NUMBERS = ("-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN", "-NaN", "-nan", "NaN", "nan")
_NOTHING = frozenset((*_NUMBERS, "#N/A", "#N/A N/A", "#NA", "<NA>", "N/A", "NA", "n/a", "NULL", "null", "None"))
"""How programs write that a value is missing: what pandas reads so by default."""


def is_blank(value: object) -> bool:
    """Whether there is nothing: null, NaN, or a text of white space alone."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_missing_label(value: object, labels: tuple[str, ...]) -> bool:
    """Whether a label is blank or written as missing (``NA``, ``NaN``, ``null``), and is not the name of a class.

    >>> [is_missing_label("NA", labels) for labels in (("good", "bad"), ("EU", "NA"))]
    [True, False]
    """
    return is_blank(value) or (isinstance(value, str) and value.strip() in _NOTHING and value not in labels)


def number_of(value: object) -> int | float | None:
    """The number that a value is or, as a text, shows; None for any other.

    >>> [number_of(value) for value in ("3", " 2.50", 4, "1_000", "three")]
    [3, 2.5, 4, None, None]
    """
    if isinstance(value, int | float):
        return value
    if not isinstance(value, str) or not _NUMBER.fullmatch(value):
        return None
    return int(value) if _WHOLE.fullmatch(value) and len(value) < 100 else float(value)


def finite_number(value: object) -> float | None:
    """The label of a regression; None where it is no finite number."""
    number = None if isinstance(value, bool) else number_of(value)
    return float(number) if number is not None and math.isfinite(number) else None


def class_ids(values: Iterable[object], labels: tuple[str, ...]) -> list[int | None]:
    """The class of every value, None where it is outside of ``labels``. In this order a value is

    1. the name of a class, exactly;
    2. a truth value: the class ``true`` or ``false`` (in any case), or class 1 and 0 where there are two of other names;
    3. a number: the class whose name is that number or, where no name is a number, the class of that number.
    """
    find = {name: i for i, name in enumerate(labels)}
    truths = _truths(labels)
    named = {number: i for name, i in find.items() if (number := number_of(name)) is not None}
    seen: dict[tuple[type, object], int | None] = {}  # of values there are millions, of different ones a few
    found = []
    for value in values:
        key = (type(value), value)
        if key not in seen:
            seen[key] = _class_id(value, find, truths, named)
        found.append(seen[key])
    return found


def _truths(labels: tuple[str, ...]) -> dict[str, int]:
    folded = {name.casefold(): i for i, name in enumerate(labels)}
    named: dict[str, int] = {word: folded[word] for word in ("true", "false") if word in folded}
    if named or len(labels) != 2:
        return named
    return {"false": 0, "true": 1}


def _class_id(
    value: object, find: Mapping[str, int], truths: Mapping[str, int], named: Mapping[int | float, int]
) -> int | None:
    if isinstance(value, str) and value in find:
        return find[value]
    if isinstance(value, bool) or (isinstance(value, str) and value.casefold() in ("true", "false")):
        return truths.get(str(value).casefold())
    number = number_of(value)
    if number is None or not math.isfinite(number):
        return None
    if named:
        return named.get(number)
    return int(number) if number == int(number) and 0 <= number < len(find) else None


def class_names(values: Iterable[object], where: str) -> tuple[str, ...]:
    """Names for the distinct values of a column that are not missing: numbers and truth values in order, else sorted texts.

    Raises:
      UserError: fewer than two, or two that are the same number or differ in spaces alone; ``where`` names the column.
    """
    found = {value for value in set(values) if not is_missing_label(value, ())}
    if len(found) < 2:
        raise UserError(f"{where} has {len(found)} distinct values; a task needs two classes or more")
    numbers = {str(value): number_of(value) for value in found}
    if all(number is not None for number in numbers.values()):
        names = sorted(numbers, key=lambda name: (numbers[name], name))
    else:
        names = sorted(numbers)
    same: dict[object, str] = {}
    for name in names:
        number = numbers[name]
        first = same.setdefault(name.strip() if number is None else number, name)
        if first != name:
            raise UserError(
                f"{where} has the classes {first!r} and {name!r}, which are one; write them alike, or set data.labels"
            )
    return tuple(names)


def outside(value: object, labels: tuple[str, ...]) -> str:
    """Says that a label is none of the task's."""
    known = ", ".join(f"{i}={name}" for i, name in enumerate(labels))
    return f"label {value!r} is outside the task's range ({known})"


def missing(task: Task, column: str, value: object) -> str:
    """Says that a value is missing, and what can be done."""
    remedy = "fill it in, delete the row, or drop all such rows with config.data.missing='drop'"
    if column == task.label and not is_blank(value):
        remedy += f"; if {value!r} is a class, name it in config.data.labels"
    return f"column {column!r} is empty ({value!r}): {remedy}"
