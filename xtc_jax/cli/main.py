"""The ``xtc`` command: finds the command, and turns what goes wrong into one line and an exit status."""

import argparse
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType, ModuleType
from typing import NoReturn

from xtc_jax import __version__
from xtc_jax.cli import aot, augment, benchmark, compress, convert, doctor, evaluate, export, inspect, predict, report, serve
from xtc_jax.errors import Preempted, UserError

# Heavy imports stand inside the commands, so that --help and mistakes answer at once.

GROUPS: Mapping[str, Mapping[str, ModuleType]] = MappingProxyType(
    {
        "make a model small": {"compress": compress, "augment": augment, "report": report},
        "use it": {"predict": predict, "evaluate": evaluate, "serve": serve},
        "look into it, and take it elsewhere": {"inspect": inspect, "export": export, "convert": convert},
        "plan and measure": {"doctor": doctor, "aot": aot, "benchmark": benchmark},
    }
)
"""Commands by what one wants to do, as ``xtc --help`` shows them."""
COMMANDS: Mapping[str, ModuleType] = MappingProxyType(
    {name: module for group in GROUPS.values() for name, module in group.items()}
)
OVERRIDABLE = ("compress", "aot")
"""Commands that take ``--config.KEY=VALUE`` beside their own options."""
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
        arguments, rest = make_parser().parse_known_args(argv)
        if rest and arguments.name not in OVERRIDABLE:
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
        from xtc_jax.parallel import leave

        leave(status)
    return status


def _one_of_several() -> bool:
    """Whether this process has joined others, or tried to; JAX is not imported to find out."""
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


def _failed(error: Exception) -> int:
    """Report what happened; returns the exit status. Raises the error where its traceback is all there is to say.

    Whether another process was lost is asked first: where Orbax waited for it, the error is an OSError too.
    """
    several = _one_of_several()
    if several:
        from xtc_jax.parallel import LOST, lost_process

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


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command and of all its commands."""
    parser = _Parser(
        prog="xtc",
        usage="xtc [-h] [--version] COMMAND ...",
        description=f"Make a BERT fifty times smaller: XTC in JAX.\n\n{_grouped()}",
        epilog="'xtc COMMAND --help' explains one of them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"xtc_jax {__version__}")
    commands = parser.add_subparsers(required=True, prog="xtc", metavar="COMMAND", help=argparse.SUPPRESS)
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, description=module.HELP, allow_abbrev=False)
        command.set_defaults(command=module.run, name=name)
        module.add_arguments(command)
    return parser


def _grouped() -> str:
    """The commands under what they are for."""
    listed = {title: [f"  {name:<10} {module.HELP}" for name, module in group.items()] for title, group in GROUPS.items()}
    return "\n\n".join("\n".join([f"{title}:", *lines]) for title, lines in listed.items())
