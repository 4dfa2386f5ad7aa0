"""``xtc evaluate``: measure a packed model on a data set."""

import argparse
import json
from pathlib import Path
from typing import Any

from xtc_jax.cli.console import keep_executables
from xtc_jax.errors import UserError

HELP = "measure a packed model on a data set"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``xtc evaluate`` takes."""
    parser.add_argument("--model", required=True, type=Path, help="packed model directory")
    parser.add_argument("--task", help="must be the model's own (default: it)")
    parser.add_argument("--data", required=True, help="file, directory with TASK/SPLIT.parquet, or pinned:NAME")
    parser.add_argument(
        "--split", default="", help="default: the task's validation splits (with --submission: its test splits)"
    )
    parser.add_argument("--submission", type=Path, help="write the GLUE site's files of the test splits into this directory")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace, _: list[str]) -> None:
    """Print the metrics, or write the files of the GLUE site."""
    from xtc_jax.inference.predictor import evaluate_packed, load_predictor

    keep_executables()
    predictor = load_predictor(arguments.model)
    task = predictor.model.task
    if arguments.task and arguments.task != task.name:
        raise UserError(f"{arguments.model} was trained for task {task.name!r}, not {arguments.task!r}")
    if arguments.submission:
        _submit(predictor, arguments)
        return
    metrics, examples = evaluate_packed(predictor, arguments.data, arguments.split)
    if arguments.json:
        print(json.dumps({"examples": examples, "metrics": metrics}))
    else:
        print(f"{task.name}: {examples} examples, " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))


def _submit(predictor: Any, arguments: argparse.Namespace) -> None:
    from xtc_jax.inference.glue_submission import write_submission

    written = write_submission(predictor, arguments.data, arguments.submission, arguments.split)
    if arguments.json:
        print(json.dumps({"files": {str(file): count for file, count in written}}))
    else:
        print("\n".join(f"{file}: {count} predictions" for file, count in written))
