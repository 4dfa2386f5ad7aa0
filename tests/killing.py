"""Kills a training run again and again and compares what it ends with, to the bit, with a run that nobody disturbed.

By hand: ``python tests/killing.py --kills 50 [--seed 7]``. The processes are real and so are the signals; a kill comes at a
random moment of a step, an evaluation, or the time after a save was begun, by turns. CI runs the same, see train/test_kill.py.
"""

import argparse
import dataclasses
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

STEPS = 30
MOMENTS = {"step": (10, 0.02), "eval": (2, 0.02), "checkpoint": (4, 0.15)}
"""By phase: in which of its first occurrences a kill comes, and how many seconds after its begin at most."""


def work(directory: Path) -> None:
    """The run that is killed. It prints every phase as it begins, and a digest of everything that it saves."""
    import jax
    import toy

    from xtc_jax.compress import DistillSpec, layer_map
    from xtc_jax.train import Objective, OptimizerSpec, Run, Upkeep, loop, train
    from xtc_jax.train.checkpoints import Checkpoints, Progress
    from xtc_jax.train.phases import Phases

    class Spoken(Phases):
        def __call__(self, name):
            print("phase", name, flush=True)
            return super().__call__(name)

    def digest(tree) -> str:
        leaves = [
            jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in jax.tree.leaves(tree)
        ]
        return hashlib.sha256(b"".join(jax.device_get(leaf).tobytes() for leaf in leaves)).hexdigest()

    def save(self: Checkpoints, progress: Progress) -> None:
        best = progress.best
        print("saved", int(progress.state.step), digest((progress.state, best and best.params)), best and best.step, flush=True)
        unspoken(self, progress)

    unspoken, Checkpoints.save, loop.Phases = Checkpoints.save, save, Spoken
    shape = toy.shape(1, dropout=0.1)
    data = dataclasses.replace(toy.dataset(), buckets=(16,))  # one padded length: half as much to compile
    run = Run(
        label="killed",
        objective=Objective(shape, None, None, layer_map((), 1), DistillSpec()),
        optimizer=OptimizerSpec(5e-3, STEPS, 5),
        train_set=data,
        eval_sets={"validation": data},
        task=toy.SENTIMENT,
        directory=directory,
        seed=3,
        eval_every=7,
        upkeep=Upkeep(save_minutes=0, log_every=3),
    )
    result = train(run, toy.params(shape, seed=2), None)
    print("final", digest(result.params), result.metrics, flush=True)


@dataclass
class Killer:
    """Runs :func:`work` in processes of its own.

    Attributes:
      scratch: an empty directory.
      cache: of compiled programs, shared by all runs.
      draw: of the moments.
      expected: lines of the undisturbed run: final result, and digests by step.
      log: what happened.
      seen: what the last process that was disturbed had printed.
    """

    scratch: Path
    cache: Path
    draw: random.Random
    expected: dict[str, str] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    def start(self, directory: Path) -> subprocess.Popen:
        """A process that starts or resumes the run in ``directory``."""
        directory.mkdir(exist_ok=True)
        root = Path(__file__).resolve().parents[1]
        flags = {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0",
            "JAX_COMPILATION_CACHE_DIR": str(self.cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")]),
        }
        command = [sys.executable, __file__, "--work", str(directory)]
        errors = (directory / "stderr").open("a")
        with errors:
            return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **flags})

    def lines(self, process: subprocess.Popen) -> Iterator[str]:
        """What the process prints. Whatever it saves or ends with must be what the undisturbed run had there."""
        for line in process.stdout:
            word, *rest = line.split()
            if word in ("saved", "final"):
                key, value = (f"saved {rest[0]}", " ".join(rest[1:])) if word == "saved" else (word, " ".join(rest))
                known = self.expected.setdefault(key, value)
                assert value == known, f"{key}: {value}, undisturbed {known}; {self.log}"
            yield line.strip()

    def finish(self, directory: Path) -> None:
        """Let a run go on to its end."""
        with self.start(directory) as process:
            words = {line.split()[0] for line in self.lines(process)}
        assert process.returncode == 0, (directory / "stderr").read_text()
        assert "final" in words, words

    def disturb(self, directory: Path, phase: str, sent: signal.Signals) -> int | None:
        """Start or resume a run and send it a signal in ``phase``; returns its exit status, None if it came to its end."""
        occurrences, seconds = MOMENTS[phase]
        count, delay = self.draw.randint(1, occurrences), self.draw.uniform(0, seconds)
        seen: list[str] = []
        with self.start(directory) as process:
            for line in self.lines(process):
                seen.append(line)
                if line == f"phase {phase}" and seen.count(line) == count:
                    time.sleep(delay)
                    process.send_signal(sent)
        status = process.returncode
        begun = sum(line == "phase step" for line in seen)
        self.log.append(
            f"{directory.name}: {sent.name} {1000 * delay:.0f} ms into {phase} {count}, {begun} steps begun: {status}"
        )
        self.seen = seen
        return None if status == 0 else status

    def kill(self, kills: int, log: Callable[[str], None] = lambda line: None) -> None:
        """Kill runs ``kills`` times in all, at the three kinds of moments by turns; every run in the end comes to its end.

        Raises:
          AssertionError: a killed run saved or ended with other bits.
        """
        killed = run = 0
        while killed < kills:
            directory, phase = self.scratch / f"run{run}", list(MOMENTS)[killed % len(MOMENTS)]
            status = self.disturb(directory, phase, signal.SIGKILL)
            log(self.log[-1])
            if status is None:
                run += 1
            else:
                assert status == -signal.SIGKILL, (directory / "stderr").read_text()
                killed += 1
        self.finish(self.scratch / f"run{run}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        from xtc_jax.cli.main import PREEMPTED
        from xtc_jax.errors import Preempted

        try:
            work(arguments.work)
        except Preempted:
            sys.exit(PREEMPTED)
        return
    with tempfile.TemporaryDirectory() as scratch:
        began = time.monotonic()
        killer = Killer(Path(scratch), Path(scratch) / "xla", random.Random(arguments.seed))
        killer.finish(Path(scratch) / "undisturbed")
        killer.kill(arguments.kills, print)
        print(f"{arguments.kills} kills: every save and every end is bit for bit that of an undisturbed run", end="; ")
        print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
