"""A place with a xtc of its own, and processes that do not outlive their test."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest
from launching import XTC, environment, executable, until


@pytest.fixture
def place(tmp_path) -> Path:
    """A directory with ``bin/xtc`` and the files that it reads and writes."""
    executable(tmp_path / "bin" / "xtc", XTC)
    (tmp_path / "calls").touch()
    return tmp_path


@pytest.fixture
def begin(place):
    """Start a command in a process group of its own; returns when ``bin/xtc`` has been called. All are killed in the end."""
    begun = []

    def start(*command: str | Path, **variables: str) -> subprocess.Popen:
        options = {"env": environment(place, **variables), "cwd": place, "start_new_session": True, "text": True}
        process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
        begun.append(process)
        until((place / "calls").read_text)
        return process

    yield start
    numbers = place / "calls.pids"
    for pid in [*(-process.pid for process in begun), *map(int, numbers.read_text().split() if numbers.exists() else ())]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for process in begun:
        process.wait()
        process.stdout.close()
