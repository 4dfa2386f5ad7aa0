"""The table of the recipe ``hundred`` in benchmarks/README.md is that of the measurement beside it."""

import json
import statistics
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_the_table_of_three_seeds_and_its_means_are_those_measured():
    measured = json.loads((BENCHMARKS / "results" / "hundred.json").read_text())
    text = (BENCHMARKS / "README.md").read_text()
    pairs = {
        seed: [100 * stages[name]["metrics"]["accuracy"] for name in ("teacher", "packed")]
        for seed, stages in measured["seeds"].items()
    }
    assert list(pairs) == ["42", "43", "44"]
    for seed, (teacher, packed) in pairs.items():
        assert f"| {seed} | {teacher:.2f} | {packed:.2f} | {100 * packed / teacher:.1f} % |" in text
    teachers, students = zip(*pairs.values(), strict=True)
    means = statistics.fmean(teachers), statistics.fmean(students)
    spreads = statistics.stdev(teachers), statistics.stdev(students)
    share = 100 * means[1] / means[0]
    assert f"| mean | {means[0]:.2f} ± {spreads[0]:.2f} | {means[1]:.2f} ± {spreads[1]:.2f} | {share:.1f} % |" in text
    for stages in measured["seeds"].values():
        assert f"packed, {stages['packed']['bytes']:,} bytes, {stages['packed']['ratio']:.1f} times smaller" in text
