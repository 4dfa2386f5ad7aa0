"""Tables of several runs, from what they have left in their work directories."""

import json
from pathlib import Path

import pytest

from xtc_jax.cli.main import main
from xtc_jax.errors import UserError
from xtc_jax.report.runs import joint_rows


def finished(workdir: Path, seed: int, accuracy: float, **stage: float) -> Path:
    """The work directory of a run of two stages."""
    results = {}
    for name, value in (("teacher", 0.9), ("packed", accuracy)):
        metrics = {"metrics": {"accuracy": value}, "seconds": 10.0 * seed}
        results[name] = {**metrics, "layers": 3, "weight_bits": 1, "bytes": 100, "steps": 5}
    (workdir / "quantize").mkdir(parents=True)
    (workdir / "packed").mkdir()
    (workdir / "results.json").write_text(json.dumps(results))
    record = {
        "seed": seed,
        "task": "cola",
        "quantize": {"learning_rate": 1e-4, **stage},
        "built on": {"teacher": f"hash of {seed}"},
    }
    (workdir / "quantize" / "config.json").write_text(json.dumps(record))
    (workdir / "packed" / "config.json").write_text("{}")  # the packed model's, no record of a stage
    return workdir


def test_runs_that_differ_in_the_seed_are_followed_by_mean_and_standard_deviation(tmp_path):
    runs = [finished(tmp_path / f"cola-{seed}", seed, accuracy) for seed, accuracy in ((1, 0.80), (2, 0.82), (3, 0.87))]
    *rows, teacher, packed = joint_rows(runs)
    assert [row.stage for row in rows] == [f"cola-{seed}: {stage}" for seed in (1, 2, 3) for stage in ("teacher", "packed")]
    assert all(row.spread is None for row in rows)
    assert (teacher.stage, packed.stage) == ("cola-1 and 2 more: teacher, mean", "cola-1 and 2 more: packed, mean")
    assert packed.value == pytest.approx(0.83, rel=0, abs=2e-15)
    assert packed.spread == pytest.approx(0.03605551)  # sqrt((0.03² + 0.01² + 0.04²) / 2)
    assert (packed.teacher, packed.seconds, teacher.spread) == (0.9, 20.0, 0.0)
    assert packed.cells()[3] == "83.00 ± 3.61"


def test_other_recipes_and_the_same_seed_twice_have_no_mean(tmp_path):
    runs = [
        finished(tmp_path / "a", 1, 0.8),
        finished(tmp_path / "b", 2, 0.8, learning_rate=5e-5),
        finished(tmp_path / "c", 1, 0.8),
    ]
    assert len(joint_rows(runs)) == 6


def test_runs_without_a_record_of_their_stages_have_no_mean(tmp_path):
    runs = [finished(tmp_path / name, seed, 0.8) for seed, name in enumerate("ab")]
    for workdir in runs:
        (workdir / "quantize" / "config.json").unlink()
    assert len(joint_rows(runs)) == 4


def test_the_command_prints_means_as_markdown_and_json(tmp_path, capsys):
    runs = [str(finished(tmp_path / f"run-{seed}", seed, accuracy)) for seed, accuracy in ((1, 0.7), (2, 0.8))]
    assert main(["report", "--markdown", *runs]) == 0
    assert "| run-1 and 1 more: packed, mean | 3 | 1 | 75.00 ± 7.07 | 83.3 % |" in capsys.readouterr().out
    assert main(["report", "--json", *runs]) == 0
    assert [row["spread"] for row in json.loads(capsys.readouterr().out)][:5] == [None] * 4 + [0.0]


def test_a_run_that_has_not_ended_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no results\.json"):
        joint_rows([tmp_path])
