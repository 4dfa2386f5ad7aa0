"""Steps that move only the rows of the word table that their batch reads.

A batch reads some hundred of thirty thousand rows. The gradient of all others is 0, yet AdamW passes over them: seven arrays of
the size of the table, which is half of a small BERT. Here the step is that of a model whose table holds the rows of the batch
alone; the others keep their values and their moments until a batch reads them ("lazy Adam": PyTorch's ``SparseAdam``,
TensorFlow Addons' ``LazyAdam``). That is another optimizer: under Adam a row moves on for many steps after its only gradient,
``lr / sqrt(1 - b2)`` in all, which is 32 ``lr``; here it moves 3 ``lr``, once. A row decays only when it is read.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from xtc_jax.train.objective import DeviceBatch, Objective
from xtc_jax.train.state import TrainState

_TABLE = "embeddings/word_embeddings/weight"


def rows_of(batch: DeviceBatch, vocab_size: int) -> tuple[Int[Array, " rows"], DeviceBatch]:
    """The rows of the word table that a batch reads, and the batch with ids that count these rows.

    Args:
      batch: its ids ``(batch, length)`` are less than ``vocab_size``.
      vocab_size: rows of the table.

    Returns:
      ``min(batch * length, vocab_size)`` row numbers: increasing, then ``vocab_size``, which is no row, as often as is left.
      And the batch, whose ids are positions among these.
    """
    ids = batch["input_ids"]
    rows, at = jnp.unique(ids, return_inverse=True, size=min(ids.size, vocab_size), fill_value=vocab_size)
    return rows, {**batch, "input_ids": at.reshape(ids.shape).astype(ids.dtype)}


def on_rows(objective: Objective, rows: int) -> Objective:
    """``objective`` for a student whose word table has so many rows."""
    return replace(objective, student=replace(objective.student, vocab_size=rows, pad_token_id=0), lazy_embeddings=False)


def cut(state: TrainState, rows: Array) -> TrainState:
    """``state`` with ``rows`` of the word table and of its moments alone; what is no row gets the last one's values."""
    return _on_tables(lambda table: table.at[rows].get(mode="clip"), state)


def paste(state: TrainState, small: TrainState, rows: Array) -> TrainState:
    """``small``, the step's result on ``rows``, with the whole tables of ``state``, in which those rows are replaced."""
    return _on_tables(lambda new, table: table.at[rows].set(new, mode="drop"), small, state)


def _on_tables(change: Callable[..., Array], state: TrainState, *more: TrainState) -> TrainState:
    """``change`` on the word table and its moments, the halves of a split one included; all else as in ``state``."""

    def at(path: tuple[Any, ...], leaf: Array, *others: Array) -> Array:
        return change(leaf, *others) if _TABLE in jax.tree_util.keystr(path, simple=True, separator="/") else leaf

    result: TrainState = jax.tree_util.tree_map_with_path(at, state, *more)
    return result
