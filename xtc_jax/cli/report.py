"""``xtc report``: one table of several runs."""

import argparse
import json
import sys
from pathlib import Path

HELP = "one table of several runs, or a page for a browser"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``xtc report`` takes."""
    parser.add_argument("workdir", nargs="+", type=Path, help="work directories of finished runs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write a page with tables, curves and pictures of all of them"
    )
    parser.add_argument("--no-examples", action="store_true", help="no texts of the validation data on that page")


def run(arguments: argparse.Namespace, _: list[str]) -> None:
    """Print the joint table."""
    from dataclasses import asdict

    from rich.console import Console

    from xtc_jax.report import runs as summary
    from xtc_jax.report import tables as report

    rows = summary.joint_rows(arguments.workdir)
    if arguments.html:
        from xtc_jax.report.page import write_page

        write_page(arguments.workdir, arguments.html, not arguments.no_examples)
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows]))
    elif arguments.markdown:
        print(report.markdown_table(rows), end="")
    else:
        Console(width=None if sys.stdout.isatty() else 160).print(report.terminal_table(rows, "all runs"))
