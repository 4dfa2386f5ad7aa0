"""Stand-ins of xtc that end with a given status, and the environment that the scripts of launch/ run in with them."""

import os
import subprocess
import time
from pathlib import Path

import training

LAUNCH = training.ROOT / "launch"

XTC = """#!/usr/bin/env bash
# Writes a line of arguments to $CALLS, and ends with the next of the statuses in $SCRIPT.
line=$(printf '%s|' "$@"); echo "$line" >>"$CALLS"
echo "process ${SLURM_PROCID:-} attempt ${ATTEMPT:-}"
status=$(head -n 1 "$SCRIPT"); sed -i 1d "$SCRIPT"
exit "${status:-0}"
"""
WAITING = """#!/usr/bin/env bash
# Runs until SIGTERM, and ends with 75. Writes its number, and that of the process it belongs to.
echo started >>"$CALLS"; echo "$$ $PPID" >"$CALLS.pids"
trap 'echo saved; exit 75' TERM
while :; do sleep 0.1; done
"""

SWEEP = """# three runs
--config=a.py --config.seed=1 --workdir=runs/1

--config=a.py --config.data.text="('a b','c')" --workdir=runs/2
--config=a.py --workdir=runs/3"""
SWEEP_RUNS = [
    ["compress", "--config=a.py", "--config.seed=1", "--workdir=runs/1"],
    ["compress", "--config=a.py", "--config.data.text=('a b','c')", "--workdir=runs/2"],
    ["compress", "--config=a.py", "--workdir=runs/3"],
]


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def environment(place: Path, **variables: str) -> dict[str, str]:
    own = {"CALLS": str(place / "calls"), "SCRIPT": str(place / "script"), "PAUSE": "0"}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return {**clean, **own, "PATH": f"{place / 'bin'}:{os.environ['PATH']}", **variables}


def will_end(script: Path, *statuses: int) -> None:
    script.write_text("".join(f"{status}\n" for status in statuses))


def calls(file: Path) -> list[list[str]]:
    return [line.split("|")[:-1] for line in file.read_text().splitlines()]


def run(place: Path, *command: str | Path, **variables: str) -> subprocess.CompletedProcess:
    options = {"env": environment(place, **variables), "cwd": place, "capture_output": True, "text": True, "timeout": 60}
    return subprocess.run([str(word) for word in command], check=False, **options)


def until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
