"""``xtc inspect``: every tensor of a packed model, with its bits and bytes."""

import argparse
import json
import sys
from pathlib import Path

HELP = "list every tensor of a packed model with its bits and bytes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``xtc inspect`` takes."""
    parser.add_argument("model", type=Path, help="packed model directory")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace, _: list[str]) -> None:
    """Print the table of tensors."""
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from xtc_jax.formats import WEIGHTS, file_account, tokenizer_bytes

    entries, header, size = file_account(arguments.model)
    tokenizer = tokenizer_bytes(arguments.model)
    if arguments.json:
        tensors = [{**asdict(e), "total": e.total} for e in entries]
        print(json.dumps({"tensors": tensors, "header": header, "bytes": size, "tokenizer_bytes": tokenizer}))
        return
    table = Table(title=str(arguments.model / WEIGHTS))
    for name in ("parameter", "shape", "bits", "code bytes", "scale bytes", "bytes"):
        table.add_column(name, justify="left" if name == "parameter" else "right", no_wrap=True)
    for e in entries:
        shape = "x".join(map(str, e.shape))
        table.add_row(e.name, shape, f"{e.bits:g}", f"{e.code_bytes:,}", f"{e.scale_bytes:,}", f"{e.total:,}")
    table.add_row("(header)", "", "", "", "", f"{header:,}", end_section=True)
    table.add_row("total", "", "", "", "", f"{size:,}")
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    weights = sum(_count(e.shape) for e in entries)
    print(f"{weights:,} weights, {8 * size / weights:.2f} bits each; {4 * weights / size:.1f} times fewer bytes than float32")
    pieces = next((e.shape[0] for e in entries if e.name.startswith("embeddings/word_embeddings/")), 0)
    print(f"beside it: a tokenizer of {pieces:,} word pieces, {tokenizer:,} bytes")


def _count(shape: tuple[int, ...]) -> int:
    import math

    return math.prod(shape)
