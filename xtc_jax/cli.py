"""The ``xtc`` command: parse, call, print. No logic lives here."""

import argparse
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from xtc_jax import __version__
from xtc_jax.errors import Preempted, UserError

# Heavy imports stand inside the commands, so that --help and mistakes answer at once.

PREEMPTED = 75
"""Exit status after SIGTERM, which launchers restart on: EX_TEMPFAIL of sysexits.h, "try again later"."""


class _Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing usage and exiting."""
        raise UserError(f"{message}; see '{self.prog} --help'")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 for a step that does not fit (``xtc aot``), 2 after bad input or a full or
    unwritable disk, 75 after SIGTERM, or 76 where another of several processes was lost (one line on standard error). One of
    several that fails ends here, at once.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs whole tracebacks of errors that it raises all the same
    warnings.filterwarnings("ignore")  # of libraries; ours are errors or lines on the screen
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    status = 0
    try:
        arguments, rest = _parser().parse_known_args(argv)
        if rest and arguments.command not in (_compress, _aot):
            raise UserError(f"unrecognized arguments: {' '.join(rest)}; see 'xtc --help'")
        status = arguments.command(arguments, rest) or 0
    except UserError as error:
        print(f"xtc: error: {error}", file=sys.stderr)
        status = 2
    except Preempted as notice:
        print(f"xtc: {notice}; run the same command again to go on", file=sys.stderr)
        return PREEMPTED  # all of several processes stop together, and may wait for each other
    except KeyboardInterrupt:
        print("xtc: interrupted; run the same command again to go on", file=sys.stderr)
        status = 130
    except Exception as error:
        status = _failed(error)
    if status and _one_of_several():
        from xtc_jax.train import leave

        leave(status)
    return status


def _one_of_several() -> bool:
    """Whether this process has joined others, or tried to; JAX is not imported to find out."""
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


def _failed(error: Exception) -> int:
    """Say what happened; returns the exit status. Raises the error where its traceback is all there is to say.

    Whether another process was lost is asked first: where Orbax waited for it, the error is an OSError too.
    """
    several = _one_of_several()
    if several:
        from xtc_jax.train import LOST, lost_process

        if lost := lost_process(error):
            print(f"xtc: error: {lost}; start all processes again to go on", file=sys.stderr)
            return LOST
    if isinstance(error, OSError):
        print(f"xtc: error: {error.filename or 'system'}: {error.strerror or error}", file=sys.stderr)
        return 2
    if not several:
        raise error
    traceback.print_exc()
    return 1


def _parser() -> _Parser:
    parser = _Parser(prog="xtc", description="Make a BERT fifty times smaller: XTC in JAX.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"xtc_jax {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.set_defaults(command=function)
        return command

    compress = add("compress", _compress, "run a recipe: teacher, fewer layers, fewer bits, packed model, report")
    compress.add_argument("--config", required=True, help="config file, with its argument after a colon: configs/glue.py:sst2")
    compress.add_argument("--workdir", required=True, type=Path, help="directory of the run; the same command resumes it")
    _add_processes(compress)
    compress.epilog = "Any key of the config is set by --config.KEY=VALUE, for example --config.quantize.steps=500."

    report = add("report", _report, "one table of several runs, such as those of configs/study/")
    report.add_argument("workdir", nargs="+", type=Path, help="work directories of finished runs")
    report.add_argument("--json", action="store_true", help="print JSON")
    report.add_argument("--markdown", action="store_true", help="print Markdown")

    convert = add("convert", _convert, "convert a BERT checkpoint; every tensor keeps its bits")
    convert.add_argument("source", help="Hugging Face directory, hub id, pinned:NAME, or the model/ directory of a stage")
    convert.add_argument("target", type=Path, help="new directory")
    convert.add_argument(
        "--to", choices=("huggingface", "flax"), default="huggingface", help="form of the target (default: huggingface)"
    )

    augment = add("augment", _augment, "write a data set with variants of its texts, for the distillation of a small task")
    augment.add_argument("--model", required=True, help="masked language model (or any BERT): directory, hub id or pinned:NAME")
    augment.add_argument("--task", required=True, help="GLUE's name, or your own with --text")
    augment.add_argument("--data", required=True, help="file, directory with TASK/SPLIT.parquet, or pinned:NAME")
    augment.add_argument("--out", required=True, type=Path, help="new parquet file; the same command goes on with it")
    augment.add_argument("--split", default="train", help="default: train")
    augment.add_argument("--count", type=int, default=0, help="variants of a text, at most (default: the task's)")
    augment.add_argument("--probability", type=float, default=0.4, help="of replacing a word (default: 0.4)")
    augment.add_argument("--candidates", type=int, default=15, help="words to choose from (default: 15)")
    augment.add_argument("--max-length", type=int, default=0, help="tokens the model sees (default: as many as it can)")
    augment.add_argument("--limit", type=int, default=0, help="rows of the source, evenly spaced (default: all)")
    augment.add_argument("--seed", type=int, default=0, help="default: 0")
    augment.add_argument("--processes", type=int, default=1, help="working side by side on the CPU; the result is the same")
    augment.add_argument("--text", nargs="+", default=(), metavar="COL", help="one or two text columns of your own task")
    augment.add_argument("--label", default="", metavar="COL", help="label column (default: label)")

    predict = add("predict", _predict, "classify text with a packed model")
    predict.add_argument("--model", required=True, type=Path, help="packed model directory")
    predict.add_argument("--json", action="store_true", help="one JSON object per line")
    predict.add_argument("text", nargs="*", help="texts; none reads lines from standard input; a pair has a tab between")

    evaluate = add("evaluate", _evaluate, "measure a packed model on a data set")
    evaluate.add_argument("--model", required=True, type=Path, help="packed model directory")
    evaluate.add_argument("--task", help="must be the model's own (default: it)")
    evaluate.add_argument("--data", required=True, help="file, directory with TASK/SPLIT.parquet, or pinned:NAME")
    evaluate.add_argument(
        "--split", default="", help="default: the task's validation splits (with --submission: its test splits)"
    )
    evaluate.add_argument("--submission", type=Path, help="write the GLUE site's files of the test splits into this directory")
    evaluate.add_argument("--json", action="store_true", help="print JSON")

    inspect = add("inspect", _inspect, "list every tensor of a packed model with its bits and bytes")
    inspect.add_argument("model", type=Path, help="packed model directory")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    _add_measuring(add)
    return parser


def _add_measuring(add: Callable[[str, Any, str], argparse.ArgumentParser]) -> None:
    from xtc_jax.aot import command as aot
    from xtc_jax.benchmark import command as benchmark

    timed = "time the packed kernels, the packed model or a training step beside their rivals"
    aot.add_arguments(add("aot", _aot, "compile the training step for a TPU slice that is not there: memory, traffic, speed"))
    benchmark.add_arguments(add("benchmark", _benchmark, timed))


def _add_processes(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group(
        "several processes",
        "which find each other by these, or by what SLURM, a Kubernetes Job or a TPU slice under GKE tells them",
    )
    group.add_argument("--coordinator", default="", metavar="HOST:PORT", help="of process 0; 'auto' on a slice of TPU VMs")
    group.add_argument("--processes", type=int, default=0, metavar="N", help="how many there are")
    group.add_argument("--process", type=int, default=-1, metavar="I", help="the number of this one, from 0")
    group.add_argument("--connect-seconds", type=float, default=300, metavar="S", help="to wait for the others (default: 300)")


def _compress(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from xtc_jax import memory

    memory.keep_memory()  # before the imports below, which start threads

    from rich.console import Console

    from xtc_jax import pipeline, plan, recipe, report, summary, train
    from xtc_jax.config_file import read_config_file

    cluster = train.find_cluster(os.environ, arguments.coordinator, arguments.processes, arguments.process)
    frozen = recipe.make_recipe(read_config_file(arguments.config, overrides))
    train.join(cluster, arguments.connect_seconds)
    say = Console(stderr=True, highlight=False).print
    with train.stop_on_sigterm():
        results = pipeline.run(frozen, arguments.workdir, lambda line: say(line, markup=False, soft_wrap=True))
    if not train.is_first():
        return
    summary.write_report(results, frozen, arguments.workdir)
    screen = Console(width=None if sys.stdout.isatty() else 140)
    screen.print(report.terminal_table(summary.result_rows(results), f"{frozen.config['task']}: {frozen.config['model']}"))
    if plan.PACKED in results:
        packed = results[plan.PACKED]
        print(f"packed model: {packed['path']} ({packed['bytes']:,} bytes, {packed['ratio']:.1f} times smaller)")
    print(f"report: {arguments.workdir / 'report.md'}")


def _report(arguments: argparse.Namespace, _: list[str]) -> None:
    from dataclasses import asdict

    from rich.console import Console

    from xtc_jax import report, summary

    rows = summary.joint_rows(arguments.workdir)
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows]))
    elif arguments.markdown:
        print(report.markdown_table(rows), end="")
    else:
        Console(width=None if sys.stdout.isatty() else 160).print(report.terminal_table(rows, "all runs"))


def _convert(arguments: argparse.Namespace, _: list[str]) -> None:
    from xtc_jax.export import convert

    config, tensors = convert(arguments.source, arguments.target, arguments.to)
    print(f"{arguments.target}: {tensors} tensors, {config.num_hidden_layers} layers of {config.hidden_size}")


def _augment(arguments: argparse.Namespace, _: list[str]) -> None:
    from rich.console import Console

    from xtc_jax.augmentation import AugmentSpec, augment
    from xtc_jax.data import find_task

    same = ("model", "data", "split", "count", "probability", "candidates", "max_length", "limit", "seed", "processes")
    task = find_task(arguments.task, tuple(arguments.text), arguments.label)
    spec = AugmentSpec(task=task, **{name: getattr(arguments, name) for name in same})
    say = Console(stderr=True, highlight=False).print
    done = augment(spec, arguments.out, lambda line: say(line, markup=False, soft_wrap=True))
    print(f"{done.path}: {done.rows:,} rows of {done.originals:,}")


def _predict(arguments: argparse.Namespace, _: list[str]) -> None:
    from dataclasses import asdict

    from xtc_jax.predict import load_predictor, predict

    _keep_executables()
    predictor = load_predictor(arguments.model)
    lines = arguments.text or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not lines:
        raise UserError("no text: give it as arguments or on standard input")
    for line, answer in zip(lines, predict(predictor, [tuple(line.split("\t")) for line in lines]), strict=True):
        if arguments.json:
            print(json.dumps({"text": line, **asdict(answer)}))
        else:
            print(f"{answer.label}\t{answer.value:.4f}\t{line}" if answer.label else f"{answer.value:.4f}\t{line}")


def _evaluate(arguments: argparse.Namespace, _: list[str]) -> None:
    from xtc_jax.predict import evaluate_packed, load_predictor

    _keep_executables()
    predictor = load_predictor(arguments.model)
    task = predictor.model.task
    if arguments.task and arguments.task != task.name:
        raise UserError(f"{arguments.model} was trained for task {task.name!r}, not {arguments.task!r}")
    if arguments.submission:
        _submit(predictor, arguments)
        return
    metrics, examples = evaluate_packed(predictor, arguments.data, arguments.split)
    if arguments.json:
        print(json.dumps({"examples": examples, "metrics": metrics}))
    else:
        print(f"{task.name}: {examples} examples, " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))


def _keep_executables() -> None:
    """Turn on JAX's cache of compiled programs, unless the user has: once on a machine, not at every call."""
    import jax

    from xtc_jax.data import cache_directory

    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(cache_directory() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _submit(predictor: Any, arguments: argparse.Namespace) -> None:
    from xtc_jax.submission import write_submission

    written = write_submission(predictor, arguments.data, arguments.submission, arguments.split)
    if arguments.json:
        print(json.dumps({"files": {str(file): count for file, count in written}}))
    else:
        print("\n".join(f"{file}: {count} predictions" for file, count in written))


def _benchmark(arguments: argparse.Namespace, _: list[str]) -> None:
    from rich.console import Console

    from xtc_jax.benchmark.command import run

    say = Console(stderr=True, highlight=False).print
    run(arguments, lambda line: say(line, markup=False, soft_wrap=True))


def _aot(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from rich.console import Console

    from xtc_jax.aot.command import run

    say = Console(stderr=True, highlight=False).print
    return run(arguments, overrides, lambda line: say(line, markup=False, soft_wrap=True))


def _inspect(arguments: argparse.Namespace, _: list[str]) -> None:
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from xtc_jax.export import WEIGHTS, file_account

    entries, header, size = file_account(arguments.model)
    if arguments.json:
        print(json.dumps({"tensors": [{**asdict(e), "total": e.total} for e in entries], "header": header, "bytes": size}))
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


def _count(shape: tuple[int, ...]) -> int:
    import math

    return math.prod(shape)


if __name__ == "__main__":
    sys.exit(main())
