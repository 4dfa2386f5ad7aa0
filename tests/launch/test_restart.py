"""launch/statuses.sh, restart.sh and sweep.sh: what is started again, and which runs a file means."""

import os
import re
import signal
import subprocess

import pytest
from launching import LAUNCH, SWEEP, SWEEP_RUNS, WAITING, calls, executable, run, will_end

SCRIPTS = [path for path in (*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch") if path.name != "bootstrap.sh"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_launcher_is_a_shell_script_whose_header_says_how_it_is_used(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    header = re.match(r"(#[^\n]*\n)+", script.read_text())
    assert header is not None
    assert re.search(r"^#   ", header[0], re.MULTILINE)
    assert os.access(script, os.X_OK) == (script.name != "statuses.sh")


def policy(*commands: str) -> list[str]:
    text = "\n".join([f". {LAUNCH / 'statuses.sh'}", *commands])
    return subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True).stdout.split()


def test_preempted_lost_and_killed_runs_are_started_again_and_no_others():
    again = policy("for ((i = 0; i < 256; i++)); do if restartable $i; then echo $i; fi; done")
    assert [int(status) for status in again] == [75, 76, *range(129, 256)]


@pytest.mark.parametrize(
    ("statuses", "why"),
    [
        ((), 0),
        ((0, 0), 0),
        ((75, 75), 75),
        ((0, 76), 76),
        ((134, 137), 137),  # the killed one was first; JAX ended the other
        ((76, 137), 137),
        ((76, 75), 75),
        ((137, 75), 75),
        ((76, 2, 137), 2),
        ((75, 1), 1),
        ((1, 2), 1),  # of equals, the first
    ],
)
def test_of_several_statuses_one_says_why(statuses, why):
    assert policy(f"verdict {' '.join(map(str, statuses))}") == [str(why)]


@pytest.mark.parametrize(
    ("statuses", "attempts", "status"),
    [((0,), 1, 0), ((75, 76, 137, 0), 4, 0), ((2,), 1, 2), ((76, 1), 2, 1), ((76,) * 9, 5, 76)],
)
def test_a_command_is_started_again_while_its_status_says_so(place, statuses, attempts, status):
    will_end(place / "script", *statuses)
    done = run(place, LAUNCH / "restart.sh", "xtc", "compress", "--config.data.text=('a b',)", ATTEMPTS="5")
    assert done.returncode == status
    assert calls(place / "calls") == [["compress", "--config.data.text=('a b',)"]] * attempts
    assert [line for line in done.stdout.splitlines() if line] == [f"process  attempt {i + 1}" for i in range(attempts)]
    assert ("giving up" in done.stderr) == (attempts == 5)


def test_attempts_that_lasted_are_not_counted(place):
    will_end(place / "script", 75, 75, 75, 75, 0)
    done = run(place, LAUNCH / "restart.sh", "xtc", ATTEMPTS="2", HEALTHY="0")
    assert (done.returncode, len(calls(place / "calls"))) == (0, 5)


def test_sigterm_is_passed_on_and_nothing_is_started_after_it(place, begin):
    executable(place / "bin" / "xtc", WAITING)
    process = begin(LAUNCH / "restart.sh", "xtc")
    process.send_signal(signal.SIGTERM)
    assert (process.communicate(timeout=30)[0], process.returncode) == ("saved\n", 75)
    assert (place / "calls").read_text() == "started\n"


@pytest.mark.parametrize(
    ("variables", "statuses", "ran", "status"),
    [
        ({}, (), (0, 1, 2), 0),
        ({}, (0, 2, 0), (0, 1, 2), 2),  # the next is run all the same
        ({}, (0, 75), (0, 1), 75),  # stopped: so is the sweep
        ({"LINE": "2"}, (1,), (1,), 1),
        ({"SLURM_ARRAY_TASK_ID": "3"}, (75,), (2,), 75),
        ({"LINE": "4"}, (), (), 2),
        ({"LINE": "0"}, (), (), 2),
    ],
)
def test_every_line_of_a_sweep_is_a_run(place, variables, statuses, ran, status):
    (place / "sweep.txt").write_text(SWEEP)
    will_end(place / "script", *statuses)
    done = run(place, LAUNCH / "sweep.sh", "sweep.txt", "xtc", "compress", **variables)
    assert done.returncode == status, done.stderr
    assert calls(place / "calls") == [SWEEP_RUNS[i] for i in ran]


def test_a_sweep_that_cannot_be_read_is_refused(place):
    (place / "sweep.txt").write_text("# none\n")
    done = run(place, LAUNCH / "sweep.sh", "sweep.txt", "xtc")
    assert (done.returncode, done.stderr) == (2, "sweep: sweep.txt has 0 lines that begin with '-'\n")
    (place / "sweep.txt").write_text("--config.data.text=('a','b')\n")
    assert run(place, LAUNCH / "sweep.sh", "sweep.txt", "xtc").returncode == 2
    assert run(place, LAUNCH / "sweep.sh", "absent.txt", "xtc").returncode == 2
    assert calls(place / "calls") == []
