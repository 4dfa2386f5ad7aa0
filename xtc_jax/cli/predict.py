"""``xtc predict``: classify texts with a packed model."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from xtc_jax.cli.console import keep_executables
from xtc_jax.errors import UserError

if TYPE_CHECKING:
    from xtc_jax.inference.predictor import Prediction

HELP = "classify text with a packed model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``xtc predict`` takes."""
    parser.add_argument("--model", required=True, type=Path, help="packed model directory")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("text", nargs="*", help="texts; none reads lines from standard input; a pair has a tab between")


def run(arguments: argparse.Namespace, _: list[str]) -> None:
    """Print one line, or one JSON object, per text; for a blank one, a blank line, or an object without a label."""
    from xtc_jax.inference.predictor import load_predictor, predict_lines, read_lines

    keep_executables()
    predictor = load_predictor(arguments.model)
    lines = arguments.text or read_lines(sys.stdin.buffer, "standard input")
    if not any(line.strip() for line in lines):
        raise UserError("no text: give it as arguments or on standard input")
    show = _json if arguments.json else _line
    for line, answer in zip(lines, predict_lines(predictor, lines), strict=True):
        print(show(line, answer))


def _json(text: str, answer: "Prediction | None") -> str:
    """The same keys for every text; of a blank one they hold nothing."""
    return json.dumps({"text": text, **(asdict(answer) if answer else {"label": None, "value": None, "probabilities": {}})})


def _line(text: str, answer: "Prediction | None") -> str:
    if answer is None:
        return ""
    return f"{answer.label}\t{answer.value:.4f}\t{text}" if answer.label is not None else f"{answer.value:.4f}\t{text}"
