"""``xtc aot``: compile the training step for devices that are not there."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from xtc_jax.cli.console import progress_lines
from xtc_jax.errors import UserError

HELP = "compile the training step for a TPU slice that is not there: memory, traffic, speed"
DOES_NOT_FIT = 1
"""The exit status of a step that needs more memory than there is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``xtc aot`` takes."""
    parser.add_argument("--config", required=True, help="as of xtc compress, and so are --config.KEY=VALUE")
    parser.add_argument(
        "--topology", required=True, help="v5e:16x16 or v5e-256, v6e:2x4, v5p:2x2x1, …; h100:8 or cuda is only lowered for"
    )
    parser.add_argument("--stage", default="", help="default: the last")
    parser.add_argument("--length", type=int, default=0, help="tokens of a text (default: the longest of the config)")
    parser.add_argument("--batch-per-chip", type=int, default=0, metavar="N", help="instead of every stage's batch_size")
    parser.add_argument("--model", default="", help="shape of config.model: directory, or bert-base, bert-large, …")
    parser.add_argument("--quick", action="store_true", help="compile at O1, seven times as fast: not the program that trains")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.epilog = "No TPU is needed, but libtpu. Exit status 1: the step does not fit into memory."


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Compile the step of a config's stage for a slice, and print what it takes.

    Returns:
      The exit status: 0, or :data:`DOES_NOT_FIT`.

    Raises:
      UserError: an unknown topology, stage, model or key, or a mesh or batch that the slice does not divide.
    """
    from rich.console import Console

    from xtc_jax.aot.account import account
    from xtc_jax.aot.advice import what_would_fit
    from xtc_jax.aot.models import longest, model_shapes
    from xtc_jax.aot.result import describe, plain, remarks, table
    from xtc_jax.aot.step import trace_step
    from xtc_jax.aot.topology import find_slice
    from xtc_jax.recipe import make_recipe, read_config_file

    log = progress_lines()
    for name in ("length", "batch_per_chip"):
        if getattr(arguments, name) < 0:
            raise UserError(f"--{name.replace('_', '-')}={getattr(arguments, name)} must be at least 1")
    recipe = make_recipe(read_config_file(arguments.config, overrides))
    shapes = model_shapes(recipe, arguments.model)
    length = longest(recipe, shapes, arguments.length)
    slice_ = find_slice(arguments.topology)
    if arguments.batch_per_chip:
        size = arguments.batch_per_chip * slice_.chips
        recipe = replace(recipe, stages=tuple(replace(stage, batch_size=size) for stage in recipe.stages))
    begun = time.monotonic()
    step = trace_step(recipe, shapes, slice_, arguments.stage, length)
    log(describe(step, slice_))
    with _clock():
        found = account(step, slice_, begun, log, arguments.quick)
    advice = () if found.memory.fits else what_would_fit(step, slice_, found.memory)
    if arguments.json:
        print(json.dumps(plain(step, slice_, found, advice)))
    else:
        Console(width=None if sys.stdout.isatty() else 140).print(table(step, slice_, found))
        for line in remarks(step, slice_, found, advice, recipe.config["data"]["eval_batch_size"]):
            print(line)
    return 0 if found.memory.fits else DOES_NOT_FIT


def _clock() -> AbstractContextManager[object]:
    """Seconds ticking on a terminal, while the compiler works."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    screen = Console(stderr=True)
    progress = Progress(SpinnerColumn(), TextColumn("compiling"), TimeElapsedColumn(), console=screen, transient=True)
    progress.add_task("", total=None)
    return progress if screen.is_terminal else nullcontext()
