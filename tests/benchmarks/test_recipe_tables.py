"""Tables of recipes in benchmarks/README.md are those of the measurements beside it."""

import json
import statistics
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TEXT = (BENCHMARKS / "README.md").read_text()
HALF_AN_HOUR = {
    "movie-reviews": ("accuracy",),
    "mrpc": ("accuracy", "f1"),
    "stsb": ("pearson",),
    "cola": ("matthews_correlation",),
}


def measured(name):
    return json.loads((BENCHMARKS / "results" / f"{name}.json").read_text())


def percent(stage, *names):
    """The mean of these metrics of a stage."""
    return 100 * statistics.fmean(stage["metrics"][name] for name in names)


def test_hundred_has_the_rows_of_three_seeds_and_their_means():
    seeds = measured("hundred")["seeds"]
    assert list(seeds) == ["42", "43", "44"]
    teachers, students = ([percent(stages[name], "accuracy") for stages in seeds.values()] for name in ("teacher", "packed"))
    for seed, teacher, packed in zip(seeds, teachers, students, strict=True):
        assert f"| {seed} | {teacher:.2f} | {packed:.2f} | {100 * packed / teacher:.1f} % |" in TEXT
    means = statistics.fmean(teachers), statistics.fmean(students)
    spreads = statistics.stdev(teachers), statistics.stdev(students)
    share = 100 * means[1] / means[0]
    assert f"| mean | {means[0]:.2f} ± {spreads[0]:.2f} | {means[1]:.2f} ± {spreads[1]:.2f} | {share:.1f} % |" in TEXT
    for stages in seeds.values():
        assert f"packed, {stages['packed']['bytes']:,} bytes, {stages['packed']['ratio']:.1f} times smaller" in TEXT


@pytest.mark.parametrize("task", HALF_AN_HOUR)
def test_half_an_hour_of_own_has_the_row_of_each_task(task):
    run = measured("own")["runs"][task]
    teacher, packed = (percent(run["stages"][stage], *HALF_AN_HOUR[task]) for stage in ("teacher", "packed"))
    size = run["stages"]["packed"]["bytes"]
    numbers = f"| {teacher:.1f} | {packed:.1f} | {100 * packed / teacher:.1f} % | {size:,} | {run['wall_seconds']:,} |"
    rows = [line for line in TEXT.splitlines() if line.startswith(f"| {task}, ")]
    assert len(rows) == 1
    assert rows[0].endswith(numbers)
