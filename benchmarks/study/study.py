"""The study of XTC's claims on GLUE: what it takes, and what has come of it.

  export GLUE=DIR RUNS=DIR                                       # the tasks' data, and where the work directories go
  python benchmarks/study/study.py plan                          # its runs, and about how long each takes on one core
  launch/sweep.sh benchmarks/study/runs.txt xtc compress         # stopped and started again, it goes on where it was
  python benchmarks/study/study.py record                        # what has ended so far, as claims.json of the other results
  xtc report "$RUNS"/*                                           # the same as tables, with means over seeds

A recorded number stays with the machine and the commit of the record that was the first to have it. Both commands take
``choices`` after them for the runs of ``choices.txt``, on held-out training data, and ``choices.json``.
"""

import argparse
import json
import os
import shlex
from pathlib import Path
from typing import Any

import jax
import pyarrow.parquet
from rich.console import Console
from rich.table import Table

from xtc_jax.benchmark.device import environment
from xtc_jax.pipeline.workdir import finished, write_json
from xtc_jax.recipe.files import read_config_file
from xtc_jax.recipe.recipe import Recipe, Stage, make_recipe

RUNS = Path(__file__).with_name("runs.txt")
RESULTS = Path(__file__).resolve().parents[1] / "results"
FILES = {"claims": RUNS, "choices": RUNS.with_name("choices.txt")}
"""By study the file of its runs."""
EXAMPLES_PER_SECOND = {"cola": 130, "stsb": 62, "mrpc": 31, "sst2": 100}
"""About those of a student of three layers of 384 at 1 bit, on one core of an AMD EPYC with AVX2 alone: twice those of six
layers in the runs of 2026-11-29; SST-2's is a guess. Deeper ones take longer in proportion."""
LAYERS = 6
"""Of the teacher."""


def commands(file: Path = RUNS) -> list[list[str]]:
    """The arguments of every run, with ``$GLUE`` and ``$RUNS`` in them replaced by what these variables hold."""
    lines = [line for line in file.read_text().splitlines() if line.startswith("-")]
    return [shlex.split(os.path.expandvars(line)) for line in lines]


def value(command: list[str], key: str) -> str:
    """What a run's arguments say of a key."""
    return next(word.removeprefix(f"--{key}=") for word in command if word.startswith(f"--{key}="))


def recipe_of(command: list[str]) -> Recipe:
    """The recipe of a run."""
    overrides = [word for word in command if word.startswith("--config.")]
    return make_recipe(read_config_file(value(command, "config"), overrides))


def hours(recipe: Recipe, examples: int, begun: Path) -> float:
    """About how long the stages of a run take that have not ended in its work directory."""
    left = [stage for stage in recipe.stages if finished(begun / stage.name) is None]
    return sum(_work(stage, examples) for stage in left) / EXAMPLES_PER_SECOND[recipe.config["task"]] / 3600


def _work(stage: Stage, examples: int) -> float:
    """The examples that a stage trains on, those of three layers counted once."""
    steps, _ = stage.counts(-(-examples // stage.batch_size))
    return steps * stage.batch_size * (len(stage.layers.split(",")) if stage.layers else LAYERS) / 3


def plan(study: str = "claims") -> Table:
    """The runs that are left, and their hours."""
    table, total, counted = (
        Table("work directory", "task", "stages", "hours left", title=f"the study of {study}"),
        0.0,
        set(),
    )
    for command in commands(FILES[study]):
        recipe, workdir = recipe_of(command), Path(value(command, "workdir"))
        data = recipe.config["data"]
        whole = Path(data["path"])
        train = whole if whole.is_file() else whole / recipe.config["task"] / "train.parquet"
        first = {stage.name for stage in recipe.stages if (workdir, stage.name) in counted}
        counted |= {(workdir, stage.name) for stage in recipe.stages}
        more = Recipe(recipe.config, tuple(stage for stage in recipe.stages if stage.name not in first))
        each = hours(more, data["limit_train"] or pyarrow.parquet.read_metadata(train).num_rows, workdir)
        table.add_row(workdir.name, recipe.config["task"], str(len(more.stages)), f"{each:.1f}")
        total += each
    table.add_row("all", "", "", f"{total:.1f}")
    return table


def record(known: dict[str, Any], file: Path = RUNS) -> dict[str, Any]:
    """``known`` with what has ended since: run, then stage or packed model, then its numbers; and the baselines of its data."""
    made, runs = environment(jax.devices()[0]), dict(known)
    for command in commands(file):
        workdir = Path(value(command, "workdir"))
        if (workdir / "baselines.json").exists():
            runs.setdefault(workdir.name, {})["baselines"] = json.loads((workdir / "baselines.json").read_text())["baselines"]
        for directory in sorted(workdir.glob("*/DONE")):
            name, entries = directory.parent.name, runs.setdefault(workdir.name, {})
            result = {key: each for key, each in (finished(directory.parent) or {}).items() if key != "path"}  # of this machine
            if {key: entries.get(name, {}).get(key) for key in result} != result:
                entries[name] = {**result, "environment": made}
    return runs


def main() -> None:
    """``plan`` or ``record``."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("plan", "record"))
    parser.add_argument("study", choices=FILES, nargs="?", default="claims")
    what, study = vars(parser.parse_args()).values()
    missing = [name for name in ("GLUE", "RUNS") if not os.environ.get(name)]
    if missing:
        parser.error(f"the variable {missing[0]} is not set: the directory of the {'data' if missing[0] == 'GLUE' else 'runs'}")
    if what == "plan":
        Console().print(plan(study))
        return
    results, file = RESULTS / f"{study}.json", FILES[study]
    runs = record(json.loads(results.read_text())["runs"] if results.exists() else {}, file)
    write_json(results, {"command": f"launch/sweep.sh benchmarks/study/{file.name} xtc compress", "runs": runs})
    print(f"{results}: {sum(map(len, runs.values()))} results of {len(runs)} runs")


if __name__ == "__main__":
    main()
