"""``xtc benchmark``: what packed kernels, packed models and int8 training cost, beside their rivals."""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtc_jax.cli.console import progress_lines
from xtc_jax.errors import UserError

if TYPE_CHECKING:
    from xtc_jax.benchmark.results import Benchmark

_KINDS = "one product, a whole model, a training step, or steps over examples of real lengths"
HELP = "time the packed kernels, the packed model or a training step beside their rivals"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``xtc benchmark`` takes."""
    parser.add_argument("kind", choices=("matmul", "encoder", "train", "epoch"), help=_KINDS)
    parser.add_argument("--shape", nargs="+", default=(), metavar="KxN", help="matmul: weights (default: those of BERT-base)")
    parser.add_argument("--m", nargs="+", type=int, default=(), metavar="M", help="matmul: tokens (default: 1 to 4096)")
    parser.add_argument("--backend", default="", help="matmul: take this one (default: what the dispatcher chooses)")
    parser.add_argument(
        "--size",
        nargs="+",
        default=(),
        metavar="BxL",
        help="encoder: batch, length, or 'sentences', lengths of real ones (default: 1x16 1x32 1x128 8x128 sentences)",
    )
    parser.add_argument("--layers", type=int, default=12, help="encoder: of a BERT-base (default: 12)")
    parser.add_argument(
        "--torch-python", default="", help="train, epoch: interpreter with torch and DeepSpeed, to be timed beside"
    )
    parser.add_argument("--data", default="", help="epoch: directory or hub id of the data (default: the hub's)")
    parser.add_argument("--task", default="sst2", help="epoch: a GLUE task of single texts (default: sst2)")
    parser.add_argument("--rounds", type=int, default=0, help="turns of every contestant (default: 9 to 15)")
    parser.add_argument("--out", type=Path, help="directory for a JSON file and a picture; none writes nothing")


def run(arguments: argparse.Namespace, _: list[str]) -> None:
    """Measure, print a table, and write JSON and picture where asked to.

    Raises:
      UserError: an argument that makes no sense; found before anything is timed.
    """
    from rich.console import Console

    from xtc_jax.benchmark.results import save, table

    log = progress_lines()
    shapes = tuple(_pair(text, "--shape") for text in arguments.shape)
    sizes = tuple(_pair(text, "--size") for text in arguments.size if text != "sentences")
    for name, values in {"m": arguments.m, "layers": [arguments.layers], "rounds": [arguments.rounds or 1]}.items():
        if min(values, default=1) < 1:
            raise UserError(f"--{name}={min(values)} must be at least 1")
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
    # As a reader can repeat it: a path that is true of this machine alone becomes a word.
    command = " ".join(("xtc", *(re.sub(r"^((--[a-z-]+=)?)/.*", r"\1PATH", word) for word in sys.argv[1:])))
    rounds = {"rounds": arguments.rounds} if arguments.rounds else {}
    if arguments.kind == "matmul":
        from xtc_jax.benchmark.matmul import SHAPES, TOKENS, measure_matmul

        tokens = tuple(arguments.m) or TOKENS
        found = measure_matmul(log, command, shapes or SHAPES, tokens, arguments.backend, **rounds)
    elif arguments.kind == "encoder":
        from xtc_jax.benchmark.encoder import SENTENCES, SIZES, measure_encoder
        from xtc_jax.bert import BertConfig

        config, asked = BertConfig(num_hidden_layers=arguments.layers), arguments.size
        lengths = SENTENCES if not asked or "sentences" in asked else ()
        found = measure_encoder(log, command, config, sizes if asked else SIZES, sentences=lengths, **rounds)
    else:
        found = _measure_training(arguments, log, command, rounds)
    Console(width=None if sys.stdout.isatty() else 200).print(table(found))
    if arguments.out:
        for path in save(found, arguments.out):
            print(path)


def _measure_training(
    arguments: argparse.Namespace, log: Callable[[str], None], command: str, rounds: dict[str, Any]
) -> "Benchmark":
    """The kinds that train."""
    from xtc_jax.cli.malloc import keep_memory

    keep_memory()  # as xtc compress does: before the imports below, which start threads

    if arguments.kind == "epoch":
        from xtc_jax.benchmark.epoch import measure_epoch

        return measure_epoch(log, command, arguments.data, arguments.task, torch_python=arguments.torch_python, **rounds)
    from xtc_jax.benchmark.train import measure_train

    return measure_train(log, command, torch_python=arguments.torch_python, **rounds)


def _pair(text: str, option: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not match:
        raise UserError(f"{option}={text}: write two positive numbers with an x between, such as 768x3072")
    return int(match[1]), int(match[2])
