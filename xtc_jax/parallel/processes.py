"""Several processes as one: who they are, how they find each other, and what they do together.

Each process drives its own devices and runs the same program (JAX's multi-controller runtime). Process 0 is the coordinator,
and the one that writes.
"""

import json
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from xtc_jax.errors import UserError

PORT = 8476
"""Of the coordinator, where the environment names none."""
HEARTBEAT_SECONDS = 30
"""A process that has not been heard of for so long is lost, and the others stop."""

LOST = 76
"""Exit status of a process that stops because another one was lost."""
_LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|socket|heartbeat|coordination|unavailable|barrier", re.I)
_MEMORY = re.compile(r"resource.?exhausted|out.of.memory|failed to allocate", re.I)


@dataclass(frozen=True)
class Cluster:
    """The processes of a run, as one of them sees it.

    Attributes:
      coordinator: ``HOST:PORT`` of process 0; "" leaves all to JAX, which asks the metadata server of a TPU VM.
      processes: how many there are.
      index: which one this is.
      devices: the numbers of this host's devices that are its own; None is all.
    """

    coordinator: str
    processes: int
    index: int
    devices: tuple[int, ...] | None = None


def find_cluster(environment: Mapping[str, str], coordinator: str = "", processes: int = 0, index: int = -1) -> Cluster | None:
    """The process group that flags and environment describe; a pure function. None is a single process.

    Tried in this order:

    1. ``coordinator``, ``processes`` and ``index`` as given; what is not given comes from ``JAX_COORDINATOR_ADDRESS``,
       ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID``. ``coordinator="auto"`` leaves all to JAX.
    2. Kubernetes: ``JAX_NUM_PROCESSES`` with ``JOB_COMPLETION_INDEX``, which an indexed Job sets; in a JobSet the coordinator
       is the first pod of ``REPLICATED_JOB_NAME`` of ``JOBSET_NAME``, by the name that its headless service gives it.
    3. A TPU slice under GKE: ``TPU_WORKER_HOSTNAMES`` and ``TPU_WORKER_ID``; of several slices also ``MEGASCALE_NUM_SLICES``,
       ``MEGASCALE_SLICE_ID`` and ``MEGASCALE_COORDINATOR_ADDRESS``.
    4. SLURM: ``SLURM_NTASKS``, ``SLURM_PROCID``, ``SLURM_STEP_NODELIST``; the port is a function of ``SLURM_JOB_ID``. Where a
       node has several tasks, each takes the GPU with its ``SLURM_LOCALID``.

    Raises:
      UserError: some of what is needed is there and some is not, or is no number, or cannot be.
    """
    if coordinator == "auto" or environment.get("JAX_COORDINATOR_ADDRESS") == "auto":
        return Cluster("", 0, 0)
    given = bool(coordinator) or index >= 0
    coordinator = coordinator or environment.get("JAX_COORDINATOR_ADDRESS", "") or _jobset_host(environment)
    processes = processes or _number(environment, "JAX_NUM_PROCESSES", 0)
    if index < 0:
        index = _number(environment, "JAX_PROCESS_ID", _number(environment, "JOB_COMPLETION_INDEX", -1))
    if processes > 1:
        if not coordinator or index < 0:
            lacking = "--coordinator (JAX_COORDINATOR_ADDRESS)" if not coordinator else "--process (JAX_PROCESS_ID)"
            raise UserError(f"{processes} processes are asked for, and {lacking} is not given")
        return _checked(Cluster(_with_port(coordinator, PORT), processes, index))
    if processes == 1:
        return None
    if given:
        raise UserError("--coordinator and --process are given, and --processes (JAX_NUM_PROCESSES) is not")
    return _tpu_slices(environment) or _slurm(environment)


def join(cluster: Cluster | None, seconds: float = 300) -> None:
    """Make this process one of ``cluster``; before any other use of JAX's devices. None does nothing.

    Raises:
      UserError: the processes have not all met within ``seconds``; names the coordinator's address.
    """
    if cluster is None or jax.distributed.is_initialized():
        return
    failures: list[Exception] = []

    def initialize() -> None:
        # JAX would end the process at its own timeout; ours comes first.
        options: dict[str, Any] = {"initialization_timeout": int(seconds) + 60, "heartbeat_timeout_seconds": HEARTBEAT_SECONDS}
        if cluster.coordinator:
            options |= {"coordinator_address": cluster.coordinator, "num_processes": cluster.processes}
            options |= {"process_id": cluster.index, "local_device_ids": cluster.devices}
            options |= {"cluster_detection_method": "deactivate"}
        try:
            jax.distributed.initialize(**options)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=initialize, daemon=True)
    thread.start()
    thread.join(seconds)
    where = cluster.coordinator or "of the TPU's metadata"
    role = f"process {cluster.index} of {cluster.processes}" if cluster.coordinator else "its number is in the metadata"
    if thread.is_alive():
        reason = "the others did not come" if cluster.index == 0 else "it did not answer"
        raise UserError(
            f"coordinator {where}: {reason} within {seconds:g} s ({role}); is every process started, and the port open?"
        )
    if failures:
        raise UserError(f"coordinator {where}: {' '.join(str(failures[0]).split())} ({role})")


