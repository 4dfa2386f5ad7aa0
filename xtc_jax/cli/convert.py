"""``xtc convert``: another form of the same checkpoint."""

import argparse
from pathlib import Path

HELP = "convert a BERT checkpoint; every tensor keeps its bits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``xtc convert`` takes."""
    parser.add_argument("source", help="Hugging Face directory, hub id, pinned:NAME, or the model/ directory of a stage")
    parser.add_argument("target", type=Path, help="new directory")
    parser.add_argument(
        "--to", choices=("huggingface", "flax"), default="huggingface", help="form of the target (default: huggingface)"
    )


def run(arguments: argparse.Namespace, _: list[str]) -> None:
    """Convert the checkpoint and print its size."""
    from xtc_jax.formats import convert

    config, tensors = convert(arguments.source, arguments.target, arguments.to)
    print(f"{arguments.target}: {tensors} tensors, {config.num_hidden_layers} layers of {config.hidden_size}")
