"""``xtc augment``: a data set with variants of its texts."""

import argparse
from pathlib import Path

from xtc_jax.cli.console import progress_lines

HELP = "write a data set with variants of its texts, for the distillation of a small task"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``xtc augment`` takes."""
    parser.add_argument("--model", required=True, help="masked language model (or any BERT): directory, hub id or pinned:NAME")
    parser.add_argument("--task", required=True, help="GLUE's name, or your own with --text")
    parser.add_argument("--data", required=True, help="file, directory with TASK/SPLIT.parquet, or pinned:NAME")
    parser.add_argument("--out", required=True, type=Path, help="new parquet file; the same command goes on with it")
    parser.add_argument("--split", default="train", help="default: train")
    parser.add_argument("--count", type=int, default=0, help="variants of a text, at most (default: the task's)")
    parser.add_argument("--probability", type=float, default=0.4, help="of replacing a word (default: 0.4)")
    parser.add_argument("--candidates", type=int, default=15, help="words to choose from (default: 15)")
    parser.add_argument("--max-length", type=int, default=0, help="tokens the model sees (default: as many as it can)")
    parser.add_argument("--limit", type=int, default=0, help="rows of the source, evenly spaced (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--processes", type=int, default=1, help="working side by side on the CPU; the result is the same")
    parser.add_argument("--text", nargs="+", default=(), metavar="COL", help="one or two text columns of your own task")
    parser.add_argument("--label", default="", metavar="COL", help="label column (default: label)")


def run(arguments: argparse.Namespace, _: list[str]) -> None:
    """Write the augmented file and print what it holds."""
    from xtc_jax.augment.job import AugmentSpec, augment
    from xtc_jax.data import find_task

    same = ("model", "data", "split", "count", "probability", "candidates", "max_length", "limit", "seed", "processes")
    task = find_task(arguments.task, tuple(arguments.text), arguments.label)
    spec = AugmentSpec(task=task, **{name: getattr(arguments, name) for name in same})
    done = augment(spec, arguments.out, progress_lines())
    print(f"{done.path}: {done.rows:,} rows of {done.originals:,}")