def is_first() -> bool:
    """Whether this is process 0, the one that writes."""
    return jax.process_index() == 0


def on_first(work: Callable[..., Any], *arguments: Any) -> Any:
    """``work(*arguments)`` in process 0 while the others wait; its result, plain JSON data, in all. All must call it.

    Raises:
      UserError: raised by ``work``, or for an OSError of it; in every process.
    """
    if jax.process_count() == 1:
        return work(*arguments)
    answer: dict[str, Any] = {}
    if is_first():
        try:
            answer = {"result": work(*arguments)}
        except UserError as error:
            answer = {"error": str(error)}
        except OSError as error:
            answer = {"error": f"{error.filename or 'system'}: {error.strerror or error}"}
    answer = json.loads(_broadcast(json.dumps(answer).encode()))
    if "error" in answer:
        raise UserError(answer["error"])
    return answer["result"]


def agree(value: Any, what: str) -> None:
    """Check that ``value``, plain data, is the same in every process. All must call it.

    Raises:
      UserError: it is not; in every process, with the numbers of those that differ from process 0.
    """
    if jax.process_count() == 1:
        return
    mine = json.dumps(value, sort_keys=True).encode()
    same = np.asarray(_broadcast(mine) == mine)
    others = np.flatnonzero(~multihost_utils.process_allgather(same).reshape(-1))
    if len(others):
        named = ", ".join(map(str, others))
        raise UserError(f"process {named} of {jax.process_count()} has another {what} than process 0; start all with the same")


def all_least(number: int) -> int:
    """The smallest of every process's ``number``, in all. All must call it."""
    return number if jax.process_count() == 1 else int(multihost_utils.process_allgather(np.int32(number)).min())


def lost_process(error: Exception) -> str:
    """One line for an error that means that another process was lost; "" for any other error.

    An error for lack of memory is none, whatever collective it names: a new start would end in it again. JAX raises a
    RuntimeError, Orbax a TimeoutError at its barriers, which is an OSError, but without the system's number.
    """
    text = " ".join(str(error).split())
    if (
        not isinstance(error, RuntimeError | TimeoutError)
        or getattr(error, "errno", None)
        or not _LOST.search(text)
        or _MEMORY.search(text)
    ):
        return ""
    return f"process {jax.process_index()} of {jax.process_count()} lost another one ({text[:200]})"


def leave(status: int) -> NoReturn:
    """End a process that failed at once: an orderly end would wait for the others, and they for it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _broadcast(data: bytes) -> bytes:
    """Of process 0, in all."""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    padded = np.zeros(size, np.uint8)
    if is_first():
        padded[:] = np.frombuffer(data, np.uint8)
    return bytes(multihost_utils.broadcast_one_to_all(padded).astype(np.uint8))


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, "")
    if not text:
        return default
    if not text.isdecimal():
        raise UserError(f"{name}={text!r} is not a number")
    return int(text)


def _checked(cluster: Cluster) -> Cluster:
    if not 0 <= cluster.index < cluster.processes:
        raise UserError(f"process {cluster.index}: there are {cluster.processes} processes, numbered from 0")
    return cluster


def _with_port(host: str, port: int) -> str:
    return host if re.search(r":\d+$", host) else f"{host}:{port}"


def _jobset_host(environment: Mapping[str, str]) -> str:
    jobset, job = environment.get("JOBSET_NAME", ""), environment.get("REPLICATED_JOB_NAME", "")
    return f"{jobset}-{job}-0-0.{jobset}" if jobset and job else ""


def _tpu_slices(environment: Mapping[str, str]) -> Cluster | None:
    hosts = [host for host in environment.get("TPU_WORKER_HOSTNAMES", "").split(",") if host]
    slices = _number(environment, "MEGASCALE_NUM_SLICES", 1)
    if len(hosts) * slices < 2:
        return None
    index = _number(environment, "TPU_WORKER_ID", 0) + len(hosts) * _number(environment, "MEGASCALE_SLICE_ID", 0)
    host = environment.get("MEGASCALE_COORDINATOR_ADDRESS", hosts[0]).partition(":")[0]
    return _checked(Cluster(_with_port(host, PORT), len(hosts) * slices, index))


def _slurm(environment: Mapping[str, str]) -> Cluster | None:
    names = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID")
    if any(name not in environment for name in names) or _number(environment, "SLURM_NTASKS", 1) < 2:
        return None
    job, tasks, index = (_number(environment, names[i], 0) for i in (0, 2, 3))
    host = re.sub(r"\[(\d+).*", r"\1", environment["SLURM_STEP_NODELIST"]).partition(",")[0]
    several = not re.match(r"1(\D|$)", environment.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    devices = (_number(environment, "SLURM_LOCALID", 0),) if several else None
    return _checked(Cluster(f"{host}:{61440 + job % 4096}", tasks, index, devices))
