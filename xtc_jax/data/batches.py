"""Batches of few static shapes: examples of similar length together, each exactly once an epoch.

An epoch is a *plan*, a list of ``(length, example indices)``, computed from the seed alone: batch k of a run is
a pure function of (seed, k), so a run can be resumed at any step, and every one of several processes knows
all plans and reads no rows but its own. The batches that a plan names are read through ``grain``.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from xtc_jax.data.tokens import Tokens

Batch = dict[str, np.ndarray]
"""``input_ids``, ``token_type_ids``, ``attention_mask`` int32 ``(batch, length)``; ``labels`` ``(batch,)``; ``valid`` bool
``(batch,)``: False in rows that only fill the batch up; ``index`` int32 ``(batch,)``: position in the data set. ``batch`` is
the number of rows asked for: all, or those of one process."""


@dataclass(frozen=True)
class Planned:
    """One batch of a plan: ``length`` is the padded length, ``indices`` the examples, batch size or fewer."""

    length: int
    indices: np.ndarray


def default_buckets(max_length: int) -> tuple[int, ...]:
    """16, 32, 64, … up to ``max_length``: at most one compilation per doubling."""
    buckets = []
    length = 16
    while length < max_length:
        buckets.append(length)
        length *= 2
    return (*buckets, max_length)


def plan_epoch(
    lengths: np.ndarray, batch_size: int, buckets: tuple[int, ...], rng: np.random.Generator | None
) -> list[Planned]:
    """Group one epoch's examples into ``ceil(n / batch_size)`` batches of similar length.

    Every example appears exactly once. What does not fill a batch of its bucket moves up to the next
    longer bucket, so only one batch of an epoch can be short.

    Args:
      lengths: tokens of every example.
      batch_size: rows of a batch.
      buckets: padded lengths, increasing; the last is at least the longest example.
      rng: shuffles examples and batches; None keeps the order of the data set.
    """
    order = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
    bucket_of = np.searchsorted(np.asarray(buckets), lengths[order])
    plan: list[Planned] = []
    rest = order[:0]
    for bucket, length in enumerate(buckets):
        members = np.concatenate([rest, order[bucket_of == bucket]])
        full = len(members) // batch_size * batch_size
        plan += [Planned(length, chunk) for chunk in members[:full].reshape(-1, batch_size)]
        rest = members[full:]
    if len(rest):
        plan.append(Planned(next(b for b in buckets if b >= lengths[rest].max()), rest))
    return plan if rng is None else [plan[i] for i in rng.permutation(len(plan))]


def collate(
    planned: Planned, tokens: Tokens, labels: np.ndarray, batch_size: int, pad_id: int, rows: np.ndarray | None = None
) -> Batch:
    """The arrays of one planned batch, padded to its length and to ``batch_size`` rows.

    ``rows``, increasing numbers below ``batch_size``, are those wanted; None is all.
    """
    rows = np.arange(batch_size) if rows is None else rows
    shape = (len(rows), planned.length)
    examples = planned.indices[rows[rows < len(planned.indices)]]
    batch: Batch = {
        "input_ids": np.full(shape, pad_id, np.int32),
        "token_type_ids": np.zeros(shape, np.int32),
        "attention_mask": np.zeros(shape, np.int32),
        "labels": np.zeros(len(rows), labels.dtype),
        "valid": rows < len(planned.indices),
        "index": np.zeros(len(rows), np.int32),
    }
    for row, example in enumerate(examples):
        ids = tokens.input_ids[example]
        batch["input_ids"][row, : len(ids)] = ids
        batch["token_type_ids"][row, : len(ids)] = tokens.token_type_ids[example]
        batch["attention_mask"][row, : len(ids)] = 1
    batch["labels"][: len(examples)] = labels[examples]
    batch["index"][: len(examples)] = examples
    return batch


@dataclass(frozen=True)
class Dataset:
    """Tokenized examples with what it takes to make batches of them."""

    tokens: Tokens
    labels: np.ndarray
    batch_size: int
    buckets: tuple[int, ...]
    pad_id: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def batches_per_epoch(self) -> int:
        """Batches that cover every example once."""
        return -(-len(self) // self.batch_size)

    def plan(self, seed: int, epoch: int) -> list[Planned]:
        """The shuffled plan of one epoch."""
        return plan_epoch(self.tokens.lengths, self.batch_size, self.buckets, np.random.default_rng((seed, epoch)))

    def in_order(self) -> list[Planned]:
        """The plan of an evaluation: not shuffled."""
        return plan_epoch(self.tokens.lengths, self.batch_size, self.buckets, None)

    def batch(self, planned: Planned, rows: np.ndarray | None = None) -> Batch:
        """See :func:`collate`."""
        return collate(planned, self.tokens, self.labels, self.batch_size, self.pad_id, rows)


@dataclass(frozen=True)
class _Source:
    """Planned batches ``0 .. steps - 1`` of a run, the plans of its epochs one after another."""

    dataset: Dataset
    plans: list[Planned]
    rows: np.ndarray | None

    def __len__(self) -> int:
        return len(self.plans)

    def __getitem__(self, step: int) -> Batch:
        return self.dataset.batch(self.plans[step], self.rows)


def train_batches(dataset: Dataset, seed: int, steps: int, start: int = 0, rows: np.ndarray | None = None) -> Iterator[Batch]:
    """Batches ``start .. steps - 1`` of a run, read ahead in the background.

    Args:
      dataset: what to train on.
      seed: with the step number, determines every batch.
      steps: length of the run; epochs follow one another, each with its own order.
      start: first batch, to resume a run.
      rows: of every batch, those to read, see :func:`collate`.
    """
    import grain  # a second to import, needed to train alone

    epochs = -(-steps // dataset.batches_per_epoch)
    plans = [planned for epoch in range(epochs) for planned in dataset.plan(seed, epoch)][start:steps]
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    return iter(grain.MapDataset.source(_Source(dataset, plans, rows)).to_iter_dataset(options))


def eval_batches(dataset: Dataset, rows: np.ndarray | None = None) -> Iterator[Batch]:
    """Every example exactly once, in few shapes; rows with ``valid`` False are filling. ``rows`` as of :func:`collate`."""
    for planned in dataset.in_order():
        yield dataset.batch(planned, rows)
