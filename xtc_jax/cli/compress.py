"""``xtc compress``: run a recipe."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtc_jax.cli.console import keep_executables, progress_lines

if TYPE_CHECKING:
    from xtc_jax.train import Screen

HELP = "run a recipe: teacher, fewer layers, fewer bits, packed model, report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``xtc compress`` takes."""
    parser.add_argument("--config", required=True, help="config file, with its argument after a colon: configs/glue.py:sst2")
    parser.add_argument("--workdir", required=True, type=Path, help="directory of the run; the same command resumes it")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--quiet", action="store_true", help="print the result alone: no lines of progress")
    shown.add_argument("--verbose", action="store_true", help="print a line for every record of metrics.jsonl")
    _add_processes(parser)
    parser.epilog = "Any key of the config is set by --config.KEY=VALUE, for example --config.quantize.steps=500."


def run(arguments: argparse.Namespace, overrides: list[str]) -> None:
    """Run the recipe, write its report, and print what came out."""
    from xtc_jax.cli.malloc import keep_memory

    keep_memory()  # before the imports below, which start threads

    from xtc_jax import parallel, pipeline, report
    from xtc_jax.recipe import make_recipe, read_config_file

    cluster = parallel.find_cluster(os.environ, arguments.coordinator, arguments.processes, arguments.process)
    frozen = make_recipe(read_config_file(arguments.config, overrides))
    keep_executables()
    parallel.join(cluster, arguments.connect_seconds)
    with parallel.stop_on_sigterm():
        log: Callable[[str], None] = (lambda _: None) if arguments.quiet else progress_lines()
        results = pipeline.run(frozen, arguments.workdir, log, _screen(arguments))
    if not parallel.is_first():
        return
    report.write_report(results, frozen, arguments.workdir)
    report.write_page([arguments.workdir], arguments.workdir / "report.html")
    baselines = report.read_baselines(arguments.workdir) if frozen.config["baselines"] else []
    show(results, f"{frozen.config['task']}: {frozen.config['model']}", baselines, arguments.workdir)


def show(results: dict[str, Any], title: str, baselines: list[dict[str, Any]], workdir: Path) -> None:
    """Print what came out: the table, where the packed model is, which baselines it beats, and where the report is."""
    from rich.console import Console

    from xtc_jax import pipeline, report

    screen = Console(width=None if sys.stdout.isatty() else 110)
    screen.print(report.terminal_table(report.result_rows(results), title))
    if pipeline.PACKED in results:
        packed = results[pipeline.PACKED]
        directory = workdir / Path(packed.get("path", pipeline.PACKED)).name
        print(f"packed model: {directory} ({packed['bytes']:,} bytes, {packed['ratio']:.1f} times smaller)")
    for line in [*report.verdicts(results, baselines), *report.outlook(results, workdir)]:
        print(line)
    print(f"report: {workdir / 'report.html'} (for a browser), report.md")
    for line in report.answer_lines(workdir):
        print(line)


def _screen(arguments: argparse.Namespace) -> "Screen":
    return "none" if arguments.quiet else "every" if arguments.verbose else "live"


def _add_processes(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group(
        "several processes",
        "which find each other by these, or by what SLURM, a Kubernetes Job or a TPU slice under GKE tells them",
    )
    group.add_argument("--coordinator", default="", metavar="HOST:PORT", help="of process 0; 'auto' on a slice of TPU VMs")
    group.add_argument("--processes", type=int, default=0, metavar="N", help="how many there are")
    group.add_argument("--process", type=int, default=-1, metavar="I", help="the number of this one, from 0")
    group.add_argument("--connect-seconds", type=float, default=300, metavar="S", help="to wait for the others (default: 300)")
