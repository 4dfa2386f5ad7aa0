"""``xtc export``: a packed model for a runtime other than JAX."""

import argparse
import importlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from xtc_jax.cli.console import progress_lines

HELP = "write a packed model for another runtime, as small as it is packed"
TARGETS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "onnx": ("xtc_jax.deploy.onnx_directory", "export_onnx"),
        "web": ("xtc_jax.deploy.web", "export_web"),
        "stablehlo": ("xtc_jax.deploy.stablehlo", "export_stablehlo"),
        "huggingface": ("xtc_jax.deploy.huggingface", "export_huggingface"),
    }
)
"""``target -> (module, function)``; the function takes the packed directory, the new one, the data and a log."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``xtc export`` takes."""
    parser.add_argument("model", type=Path, help="packed model directory")
    parser.add_argument("out", type=Path, help="new directory")
    parser.add_argument("--to", choices=tuple(TARGETS), required=True, help="form of the target")
    parser.add_argument("--data", default="", help="validation data to compare on (default: token ids drawn at random)")
    parser.add_argument("--license", default="", help="for the model card: an identifier of the hub, such as apache-2.0")
    parser.add_argument("--base-model", default="", help="for the model card: the hub's id of the checkpoint it began with")


def run(arguments: argparse.Namespace, _: list[str]) -> None:
    """Export, verify, and print how the runtimes agree and how large the files are."""
    from xtc_jax.deploy.card import CARD, check_hub_id, complete_card

    check_hub_id(arguments.base_model)
    module, function = TARGETS[arguments.to]
    export = getattr(importlib.import_module(module), function)
    found = export(arguments.model, arguments.out, arguments.data, progress_lines())
    for card in arguments.out.rglob(CARD) if arguments.license or arguments.base_model else ():
        complete_card(card, arguments.license, arguments.base_model)
    for name, agreement in found.items():
        print(
            f"{name}: {agreement.rows:,} rows, logits differ by {agreement.median:.1e} (median) and {agreement.maximum:.1e} at "
            f"most; {agreement.close_labels} labels on the edge"
        )
    sizes = [path.stat().st_size for path in arguments.out.rglob("*") if path.is_file()]
    print(f"exported: {arguments.out} ({sum(sizes):,} bytes, the largest file {max(sizes):,})")
