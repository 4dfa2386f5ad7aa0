"""Checkpoints of a run: each alone holds all that the rest of the run depends on, and proves that it is undamaged.

``checkpoints/STEP/`` has the arrays, by Orbax: ``state/``, and ``best/`` if the best parameters are not the state's own;
``run.json`` with what are no arrays; and ``SHA256SUMS``, written last. A directory without it is half-written and never read.
Since the best parameters travel along, no checkpoint needs another one: the newest undamaged one resumes the run exactly.
"""

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from xtc_jax.errors import UserError, refuse_pattern
from xtc_jax.parallel.processes import lost_process
from xtc_jax.params import Params
from xtc_jax.train.evaluate import Logits
from xtc_jax.train.identity import Identity, first_difference
from xtc_jax.train.seals import SEAL, damage, seal
from xtc_jax.train.state import TrainState

_RECORD = "run.json"
_DAMAGED = ".damaged"
Log = Callable[[str], None]


@dataclass(frozen=True)
class Best:
    """The best evaluation so far.

    Attributes:
      step: when it was.
      metrics: of the task, the selecting one first.
      params: copies on the devices, placed as the state's are.
      logits: that the metrics were computed from; None of an evaluation before the checkpoint that the run went on from.
    """

    step: int
    metrics: dict[str, float]
    params: Params
    logits: Logits | None = None


@dataclass(frozen=True)
class Progress:
    """All that the rest of a run depends on; ``seconds`` is the wall time that went into it."""

    state: TrainState
    best: Best | None = None
    seconds: float = 0.0


@jax.jit
def copy(params: Params) -> Params:
    """The same values in fresh buffers, which the train step does not donate."""
    return jax.tree.map(jnp.copy, params)


