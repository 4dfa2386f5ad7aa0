"""launch/tpu_vm.sh and worker.sh, with a gcloud that runs commands on this machine."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from launching import LAUNCH, WAITING, calls, executable, run, will_end

GCLOUD = """#!/usr/bin/env bash
# Workers are directories of $WORKERS. ssh runs the command in each at once; the status is that of the first that failed.
echo "$3 $4 $5" >>"$WORKERS/../gcloud"
pids=()
for home in "$WORKERS"/*; do
  if [ "$4" = scp ]; then cp "$5" "$6" "$home"; continue; fi
  export HOME=$home HOSTNAME=${home##*/} CALLS=$home/calls SCRIPT=$home/script
  (cd "$home" && bash -c "${6#--command=}") & pids+=($!)
done
status=0
for pid in "${pids[@]}"; do wait "$pid" || { code=$?; ((status)) || status=$code; }; done
exit "$status"
"""
INSTALLER = """#!/usr/bin/env bash
# python3 -m uv venv DIRECTORY: makes a directory with a xtc in it. Everything else of the installation does nothing.
case "$*" in *"uv venv"*) mkdir -p "${!#}/bin" && cp "$FAKE_XTC" "${!#}/bin/xtc" ;; esac
"""


@pytest.fixture
def slice_of_two(place) -> Path:
    """Two workers, ``workers/w-0`` and ``workers/w-1``, reached by a stand-in of gcloud."""
    executable(place / "bin" / "gcloud", GCLOUD)
    executable(place / "bin" / "python3", INSTALLER)
    for name in ("w-0", "w-1"):
        (place / "workers" / name).mkdir(parents=True)
        (place / "workers" / name / "script").touch()
    return place


def on_slice(place: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    paths = {"WORKERS": str(place / "workers"), "LOGS": str(place / "logs"), "FAKE_XTC": str(place / "bin" / "xtc")}
    return run(place, LAUNCH / "tpu_vm.sh", *arguments, **paths, **variables)


def test_all_workers_run_the_same_and_start_again_after_a_preemption(slice_of_two):
    workers = slice_of_two / "workers"
    will_end(workers / "w-0" / "script", 76, 0)
    will_end(workers / "w-1" / "script", 75, 0)
    given = ["--config=a.py", "--config.data.text=('a b',)", "--workdir=/mnt/xtc"]
    done = on_slice(slice_of_two, "pod", "zone", *given, SETUP="echo mounted >>setup")
    assert done.returncode == 0, done.stdout + done.stderr
    for worker in workers.iterdir():
        assert calls(worker / "calls") == [["compress", "--coordinator=auto", *given]] * 2
        assert (worker / "setup").read_text() == "mounted\n" * 2
        log = (slice_of_two / "logs" / f"{worker.name}.log").read_text().splitlines()
        assert log[0] == f"[{worker.name}] process  attempt 1"
        assert log[-1] == f"[{worker.name}] worker: ended with status 0"
        assert {line.partition("]")[0] for line in log} == {f"[{worker.name}"}
    assert "restart: attempt 1 ended with status 75" in done.stderr
    assert [line.split()[:2] for line in (slice_of_two / "gcloud").read_text().splitlines()] == [
        ["tpu-vm", "scp"],
        ["tpu-vm", "ssh"],  # install
        ["tpu-vm", "ssh"],
        ["tpu-vm", "ssh"],
    ]


def test_bad_input_of_one_worker_is_the_status_of_all_and_ends_it(slice_of_two):
    will_end(slice_of_two / "workers" / "w-0" / "script", 76)
    will_end(slice_of_two / "workers" / "w-1" / "script", 2)
    assert on_slice(slice_of_two, "pod", "zone", "--config=a.py").returncode == 2
    assert len(calls(slice_of_two / "workers" / "w-0" / "calls")) == 1


def test_an_error_of_gcloud_itself_ends_it(slice_of_two):
    executable(slice_of_two / "bin" / "gcloud", "#!/bin/sh\necho 'TPU is PREEMPTED' >&2\nexit 1\n")
    done = on_slice(slice_of_two, "pod", "zone", "--config=a.py")
    assert (done.returncode, done.stderr) == (1, "TPU is PREEMPTED\n")


def test_a_dry_run_prints_what_would_be_called(slice_of_two):
    done = on_slice(slice_of_two, "--dry-run", "pod", "zone", "--config=a.py", "--config.data.text=('a b',)", XTC_RUN="id")
    assert done.returncode == 0
    copy, install, compress = done.stdout.splitlines()
    assert re.fullmatch(
        r"gcloud compute tpus tpu-vm scp \S+/xtc.tar.gz launch/worker.sh pod: --zone=zone --worker=all ?", copy.strip()
    )
    assert install.startswith(r"gcloud compute tpus tpu-vm ssh pod --command=bash\ worker.sh\ install --zone=zone --worker=all")
    assert compress.startswith(
        r"gcloud compute tpus tpu-vm ssh pod --command=bash\ worker.sh\ run\ id-1\ .venv/bin/xtc\ compress\ --coordinator=auto"
    )
    assert not (slice_of_two / "gcloud").exists()


def test_a_launcher_without_a_slice_or_arguments_is_refused(place):
    for arguments in ((), ("pod",), ("pod", "zone"), ("--stop", "pod")):
        done = run(place, LAUNCH / "tpu_vm.sh", *arguments)
        assert (done.returncode, done.stderr[:7]) == (2, "usage: ")


@pytest.fixture
def worker(place) -> Path:
    """The home directory of a worker."""
    (place / "xtc").mkdir()
    return place


def test_a_run_is_followed_again_after_its_connection_broke(worker, begin):
    """The first connection is killed; the second shows the run from its beginning, and ends as it does."""
    executable(worker / "bin" / "xtc", WAITING)
    home = {"HOME": str(worker), "HOSTNAME": "w-0"}
    first = begin(LAUNCH / "worker.sh", "run", "id", "xtc", **home)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    second = begin(LAUNCH / "worker.sh", "run", "id", "xtc", **home)
    assert run(worker, LAUNCH / "worker.sh", "stop", **home).returncode == 0
    assert second.communicate(timeout=30)[0] == "[w-0] saved\n[w-0] worker: ended with status 75\n"
    assert second.returncode == 75
    assert (worker / "calls").read_text() == "started\n"


def test_a_second_run_waits_for_the_first_and_then_gives_up(worker, begin):
    executable(worker / "bin" / "xtc", WAITING)
    home = {"HOME": str(worker), "HOSTNAME": "w-0", "LOCK_SECONDS": "0"}
    first = begin(LAUNCH / "worker.sh", "run", "first", "xtc", **home)
    second = run(worker, LAUNCH / "worker.sh", "run", "second", "xtc", **home)
    assert (second.returncode, "an earlier run is still going on here" in second.stdout) == (2, True)
    assert run(worker, LAUNCH / "worker.sh", "install", **home).returncode == 2
    run(worker, LAUNCH / "worker.sh", "stop", **home)
    first.communicate(timeout=30)
    assert first.returncode == 75
