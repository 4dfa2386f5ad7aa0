"""Every table of benchmarks/README.md is that of a measurement in benchmarks/results, to the last digit shown."""

import json
import re
from pathlib import Path

import pytest

from xtc_jax.report.runs import result_rows
from xtc_jax.report.tables import markdown_table

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
ELSEWHERE = {"Half an hour of `own`": 0, "A hundred times smaller": 1}
"""Tables that tests/benchmarks/test_recipe_tables.py looks after: which of their section."""
MEASURED = [
    ("encoder_cpu_vnni", 0),
    ("encoder_cpu_vnni_native", 1),
    ("encoder_cpu_avx2", 2),
    ("matmul_cpu_vnni", 3),
    ("train_cpu_vnni", 4),
    ("train_cpu_avx2", 5),
    ("epoch_cpu_avx2", 6),
    ("epoch_cpu_vnni", 7),
]
"""Of the section "On a CPU", by the file of the measurement."""


def read():
    """The tables by section: header and rows of each."""
    sections, inside = {}, False
    for line in (BENCHMARKS / "README.md").read_text().splitlines():
        if line.startswith("#"):
            tables = sections.setdefault(line.strip("# "), [])
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if not inside:
                tables.append((cells, []))
            elif not set("".join(cells)) <= set("-: "):
                tables[-1][1].append(cells)
        inside = line.startswith("|")
    return sections


TABLES = read()
NOTED = json.loads((BENCHMARKS / "results" / "noted.json").read_text())["tables"]


def same(shown, value):
    """Whether a cell, ``1,191`` or ``4.16 (5.34)``, is a number rounded to the digits that it shows, or the start of a text."""
    if isinstance(value, str):
        return shown.startswith(value)
    digits = shown.split(" (")[0].replace(",", "")
    step = 10.0 ** -len(digits.partition(".")[2])
    return abs(float(digits) - value) <= step / 2 * 1.001


@pytest.mark.parametrize(("name", "number"), MEASURED)
def test_a_benchmark_shows_the_numbers_of_its_file(name, number):
    header, rows = TABLES["On a CPU"][number]
    measured = json.loads((BENCHMARKS / "results" / f"{name}.json").read_text())
    columns = ["x" if column.startswith("times ours") else column for column in header]
    known = [
        each for each in measured["rows"] if name != "matmul_cpu_vnni" or (each["K"], each["N"], each["bits"]) == (768, 3072, 2)
    ]
    assert len(rows) == len(known)
    for row, values in zip(rows, known, strict=True):
        for column, cell in zip(columns, row, strict=True):
            assert (not cell and values.get(column) is None) or same(cell, values[column]), (column, row)


def test_the_ways_to_few_bits_are_those_of_their_report():
    results = json.loads((BENCHMARKS / "results" / "cola_methods.json").read_text())["results"]
    shown = [" | ".join(row) for row in TABLES["Which way to few bits: CoLA, all-MiniLM-L6-v2, 6 layers"][0][1]]
    made = markdown_table(result_rows(results)).splitlines()[2:]
    assert [f"| {row} |" for row in shown] == made


def test_every_other_table_is_in_the_file_of_those_that_were_noted_by_hand():
    others = {
        section: [table for number, table in enumerate(tables) if ELSEWHERE.get(section) != number]
        for section, tables in TABLES.items()
        if section not in ("Which way to few bits: CoLA, all-MiniLM-L6-v2, 6 layers", "The GPU kernel: not measured")
    }
    others["On a CPU"] = others["On a CPU"][len(MEASURED) :]
    found = {
        section: [{"columns": header, "rows": rows} for header, rows in tables] for section, tables in others.items() if tables
    }
    assert found == NOTED


@pytest.mark.parametrize("file", sorted(BENCHMARKS.glob("results/*.json")), ids=lambda file: file.stem)
def test_no_result_names_a_place_on_the_machine_that_made_it(file):
    assert not re.findall(r'"(?:/|~/|[A-Z]:\\)[^"]*"', file.read_text())