class Checkpoints:
    """The checkpoints of one run; made by :func:`open_checkpoints`. Every process makes the same calls, process 0 writes.

    Args:
      directory: where the checkpoints are; it exists already.
      identity: of the run; checkpoints of another one are refused.
      keep: how many there are at most, the newest.
      minutes: between saves, see :meth:`due`.
      log: receives a line about each damaged checkpoint.
    """

    def __init__(self, directory: Path, identity: Identity, keep: int, minutes: float, log: Log) -> None:
        self._directory, self._identity, self._keep, self._minutes, self._log = directory, identity, keep, minutes, log
        self._worker = ThreadPoolExecutor(1, "checkpoint")
        self._saving: Future[None] | None = None
        self._saved = time.monotonic()

    def due(self) -> bool:
        """Whether so many minutes have passed since the last save. Process 0's clock decides for all.

        Raises:
          UserError: the save in flight has failed.
        """
        if self._saving is not None and self._saving.done():
            self._check(self._saving)
        late = time.monotonic() - self._saved >= 60 * self._minutes
        return bool(multihost_utils.broadcast_one_to_all(np.int32(late)))

    def save(self, progress: Progress) -> None:
        """Start to save; at most one save is in flight.

        Raises:
          UserError: this save, or the one before it, has failed. Earlier checkpoints are as they were.
        """
        self.wait()
        step, best = int(progress.state.step), progress.best
        path = self._directory / str(step)
        record = {
            "step": step,
            "seconds": progress.seconds,
            "best": best and {"step": best.step, "metrics": best.metrics},
            "identity": self._identity,
        }
        arrays: dict[str, Any] = {"state": progress.state}
        if best is not None and best.step != step:
            arrays["best"] = best.params
        # If it made directories in the background, its threads would wait five minutes for them after an error elsewhere.
        context = ocp.Context()
        context.asynchronous.create_directories_asynchronously = False
        try:
            with context:
                response = ocp.save_checkpointables_async(path, arrays)
        except Exception as error:
            self._fail(error)
        self._saving = self._worker.submit(self._finish, response, path, record)
        self._saved = time.monotonic()

    def _finish(self, response: Any, path: Path, record: dict[str, Any]) -> None:
        """In the background: wait for the arrays, seal, and delete what is no longer kept."""
        response.result()
        if jax.process_index() > 0:
            return
        (path / _RECORD).write_text(json.dumps(record, indent=1) + "\n")
        seal(path)
        for step in self._steps()[self._keep :]:
            (self._directory / str(step) / SEAL).unlink()  # first: half deleted is half-written, not damaged
            shutil.rmtree(self._directory / str(step))

    def wait(self) -> None:
        """Until the save in flight is complete, in every process.

        Raises:
          UserError: it has failed.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            self._check(saving)
            multihost_utils.sync_global_devices("checkpoint")  # none may leave while process 0 still seals

    def _check(self, saving: Future[None]) -> None:
        try:
            saving.result()
        except Exception as error:  # Orbax and tensorstore raise all kinds
            self._fail(error)

    def _fail(self, error: Exception) -> NoReturn:
        """Describe what happened and what is left. Of tensorstore's long messages the system's error number is enough.

        An error because another process was lost is raised as it is: it is not the disk's.
        """
        if lost_process(error):
            raise error
        code = re.search(r"os_error_code='(\d+)'", str(error))
        number = int(code[1]) if code else getattr(error, "errno", None)
        text = os.strerror(number) if number else " ".join(str(error).split())[:200]
        left = next(iter(self._steps()), None)
        kept = "there is none before it" if left is None else f"the one of step {left} is intact"
        raise UserError(
            f"{self._directory}: a checkpoint could not be written ({text}); {kept}. Make room and run the same command again"
        ) from error

    def _steps(self) -> list[int]:
        """Steps of the sealed checkpoints, newest first."""
        found = [int(path.name) for path in self._directory.iterdir() if path.name.isdecimal() and (path / SEAL).exists()]
        return sorted(found, reverse=True)

    def restore(self, like: TrainState) -> Progress | None:
        """The newest undamaged checkpoint, placed as ``like`` is; None if there is none.

        Half-written and damaged ones are named and put out of the way.

        Raises:
          UserError: it was made by a run of another identity.
        """
        newest = self._newest_undamaged() if jax.process_index() == 0 else None
        step = int(multihost_utils.broadcast_one_to_all(np.int32(-1 if newest is None else newest)))
        if step < 0:
            return None
        path = self._directory / str(step)
        record = json.loads((path / _RECORD).read_text())
        difference = first_difference(record["identity"], self._identity)
        if difference:
            raise UserError(f"{path} was made by another run ({difference}); use another --workdir")
        best, own = record["best"], record["best"] and record["best"]["step"] == step
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        wanted = {"state": abstract} if own or not best else {"state": abstract, "best": abstract.params}
        arrays = ocp.load_checkpointables(path, wanted)
        state: TrainState = arrays["state"]
        params = copy(state.params) if own else arrays.get("best")
        return Progress(state, Best(best["step"], best["metrics"], params) if best else None, record["seconds"])

    def _newest_undamaged(self) -> int | None:
        for path in sorted(self._directory.iterdir()):
            if path.is_dir() and path.suffix != _DAMAGED and not (path / SEAL).exists():
                self._log(f"{path} is half-written; deleted")
                shutil.rmtree(path)
        for step in self._steps():
            path = self._directory / str(step)
            problem = damage(path)
            if not problem:
                return step
            aside = path.with_suffix(_DAMAGED)
            self._log(f"{path} is damaged ({problem}); moved to {aside.name}, the one before it is used")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
        return None

    def close(self) -> None:
        """End the background thread; what it does is finished first."""
        self._worker.shutdown(wait=True)


@contextmanager
def open_checkpoints(directory: Path, identity: Identity, keep: int, minutes: float, log: Log) -> Iterator[Checkpoints]:
    """The checkpoints in ``directory``, which is created. Saves are asynchronous; leaving the context waits for them.

    Raises:
      UserError: nothing can be written there, or Orbax would misread the path; on leaving, the last save has failed.
    """
    refuse_pattern(directory)
    if jax.process_index() == 0:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=directory).close()  # an error now, not after the first minutes of training
        except OSError as error:
            raise UserError(f"{directory}: no checkpoint can be written there ({error.strerror})") from None
    checkpoints = Checkpoints(directory.absolute(), identity, keep, minutes, log)
    try:
        yield checkpoints
        checkpoints.wait()
    finally:
        checkpoints.close()
