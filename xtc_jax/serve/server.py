"""The process: a socket, the model warm, uvicorn until SIGTERM."""

import signal
import socket
from collections.abc import Callable
from pathlib import Path

from xtc_jax.errors import UserError
from xtc_jax.serve.requests import Limits
from xtc_jax.serve.runners import RUNNERS

PACKAGES = ("fastapi", "uvicorn", "prometheus_client")
GRACE = 60
"""Seconds that requests may take to end after SIGTERM."""

_BACKLOG = 1024


def require_server() -> None:
    """Check that the packages of the extra ``[serve]`` are there.

    Raises:
      UserError: one of them is not installed; names the command that installs it.
    """
    import importlib.util

    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{' and '.join(missing)} not installed; run: pip install 'xtc_jax[serve]'")


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that is bound and does not listen yet: clients are refused until the model is ready, and do not hang.

    Raises:
      UserError: the address cannot be used.
    """
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except (OSError, OverflowError) as error:
        found.close()
        raise UserError(f"{host}:{port}: cannot listen there ({error}); choose another --host or --port") from None
    return found


def serve(directory: Path, runtime: str, host: str, port: int, limits: Limits, most: int, log: Callable[[str], None]) -> None:
    """Serve until SIGTERM or an interrupt; requests that were accepted are answered first.

    Args:
      directory: a packed model; with ``runtime`` ``onnx`` an ONNX export of one.
      runtime: a key of :data:`xtc_jax.serve.runners.RUNNERS`.
      host, port: to listen on; port 0 is any that is free.
      limits: of requests.
      most: inputs of a run of the model.
      log: receives a line of text about each step.

    Raises:
      UserError: a package is missing, the address is taken, or the directory is no such model.
    """
    require_server()
    import uvicorn

    from xtc_jax.serve.app import make_app

    with bound_socket(host, port) as listener:
        runner = RUNNERS[runtime](directory)
        shapes = runner.warm_up(max(most if runner.merges else 1, limits.inputs))
        app = make_app(runner, limits, most)
        log(f"{directory}: {runtime}, {shapes} shape(s) ready; requests share a run: {'yes' if runner.merges else 'no'}")
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE)
        server = uvicorn.Server(config)
        # Before uvicorn listens to them, and when it raises them again at its end.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(server, "should_exit", True))
        listener.listen(_BACKLOG)  # from here on a connection waits for the event loop to begin, and is not refused
        log(f"listening on http://{host}:{listener.getsockname()[1]} (POST /predict; /docs, /healthz, /metrics)")
        server.run(sockets=[listener])
        log(f"stopped: answered {app.state.answered} of {app.state.accepted} requests")
