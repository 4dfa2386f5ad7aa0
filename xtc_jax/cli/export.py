"""``xtc export``: a packed model for a runtime other than JAX."""

import argparse
from pathlib import Path

from xtc_jax.cli.console import progress_lines

HELP = "write a packed model for another runtime: ONNX, as small as it is packed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``xtc export`` takes."""
    parser.add_argument("model", type=Path, help="packed model directory")
    parser.add_argument("out", type=Path, help="new directory")
    parser.add_argument("--to", choices=("onnx",), required=True, help="form of the target")
    parser.add_argument("--data", default="", help="validation data to compare on (default: token ids drawn at random)")


def run(arguments: argparse.Namespace, _: list[str]) -> None:
    """Export, verify, and print how the runtimes agree."""
    from xtc_jax.deploy.directory import MODEL, export_onnx

    found = export_onnx(arguments.model, arguments.out, arguments.data, progress_lines())
    for name, agreement in found.items():
        print(
            f"{name}: {agreement.rows:,} rows, logits differ by {agreement.median:.1e} (median) and {agreement.maximum:.1e} at "
            f"most; {agreement.close_labels} labels on the edge"
        )
    print(f"exported: {arguments.out / MODEL} ({(arguments.out / MODEL).stat().st_size:,} bytes)")
