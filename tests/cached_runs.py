"""Runs with a teacher cache, in this process or in others.

python tests/cached_runs.py '{"directory": …, "cached": true, "kill_at": 0, "process": 0, "processes": 1, "address": ""}' prints
``{"digest": …, "read": …, "asked": …}`` of a run, or kills itself in the middle of the write number ``kill_at``.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np
import toy

from xtc_jax.compress import DistillSpec, layer_map, reduce_layers
from xtc_jax.parallel import Cluster, join
from xtc_jax.quantize import named_rules
from xtc_jax.train import Objective, OptimizerSpec, Run, TeacherCache, Upkeep, train
from xtc_jax.train.metrics import read_metrics
from xtc_jax.train.teacher_cache import Targets

TEACHER, STUDENT, LAYERS = toy.shape(2), toy.shape(1), layer_map((1,), 2)
DISTILL = Objective(STUDENT, named_rules("deepspeed", 1, 8), TEACHER, LAYERS, DistillSpec())
EXAMPLES, BATCH = 44, 8
EPOCH = -(-EXAMPLES // BATCH)
STEPS = 3 * EPOCH


def a_set():
    """Two buckets, and a last batch that is not full."""
    return toy.dataset(EXAMPLES, batch_size=BATCH)


def a_teacher():
    return jax.device_get(toy.params(TEACHER, seed=3))


def a_cache(directory, budget=10**9, batches=STEPS, distinct=EPOCH):
    return TeacherCache(directory / "teacher_cache", budget, batches, distinct)


def a_run(directory, cache, objective=DISTILL, **changes):
    directory.mkdir(exist_ok=True)
    values = {
        "label": "toy",
        "objective": objective,
        "optimizer": OptimizerSpec(5e-3, STEPS, 2),
        "train_set": a_set(),
        "eval_sets": {"validation": a_set()},
        "task": toy.SENTIMENT,
        "directory": directory,
        "seed": 3,
        "eval_every": STEPS,
        "upkeep": Upkeep(log_every=1, save_minutes=0),
        "cache": cache,
    }
    return Run(**{**values, **changes})


def outcome(run, compiled=None):
    """Every loss, and the bits of the final params."""
    teacher = a_teacher()
    result = train(run, reduce_layers(teacher, LAYERS), teacher, compiled)
    records = [r for r in read_metrics(run.directory / "metrics.jsonl") if "loss" in r]
    losses = [[r["step"], r["loss"], r.get("logit"), r.get("attention"), r.get("hidden")] for r in records]
    return losses, [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(result.params)]


class Counted:
    """Counts the batches that a target was asked for, and those that were read; undone by ``monkeypatch`` where given."""

    def __init__(self, monkeypatch=None):
        self.read = self.asked = 0
        patch = monkeypatch.setattr if monkeypatch else setattr
        for name in ("_read", "__call__"):
            patch(Targets, name, self.counting(name, getattr(Targets, name)))

    def counting(self, name, method):
        def counted(*arguments):
            self.read += name == "_read"
            self.asked += name == "__call__"
            return method(*arguments)

        return counted


def kill_in_write(number):
    """End this process by SIGKILL when half of an entry is written."""
    written, pwrite = [], os.pwrite

    def half(file, entry, offset):
        written.append(offset)
        if len(written) == number:
            pwrite(file, entry[: len(entry) // 2], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        return pwrite(file, entry, offset)

    os.pwrite = half


def main(directory, cached, kill_at=0, process=0, processes=1, address=""):
    join(Cluster(address, processes, process) if processes > 1 else None)
    counted = Counted()
    if kill_at:
        kill_in_write(kill_at)
    losses, params = outcome(a_run(Path(directory), a_cache(Path(directory)) if cached else None))
    digest = hashlib.sha256(json.dumps(losses).encode() + b"".join(params)).hexdigest()
    print(json.dumps({"digest": digest, "read": counted.read, "asked": counted.asked}))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
