"""``xtc predict``: classify texts with a packed model."""

import argparse
import json
import sys
from pathlib import Path

from xtc_jax.cli.console import keep_executables
from xtc_jax.errors import UserError

HELP = "classify text with a packed model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``xtc predict`` takes."""
    parser.add_argument("--model", required=True, type=Path, help="packed model directory")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("text", nargs="*", help="texts; none reads lines from standard input; a pair has a tab between")


def run(arguments: argparse.Namespace, _: list[str]) -> None:
    """Print one line, or one JSON object, per text."""
    from dataclasses import asdict

    from xtc_jax.inference.predictor import load_predictor, predict

    keep_executables()
    predictor = load_predictor(arguments.model)
    lines = arguments.text or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not lines:
        raise UserError("no text: give it as arguments or on standard input")
    for line, answer in zip(lines, predict(predictor, [tuple(line.split("\t")) for line in lines]), strict=True):
        if arguments.json:
            print(json.dumps({"text": line, **asdict(answer)}))
        else:
            print(f"{answer.label}\t{answer.value:.4f}\t{line}" if answer.label else f"{answer.value:.4f}\t{line}")
