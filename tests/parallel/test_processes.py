import errno
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import training

from xtc_jax.errors import UserError
from xtc_jax.parallel import LOST, Cluster, agree, find_cluster, is_first, join, lost_process, on_first

SLURM = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NODELIST": "node[007-009,12],other3",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x4)",
}
GKE_TPU = {"TPU_WORKER_HOSTNAMES": "w0.tpu,w1.tpu,w2.tpu", "TPU_WORKER_ID": "2"}
SLICES = {**GKE_TPU, "MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1", "MEGASCALE_COORDINATOR_ADDRESS": "first:9999"}
JOBSET = {"JAX_NUM_PROCESSES": "4", "JOB_COMPLETION_INDEX": "3", "JOBSET_NAME": "xtc", "REPLICATED_JOB_NAME": "worker"}
PLAIN = {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        (PLAIN, Cluster("10.0.0.1:1234", 2, 1)),
        ({**PLAIN, "JAX_COORDINATOR_ADDRESS": "host"}, Cluster("host:8476", 2, 1)),
        ({**PLAIN, "JAX_NUM_PROCESSES": "1"}, None),
        ({"JAX_COORDINATOR_ADDRESS": "auto"}, Cluster("", 0, 0)),
        (JOBSET, Cluster("xtc-worker-0-0.xtc:8476", 4, 3)),
        ({**JOBSET, "JAX_COORDINATOR_ADDRESS": "job-0.service:1"}, Cluster("job-0.service:1", 4, 3)),
        ({"JOB_COMPLETION_INDEX": "0"}, None),
        (GKE_TPU, Cluster("w0.tpu:8476", 3, 2)),
        (SLICES, Cluster("first:8476", 6, 5)),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
        (SLURM, Cluster("node007:61441", 8, 5, (1,))),
        ({**SLURM, "SLURM_STEP_NODELIST": "gpu3,gpu4", "SLURM_STEP_TASKS_PER_NODE": "1(x8)"}, Cluster("gpu3:61441", 8, 5)),
        ({**SLURM, "SLURM_STEP_NODELIST": "solo"}, Cluster("solo:61441", 8, 5, (1,))),
        ({**SLURM, "SLURM_NTASKS": "1"}, None),
        ({name: SLURM[name] for name in ("SLURM_JOB_ID", "SLURM_NTASKS")}, None),  # salloc without srun
        ({**SLURM, **PLAIN}, Cluster("10.0.0.1:1234", 2, 1)),
    ],
)
def test_the_environment_says_who_the_processes_are(environment, expected):
    assert find_cluster(environment) == expected


def test_flags_come_before_the_environment():
    assert find_cluster(SLURM, "here:1", 2, 0) == Cluster("here:1", 2, 0)
    assert find_cluster(PLAIN, index=0) == Cluster("10.0.0.1:1234", 2, 0)
    assert find_cluster({}, "auto") == Cluster("", 0, 0)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, "2 processes are asked for, and --coordinator "),
        ({"JAX_NUM_PROCESSES": "2", "JAX_COORDINATOR_ADDRESS": "a:1"}, "2 processes are asked for, and --process "),
        ({**PLAIN, "JAX_PROCESS_ID": "2"}, "process 2: there are 2 processes, numbered from 0"),
        ({**PLAIN, "JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES='two' is not a number"),
        ({**SLURM, "SLURM_PROCID": "8"}, "process 8: there are 8 processes, numbered from 0"),
    ],
)
def test_half_of_what_is_needed_is_refused(environment, message):
    with pytest.raises(UserError) as error:
        find_cluster(environment)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("flags", [{"coordinator": "here:1"}, {"index": 1}])
def test_flags_without_a_number_of_processes_are_refused(flags):
    with pytest.raises(UserError, match=r"--processes \(JAX_NUM_PROCESSES\) is not"):
        find_cluster({}, **flags)


def test_a_process_alone_is_the_first_and_agrees_with_itself():
    join(None)
    assert is_first()
    assert on_first(lambda a, b: {"sum": a + b}, 1, 2) == {"sum": 3}
    agree({"seed": 1}, "config")


