"""Files as people have them, with every oddity: read exactly, or refused in one line that names the file and the place."""

import csv
import io
import json
from collections import Counter
from dataclasses import dataclass, field

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xtc_jax.data import find_task, load_examples
from xtc_jax.errors import UserError

LABELS = ("false", "true", "NA", "3")
TASK = find_task("custom", text=("first", "second"), labels=LABELS)
CASES = 300

WORDS = ["plain", "two words", "007", "1.50", "NA", "null", "None", "NaN", "True", "2020-01-01T00:00:00", "-"]
ODD = [
    '"',
    'a "quoted" word',
    "a, b",
    "l\nb",
    "c\r\nd",
    "e\rf",
    "t\tb",
    "مرحبا بالعالم",
    "🙂🏽",
    "\ufeffx",
    "nul\0nul",
    "\u2028x",
    "\x85x",
]
BLANK = ["", " ", "\t", "\n"]
LONG = "long " * 230_000  # more than a block of a reader
texts = st.sampled_from(WORDS) | st.sampled_from(ODD) | st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
labels = st.sampled_from(LABELS)


@dataclass
class File:
    """Bytes of a file with what they should mean; ``rows`` None: damaged, so that only an independent reader can say."""

    content: bytes
    rows: list[tuple[str, str, str]] | None
    notes: list[str] = field(default_factory=list)


def is_good(row):
    return all(value.strip() for value in row)


@st.composite
def rows_of(draw):
    """Rows; some with a blank value, a few with a very long one."""
    rows = draw(st.lists(st.tuples(texts, texts, labels), min_size=1, max_size=4))
    kind = draw(st.sampled_from(["good"] * 12 + ["blank"] * 3 + ["long"]))
    at, column = draw(st.integers(0, len(rows) - 1)), draw(st.integers(0, 2))
    if kind == "blank":
        rows[at] = (*rows[at][:column], draw(st.sampled_from(BLANK)), *rows[at][column + 1 :])
    elif kind == "long":
        rows[at] = (LONG + rows[at][0], *rows[at][1:])
    return rows


DAMAGES = ("short row", "long row", "no label", "twice", "quote", "blank line", "latin", "utf-16", "cut")
KINDS = ("none",) * len(DAMAGES) * 2 + DAMAGES


def damage(draw, kind, header, rows):
    """``header`` and ``rows``, lists of fields, as ``kind`` leaves them."""
    at = draw(st.integers(0, len(rows) - 1))
    if kind == "short row":
        rows[at] = rows[at][:-1]
    elif kind == "long row":
        rows[at] = [*rows[at], "more"]
    elif kind == "no label":
        header, rows = header[:-1], [row[:-1] for row in rows]
    elif kind == "twice":
        header, rows = [*header, header[draw(st.integers(0, 2))]], [[*row, row[0]] for row in rows]
    elif kind == "blank line":
        rows.insert(at, [])
    return header, rows


@st.composite
def delimited(draw, delimiter):
    """A csv or tsv file: a marker or none, line ends of both kinds, quotes where they are needed or everywhere."""
    rows, kind = draw(rows_of()), draw(st.sampled_from(KINDS))
    end, mark = draw(st.sampled_from(["\n", "\r\n"])), draw(st.sampled_from(["", "\ufeff"]))
    header, lines = damage(draw, kind, ["first", "second", "label"], [list(row) for row in rows])
    out = io.StringIO()
    if delimiter == ",":
        quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
        writer = csv.writer(out, lineterminator=end, quoting=quoting)
        writer.writerow(header)
        for line in lines:
            if line:
                writer.writerow(line)
            else:
                out.write(end)
        broken = end == "\n" and any("\r" in value for row in rows for value in row)  # Python 3.11 leaves it unquoted
    else:
        out.write("".join(delimiter.join(line) + end for line in [header, *lines]))
        broken = any(set("\t\r\n") & set(value) for row in rows for value in row)
    text = mark + out.getvalue()
    if kind == "quote":
        text += f'"open{delimiter}x{delimiter}true'
    elif kind == "cut":
        text = text[: draw(st.integers(0, len(text)))]
    content = text.encode("utf-16" if kind == "utf-16" else "utf-8")
    content += b"caf\xe9" + delimiter.encode() + b"x" + delimiter.encode() + b"true\n" if kind == "latin" else b""
    return File(content, None if broken or kind != "none" else rows, [kind, repr(end)])


def independent_delimited(path):
    """What pandas reads, every column a text."""
    tsv = path.suffix == ".tsv"
    quotes = {"sep": "\t", "quoting": csv.QUOTE_NONE} if tsv else {}
    table = pd.read_csv(
        path, dtype=str, keep_default_na=False, na_filter=False, encoding="utf-8-sig", engine="python", **quotes
    )
    return list(table[["first", "second", "label"]].itertuples(index=False, name=None))


