"""Real processes, real signals: the same bits with the cache, one process and two, and after SIGKILL in the filling epoch."""

import json
import signal
import socket
import subprocess
import sys

import pytest
import training
from cached_runs import BATCH, EPOCH, STEPS

PROGRAM = training.ROOT / "tests" / "cached_runs.py"


def start(scratch, devices, **values):
    environment = training.environment(devices) | {"JAX_COMPILATION_CACHE_DIR": str(scratch / "xla")}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, str(PROGRAM), json.dumps(values)], env=environment, **options)


def ended(process):
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-2000:]
    return json.loads(out.splitlines()[-1])


def together(scratch, directory, cached):
    """What each of two processes says."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{one.getsockname()[1]}"
    shared = {"directory": str(directory), "cached": cached, "processes": 2, "address": address}
    directory.mkdir(exist_ok=True)
    return [ended(each) for each in [start(scratch, 1, process=number, **shared) for number in (0, 1)]]


@pytest.mark.slow
def test_two_processes_end_with_the_same_bits_with_the_cache_and_without_and_read_alike(tmp_path):
    without, cached = together(tmp_path, tmp_path / "without", False), together(tmp_path, tmp_path / "with", True)
    assert len({said["digest"] for said in (*without, *cached)}) == 1
    assert cached[0] == cached[1]
    assert cached[0]["asked"] == STEPS
    assert cached[0]["read"] >= EPOCH


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2 * BATCH + 3])
def test_killed_in_the_middle_of_an_entry_of_the_filling_epoch_a_run_goes_on_and_ends_with_the_same_bits(tmp_path, number):
    without = ended(start(tmp_path, 1, directory=str(tmp_path / "without"), cached=False))
    cached = {"directory": str(tmp_path / "with"), "cached": True}
    killed = start(tmp_path, 1, kill_at=number, **cached)
    killed.communicate(timeout=240)
    assert killed.returncode == -signal.SIGKILL
    resumed = ended(start(tmp_path, 1, **cached))
    assert resumed["digest"] == without["digest"]
    assert resumed["read"] >= EPOCH
