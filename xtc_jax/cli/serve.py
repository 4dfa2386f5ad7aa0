"""``xtc serve``: a packed model over HTTP."""

import argparse
from pathlib import Path

from xtc_jax.cli.console import keep_executables, progress_lines
from xtc_jax.errors import UserError

HELP = "answer HTTP requests with a packed model, or with its ONNX export"
_NUMBERS = ("max_batch", "max_inputs", "max_characters", "max_waiting")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``xtc serve`` takes."""
    parser.add_argument("model", type=Path, help="packed model directory; an ONNX export with --runtime=onnx")
    parser.add_argument("--runtime", choices=("jax", "onnx"), default="jax", help="what runs the model (default: jax)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on, 0 for any (default: 8000)")
    parser.add_argument("--max-batch", type=int, default=32, help="inputs of one run of the model (default: 32)")
    parser.add_argument("--max-inputs", type=int, default=64, help="inputs of a request (default: 64)")
    parser.add_argument("--max-characters", type=int, default=10_000, help="characters of a text (default: 10000)")
    parser.add_argument("--max-waiting", type=int, default=1024, help="inputs that may wait (default: 1024)")


def run(arguments: argparse.Namespace, _: list[str]) -> None:
    """Serve until SIGTERM."""
    from xtc_jax.serve.requests import Limits
    from xtc_jax.serve.server import require_server, serve

    for name in _NUMBERS:
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name.replace('_', '-')}={getattr(arguments, name)}: give a number of 1 or more")
    require_server()
    if arguments.runtime == "jax":
        keep_executables()
    limits = Limits(arguments.max_inputs, arguments.max_characters, arguments.max_waiting)
    serve(arguments.model, arguments.runtime, arguments.host, arguments.port, limits, arguments.max_batch, progress_lines())
