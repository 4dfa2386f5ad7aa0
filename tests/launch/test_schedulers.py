"""launch/slurm.sbatch, with a srun that starts its processes on this machine, and the fields of launch/gke_jobset.yaml."""

import contextlib
import os
import re
import signal
import time
from pathlib import Path

import pytest
import training
import yaml
from launching import LAUNCH, SWEEP, SWEEP_RUNS, WAITING, calls, executable, run, will_end

from xtc_jax.parallel import Cluster, find_cluster

SRUN = """#!/usr/bin/env bash
# Starts SLURM_NTASKS processes; the status is the highest, or UNKNOWN.
printf '%s ' "$@" >"$SRUN_ARGUMENTS"
while [ "$1" != bash ]; do shift; done
for ((i = 0; i < SLURM_NTASKS; i++)); do SLURM_PROCID=$i SCRIPT=$SCRIPT.$i "$@" & done
highest=0
while wait -n; code=$?; ((code != 127)); do ((code > highest)) && highest=$code; done
exit "${UNKNOWN:-$highest}"
"""


BATCH = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_CPUS_PER_TASK": "32", "SLURM_SUBMIT_DIR": str(training.ROOT)}


@pytest.fixture
def cluster(place) -> Path:
    executable(place / "bin" / "srun", SRUN)
    executable(place / "bin" / "scontrol", '#!/bin/sh\necho "$*" >>"$REQUEUED"\n')
    will_end(place / "script.0")
    will_end(place / "script.1")
    return place


def files(place: Path) -> dict[str, str]:
    xtc = str(place / "bin" / "xtc")
    return {**BATCH, "XTC": xtc, "REQUEUED": str(place / "requeued"), "SRUN_ARGUMENTS": str(place / "srun")}


def requeued(place: Path) -> list[str]:
    file = place / "requeued"
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.parametrize(
    ("statuses", "variables", "status", "again"),
    [
        ((0, 0), {}, 0, False),
        ((75, 75), {}, 75, True),
        ((75, 75), {"UNKNOWN": "0"}, 75, True),  # SLURM does not count the status of what it has sent SIGTERM to
        ((76, 137), {}, 137, True),
        ((76, 2), {}, 2, False),  # srun says 76, the highest
        ((1, 76), {}, 1, False),
        ((76, 76), {"SLURM_RESTART_COUNT": "49"}, 76, True),
        ((76, 76), {"SLURM_RESTART_COUNT": "50"}, 76, False),
    ],
)
def test_a_slurm_job_is_queued_again_by_the_policy(cluster, statuses, variables, status, again):
    for i in (0, 1):
        will_end(cluster / f"script.{i}", statuses[i])
    job = str(os.getpid())  # another than that of a test that runs beside this one
    environment = {**files(cluster), **variables, "SLURM_JOB_ID": job}
    done = run(cluster, LAUNCH / "slurm.sbatch", "--config=a.py", "--workdir=runs/a", **environment)
    assert done.returncode == status, done.stderr
    assert calls(cluster / "calls") == [["compress", "--config=a.py", "--workdir=runs/a"]] * 2
    assert requeued(cluster) == ([f"requeue incomplete {job}"] if again else [])
    assert "--kill-on-bad-exit=0 --cpus-per-task=32 " in (cluster / "srun").read_text()
    assert not list((training.ROOT / "runs").glob(f".statuses-{job}-*"))


def test_job_k_of_an_array_runs_line_k_of_the_sweep(cluster):
    (cluster / "sweep.txt").write_text(SWEEP)
    sweep = f"--sweep={cluster / 'sweep.txt'}"
    done = run(cluster, LAUNCH / "slurm.sbatch", sweep, **files(cluster), SLURM_ARRAY_TASK_ID="2")
    assert done.returncode == 0, done.stderr
    assert calls(cluster / "calls") == [SWEEP_RUNS[1]] * 2


def test_sigterm_for_the_batch_script_does_not_reach_srun(cluster, begin):
    """scancel signals the script's process group, and srun would kill its processes before they have saved."""
    executable(cluster / "bin" / "xtc", WAITING)
    process = begin(LAUNCH / "slurm.sbatch", "--config=a.py", **{**files(cluster), "SLURM_NTASKS": "1"})
    os.killpg(process.pid, signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None
    for pid in (cluster / "calls.pids").read_text().split():  # SLURM signals xtc, and the shell that it runs in
        with contextlib.suppress(ProcessLookupError):  # the shell ends by itself when xtc does
            os.kill(int(pid), signal.SIGTERM)
    process.communicate(timeout=30)
    assert (process.returncode, requeued(cluster)) == (75, ["requeue incomplete 7"])


def test_slurm_is_asked_for_sigterm_to_the_processes_and_to_be_queued_again():
    options = re.findall(r"^#SBATCH (\S+)$", (LAUNCH / "slurm.sbatch").read_text(), re.MULTILINE)
    assert {"--signal=TERM@300", "--requeue", "--open-mode=append", "--ntasks-per-node=1"} <= set(options)
    step = {"SLURM_STEP_NODELIST": "gpu[03-06]", "SLURM_NTASKS": "4", "SLURM_PROCID": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x4)"}
    assert find_cluster({"SLURM_JOB_ID": "7", "SLURM_LOCALID": "0", **step}) == Cluster("gpu03:61447", 4, 2)


def test_the_jobset_restarts_by_the_policy():
    jobset = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] > 0
    assert policy["rules"] == [{"name": "sameAgain", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}]
    [replicated] = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    [container] = pod["containers"]
    assert (replicated["replicas"], job["completionMode"], job["backoffLimit"]) == (1, "Indexed", 0)
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy needs it
    assert pod["terminationGracePeriodSeconds"] >= 120

    def action(status: int) -> str:
        """Of the Job, on a pod that ends so; with backoffLimit 0 one that no rule matches fails it, and the JobSet restarts."""
        for rule in job["podFailurePolicy"]["rules"]:
            codes = rule.get("onExitCodes")
            if codes and status in codes["values"]:
                assert (codes["containerName"], codes["operator"]) == (container["name"], "In")
                return rule["action"]
        return "restart all"

    assert {status: action(status) for status in (1, 2, 75, 76, 134, 137)} == {
        1: "FailJob", 2: "FailJob", 75: "Ignore", 76: "restart all", 134: "restart all", 137: "restart all"
    }  # fmt: skip


def test_the_jobset_has_a_pod_for_each_host_of_the_slice():
    [replicated] = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    [container] = pod["containers"]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    hosts = rows * columns // container["resources"]["limits"]["google.com/tpu"]
    assert job["parallelism"] == job["completions"] == hosts == 4
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    workdir = next(argument for argument in container["args"] if argument.startswith("--workdir="))
    assert workdir.removeprefix("--workdir=").startswith(mounts["work"] + "/")


def test_the_pods_of_a_jobset_find_each_other():
    """By what GKE and the Job give to each of them: worker 2 of four."""
    hosts = ",".join(f"xtc-worker-0-{i}.xtc" for i in range(4))
    given = {"TPU_WORKER_HOSTNAMES": hosts, "TPU_WORKER_ID": "2", "JOB_COMPLETION_INDEX": "2"}
    assert find_cluster(given) == Cluster("xtc-worker-0-0.xtc:8476", 4, 2)