@st.composite
def json_lines(draw):
    rows, kind = (
        draw(rows_of()),
        draw(st.sampled_from([*KINDS, "null", "absent", "number", "array", "surrogate", "bool", "nan"])),
    )
    objects = [dict(zip(("first", "second", "label"), row, strict=True)) for row in rows]
    ascii_only, end = draw(st.booleans()), draw(st.sampled_from(["\n", "\r\n"]))
    at = draw(st.integers(0, len(rows) - 1))
    changes = {"null": {"second": None}, "number": {"first": 5}, "bool": {"label": True}, "nan": {"label": float("nan")}}
    objects[at] |= changes.get(kind, {}) | ({"extra": [1, "x", None]} if draw(st.booleans()) else {})
    if kind in ("absent", "short row", "no label"):
        del objects[at]["label"]
    lines = [json.dumps(one, ensure_ascii=ascii_only) for one in objects]
    if kind == "array":
        lines[at] = f"[{lines[at]}]"
    elif kind == "surrogate":
        lines[at] = '{"first": "\\ud800", "second": "x", "label": "true"}'
    elif kind == "twice":
        lines[at] = lines[at].replace("{", '{"first": "other", ', 1)
    elif kind == "quote":
        lines[at] = lines[at][:-2]
    elif kind == "blank line":
        lines.insert(at, "")
    text = draw(st.sampled_from(["", "\ufeff"])) + "".join(line + end for line in lines)
    if kind == "cut":
        text = text[: draw(st.integers(0, len(text)))]
    content = text.encode("utf-16" if kind == "utf-16" else "utf-8")
    content += b'{"first": "caf\xe9", "second": "x", "label": "true"}\n' if kind == "latin" else b""
    harmless = kind in ("none", "long row", "blank line")
    return File(content, rows if harmless else None, [kind])


def independent_json(path):
    """What the standard library reads, line by line; a truth value is the class of its name."""
    objects = [json.loads(line) for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    plain = {True: "true", False: "false"}
    return [
        tuple(plain[v] if isinstance(v := one[key], bool) else v for key in ("first", "second", "label")) for one in objects
    ]


@st.composite
def parquet(draw):
    rows = draw(rows_of())
    kinds = ("null", "binary", "floats", "nan", "dates", "lists", "bools", "twice", "no label", "cut")
    kind = draw(st.sampled_from(("none",) * 12 + kinds))
    first, second, label = (list(column) for column in zip(*rows, strict=True))
    at = draw(st.integers(0, len(rows) - 1))
    types = [draw(st.sampled_from([pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])) for _ in range(3)]
    arrays = [pa.array(column, pa.string()).cast(type_) for column, type_ in zip((first, second, label), types, strict=True)]
    if kind == "null":
        second[at] = None
        arrays[1] = pa.array(second)
    others = {
        "binary": (0, pa.array([text.encode() for text in first], pa.binary())),
        "floats": (0, pa.array([1.5] * len(rows))),
        "dates": (0, pa.array([0] * len(rows), pa.timestamp("s"))),
        "lists": (2, pa.array([["true"]] * len(rows))),
        "nan": (2, pa.array([3.0] * (len(rows) - 1) + [float("nan")])),
        "bools": (2, pa.array([i % 2 == 0 for i in range(len(rows))])),
    }
    if kind in others:
        arrays[others[kind][0]] = others[kind][1]
    names = ["first", "second", "label"]
    if kind == "twice":
        names, arrays = [*names, "first"], [*arrays, arrays[0]]
    elif kind == "no label":
        names, arrays = names[:2], arrays[:2]
    sink = io.BytesIO()
    pa.parquet.write_table(pa.Table.from_arrays(arrays, names=names), sink)
    content = sink.getvalue()
    if kind == "cut":
        content = content[: draw(st.integers(0, len(content) - 1))]
    return File(content, rows if kind == "none" else None, [kind])


def independent_parquet(path):
    plain = {True: "true", False: "false", 3.0: "3"}
    table = pa.parquet.read_table(path).to_pydict()
    return [
        (a, b, c if isinstance(c, str) else plain[c])
        for a, b, c in zip(table["first"], table["second"], table["label"], strict=True)
    ]


@pytest.mark.parametrize(
    ("suffix", "files", "independent"),
    [
        (".csv", delimited(","), independent_delimited),
        (".tsv", delimited("\t"), independent_delimited),
        (".jsonl", json_lines(), independent_json),
        (".parquet", parquet(), independent_parquet),
    ],
    ids=["csv", "tsv", "jsonl", "parquet"],
)
def test_a_file_is_read_exactly_or_refused_by_file_and_place(tmp_path, suffix, files, independent):
    path, counts = tmp_path / f"mine{suffix}", Counter()

    @settings(max_examples=CASES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(file=files)
    def check(file):
        path.write_bytes(file.content)
        try:
            examples = load_examples(str(path), TASK, "train")
        except UserError as error:
            counts["refused"] += 1
            message = str(error)
            assert message.startswith(f"{path}: ")
            assert "\n" not in message
            assert any(word in message for word in ("row ", "column ", "line ", "cannot be read as", "is empty", "no examples"))
            assert file.rows is None or not all(is_good(row) for row in file.rows), f"refused without need: {message}"
            return
        counts["read"] += 1
        read = [(*text, LABELS[i]) for text, i in zip(examples.texts, examples.labels, strict=True)]
        assert read == (independent(path) if file.rows is None else file.rows)

    check()
    print(f"{suffix}: {counts['read']} files read exactly, {counts['refused']} refused")
    assert min(counts["read"], counts["refused"]) >= CASES // 5