def test_the_loss_of_a_process_is_told_from_other_errors():
    closed = RuntimeError("UNKNOWN: Gloo AllGather failed:\n Connection closed by peer [10.0.0.2]:10131")
    assert lost_process(closed) == (
        "process 0 of 1 lost another one (UNKNOWN: Gloo AllGather failed: Connection closed by peer [10.0.0.2]:10131)"
    )
    assert lost_process(RuntimeError("RESOURCE_EXHAUSTED: out of memory")) == ""
    assert lost_process(ValueError("Gloo")) == ""
    for memory in (
        "RESOURCE_EXHAUSTED: Out of memory allocating 1073741824 bytes [nccl all-reduce, optimization-barrier.3]",
        "INTERNAL: NCCL operation ncclCommInitRank failed: Failed to allocate 4194304 bytes: out of memory",
    ):
        assert lost_process(RuntimeError(memory)) == ""
    # Orbax's, of a save that another process did not take part in; and one of a network disk, with the system's number.
    barrier = "Timeout waiting at barrier '[op=3] create_directory:post'. The original error was: Barrier failed"
    assert lost_process(TimeoutError(barrier)).startswith("process 0 of 1 lost another one (Timeout waiting at barrier")
    assert lost_process(TimeoutError(errno.ETIMEDOUT, "Connection timed out", "/disk/barrier")) == ""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(program: str, *arguments: str, **options) -> subprocess.Popen:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(command, env=training.environment(devices=2), stdout=-1, stderr=-1, text=True, **options)


ABSENT = """
import sys
from xtc_jax.errors import UserError
from xtc_jax.parallel import processes
address, index = sys.argv[1:]
try:
    processes.join(processes.Cluster(address, 2, int(index)), seconds=1)
except UserError as error:
    print(error)
    processes.leave(2)
"""


def test_processes_that_do_not_meet_give_up_in_time_and_name_the_coordinator():
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    both = [start(ABSENT, addresses[index], str(index)) for index in (0, 1)]
    for index, reason in enumerate(("the others did not come", "it did not answer")):
        assert both[index].communicate(timeout=60)[0].strip() == (
            f"coordinator {addresses[index]}: {reason} within 1 s (process {index} of 2); is every process started, "
            "and the port open?"
        )
    assert [one.returncode for one in both] == [2, 2]


TOGETHER = """
import os, sys
from xtc_jax.errors import UserError
from xtc_jax.parallel import processes
address, index = sys.argv[1], int(sys.argv[2])
sys.stdout = open(sys.argv[3], "w")  # Gloo writes its own lines to the standard output, in pieces
processes.join(processes.Cluster(address, 2, index), seconds=60)
print(processes.on_first(lambda: {"pid": os.getpid()})["pid"])
def refuse(function, *arguments):
    try:
        function(*arguments)
    except UserError as error:
        print(error)
def fails():
    raise UserError("no such file")
def full():
    raise OSError(28, "No space left on device", "metrics.jsonl")
refuse(processes.on_first, fails)
refuse(processes.on_first, full)
processes.agree({"seed": 1}, "config")
refuse(processes.agree, {"seed": index}, "config")
sys.stdout.flush()
if index:
    os.kill(os.getpid(), 9)
try:
    processes.on_first(int)
except RuntimeError as error:
    print(processes.lost_process(error).partition("(")[0])
    processes.leave(processes.LOST)
"""


def test_two_processes_act_as_one_and_one_that_is_lost_is_missed_at_once(tmp_path: Path):
    address, answers = f"127.0.0.1:{free_port()}", [tmp_path / "first", tmp_path / "second"]
    both = [start(TOGETHER, address, str(index), str(answers[index])) for index in (0, 1)]
    for one in both:
        one.communicate(timeout=120)
    said = [
        str(both[0].pid),
        "no such file",
        "metrics.jsonl: No space left on device",
        "process 1 of 2 has another config than process 0; start all with the same",
    ]
    assert [path.read_text().splitlines() for path in answers] == [[*said, "process 0 of 2 lost another one "], said]
    assert [one.returncode for one in both] == [LOST, -9]
