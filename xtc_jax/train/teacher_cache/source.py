"""Where the targets of a run come from: the teacher, or what it said before."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from xtc_jax.data import Batch, Dataset
from xtc_jax.parallel import all_least, batch_sharding, is_first, on_first, put_batch
from xtc_jax.params import Params
from xtc_jax.train.objective import DeviceBatch
from xtc_jax.train.teacher import Target, TeacherStep, Teaching
from xtc_jax.train.teacher_cache.layout import make_layout
from xtc_jax.train.teacher_cache.policy import QUIET, Costs, TeacherCache, unfit
from xtc_jax.train.teacher_cache.store import Store, prepare, remove

_OFF, _MISS, _HIT = 0, 1, 2
_SAMPLES = 3


class Targets:
    """Gives the target of every batch of a run, from the teacher or from the cache: the same bits either way.

    An example's entry is of its own padded length, the shortest bucket that it fits. A batch is read if all of its examples
    have that length there, and otherwise computed as a whole: XLA rounds otherwise at another length. At the first batch of
    every length the teacher runs once more, with the rows in another order and some of them gone; should an example's outputs
    differ then, batches of that length are always computed.

    Args:
      teach: the compiled teacher.
      params: its params on the mesh.
      mesh: of the batches.
      log: receives a line if the cache cannot be used.
    """

    def __init__(
        self, teach: TeacherStep, params: Params, mesh: jax.sharding.Mesh, log: Callable[[str], None] = lambda _: None
    ) -> None:
        self._teach, self._params, self._mesh, self._log = teach, params, mesh, log
        self._on_cpu = mesh.devices.flat[0].platform == "cpu"
        self._cache: TeacherCache | None = None
        self._store: Store | None = None
        self._own: np.ndarray = np.zeros(0, int)
        self._sound: dict[int, bool] = {}
        self._padding = False  # whether filling rows count too: they have no entry
        self._structure: Any = None
        self._ran: list[tuple[TeacherStep, tuple[Params, DeviceBatch]]] = []
        self._costs: Costs | None = None
        self._remaining = (0, 0)

    def use(self, cache: TeacherCache, teaching: Teaching, dataset: Dataset, key: Callable[[], dict[str, Any]]) -> None:
        """Keep what the teacher says in ``cache``, if it fits.

        Args:
          cache: where, and in how many bytes.
          teaching: what is read of the teacher.
          dataset: the examples.
          key: all that determines the teacher's outputs; entries of another key are deleted.
        """
        buckets, self._padding = np.asarray(dataset.buckets), teaching.padding
        self._own = buckets[np.searchsorted(buckets, dataset.tokens.lengths)]
        some = dataset.batch(dataset.plan(0, 0)[0])
        shapes, self._structure = jax.tree.flatten(jax.eval_shape(self._teach, self._params, some))
        layout = make_layout(shapes, self._own if teaching.padding else dataset.tokens.lengths)
        reason = on_first(unfit, cache, teaching, layout.size)
        if not reason:
            reason = on_first(_prepared, cache.directory, key(), layout.size)
        if reason:
            self._say(reason if is_first() else QUIET)
            return
        self._cache = cache
        try:
            self._store = Store(cache.directory, layout, self._log)
        except OSError as error:
            self._say(f"{cache.directory}: {error.strerror or error}")
        there = on_first(lambda: self._store.filled if self._store else 0) // dataset.batch_size
        writes = max(cache.distinct - there, 0)
        self._remaining = (cache.batches - writes, writes)
        self._costs = Costs() if cache.budget is None else None

    def close(self) -> None:
        """Close the cache."""
        if self._store is not None:
            self._store.close()
        self._store = None

    def _say(self, reason: str) -> None:
        if reason != QUIET:
            self._log(f"teacher cache: {reason}; not used")

    def waits(self, rows: Batch) -> bool:
        """Whether the target of a batch is computed and waited for: then the steps before should have ended, or their time is
        the teacher's too.

        A teacher is waited for on a CPU, where nothing runs beside it, and where a cache needs its numbers on the host. What
        the cache has is read while the steps before still run.
        """
        if self._cache is None:
            return self._on_cpu
        return self._state(rows) != _HIT

    @property
    def ran(self) -> list[tuple[TeacherStep, tuple[Params, DeviceBatch]]]:
        """The programs that gave the last target, with their arguments: the teacher's, or none."""
        return self._ran

    def __call__(self, rows: Batch, batch: DeviceBatch) -> Target:
        """The target of a batch; ``rows`` are those of this process, ``batch`` all of them on the mesh."""
        self._ran = [(self._teach, (self._params, batch))]
        if self._cache is None:
            target = self._teach(self._params, batch)
            return jax.block_until_ready(target) if self._on_cpu else target
        width, there, examples = _examples(rows)
        state = all_least(self._state(rows))  # all processes read, or all compute
        if state == _HIT:
            self._ran = []
            return self._read(rows, examples, there)
        if state == _OFF:
            self._stop()
            return self._teach(self._params, batch)
        begun = time.monotonic()
        target = jax.block_until_ready(self._teach(self._params, batch))
        computing = time.monotonic() - begun
        if width not in self._sound:  # the time was the compiler's
            self._sound[width] = bool(all_least(int(self._is_sound(rows, target))))
            if not self._sound[width]:
                self._log(f"teacher cache: at {width} tokens an example's outputs depend on the other examples; not kept")
            computing = -1.0
        if self._sound[width]:
            own = self._own[examples] == width
            self._keep(rows, examples[own], there[own], target, computing)
        self._keep_shorter(width, rows, examples, there)
        return target

    def _state(self, rows: Batch) -> int:
        if self._store is None:
            return _OFF
        width, _, examples = _examples(rows)
        own = bool((self._own[examples] == width).all()) and (bool(rows["valid"].all()) or not self._padding)
        return _HIT if own and self._sound.get(width, True) and self._store.has(examples) else _MISS

    def _is_sound(self, rows: Batch, target: Target) -> bool:
        """Whether the outputs of an example are the same to the bit elsewhere in a batch of others."""
        count = len(rows["valid"])
        order = np.roll(np.arange(count), 1)
        order[: count // 2] = order[-1]
        again = _local(self._teach(self._params, put_batch({name: each[order] for name, each in rows.items()}, self._mesh)))
        return all(np.array_equal(_bits(a[order]), _bits(b)) for a, b in zip(_local(target), again, strict=True))

    def _keep(self, rows: Batch, examples: np.ndarray, there: np.ndarray, target: Target, computing: float) -> None:
        """Write rows of a target; of the first batches, read them again and decide whether that pays."""
        arrays, begun = _local(target), time.monotonic()
        try:
            if self._store is not None:
                self._store.write(examples, there, arrays)
        except OSError as error:
            self._give_up(f"{error.filename or 'its file'}: {error.strerror or error}")
        if self._costs is None or computing < 0:
            return
        middle = time.monotonic()
        if self._store is not None and self._store.has(examples):
            jax.block_until_ready(self._read(rows, examples, there))
        self._costs.add(computing, middle - begun, time.monotonic() - middle)
        if len(self._costs.computing) == _SAMPLES:
            costs, self._costs = self._costs, None
            if not on_first(costs.pays, *self._remaining):
                self._give_up(f"{costs}: it does not pay" if is_first() else QUIET)

    def _keep_shorter(self, width: int, rows: Batch, examples: np.ndarray, there: np.ndarray) -> None:
        """Run the teacher once more for examples that are here among longer ones, at their own length, and write them.

        Without it, the few of an epoch would make many batches of the next one incomplete.
        """
        for length in [own for own, sound in self._sound.items() if own < width and sound]:
            mine = self._own[examples] == length
            wanted = bool(mine.any()) and self._store is not None and not self._store.has(examples[mine])
            if all_least(int(not wanted)):
                continue
            short = {name: each[:, :length] if each.ndim == 2 else each for name, each in rows.items()}
            chosen = np.zeros(len(rows["valid"]), bool)
            chosen[there[mine]] = True
            short = {**short, "valid": chosen, "attention_mask": short["attention_mask"] * chosen[:, None].astype(np.int32)}
            target = self._teach(self._params, put_batch(short, self._mesh))
            self._keep(short, examples[mine], there[mine], target, -1.0)

    def _read(self, rows: Batch, examples: np.ndarray, there: np.ndarray) -> Target:
        assert self._store is not None
        shape = rows["input_ids"].shape
        arrays = [np.zeros((shape[0], *field.shape(shape[1])), field.dtype) for field in self._store.fields]
        self._store.read(examples, there, arrays)
        placed = jax.make_array_from_process_local_data(batch_sharding(self._mesh), arrays)
        return jax.tree.unflatten(self._structure, placed)

    def _give_up(self, reason: str) -> None:
        """Close the cache and delete its files: a full disk is needed for checkpoints."""
        assert self._cache is not None
        self._say(reason)
        self.close()
        if is_first():
            remove(self._cache.directory)

    def _stop(self) -> None:
        """Another process, or this one, has closed the cache: none asks again."""
        self.close()
        self._cache = None


def _examples(rows: Batch) -> tuple[int, np.ndarray, np.ndarray]:
    """The width of a batch, which of its rows are examples, and the numbers of these in the dataset."""
    there = np.flatnonzero(rows["valid"])
    return rows["input_ids"].shape[1], there, rows["index"][there]


def _local(target: Target) -> list[np.ndarray]:
    """The rows of this process, in the order of :func:`xtc_jax.parallel.local_rows`, on the host."""
    return [_host_rows(leaf) for leaf in jax.tree.leaves(target)]


def _host_rows(array: jax.Array) -> np.ndarray:
    if array.is_fully_addressable:
        return np.asarray(array)
    shards = {shard.index[0].start or 0: shard for shard in array.addressable_shards}
    return np.concatenate([np.asarray(shards[start].data) for start in sorted(shards)])


def _bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).view(np.uint8)


def _prepared(directory: Path, key: dict[str, Any], size: int) -> str:
    """Make the files; "", or why that is not possible."""
    try:
        prepare(directory, key, size)
    except OSError as error:
        return f"{error.filename or directory}: {error.strerror or error}"
    return ""
