"""Training the rows of the word embeddings that a batch reads, and no others.

A batch reads a few hundred of 30,522 rows, but AdamW moves all of them in every step, by their moments and by decay: in a small
BERT that is half of the optimizer's work. Here a row that no token of the batch reads stands still, and so do its moments, as
with ``SparseAdam`` of PyTorch or ``LazyAdam`` of TensorFlow Addons. It is another optimizer than AdamW, not a faster way to its
numbers: a rare word is moved by its own gradients, not by their momentum in the steps after.
"""

import re
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from xtc_jax.train.objective import DeviceBatch, Objective

_WORDS = re.compile(r"embeddings/word_embeddings/weight(/|$)")


def read_rows(batch: DeviceBatch, vocab_size: int) -> tuple[Int[Array, " rows"], DeviceBatch]:
    """The rows that a batch reads, ascending, and the batch with places among them for ids; ``vocab_size`` fills them up.

    There are as many as the batch has tokens, or all where that is less.
    """
    ids = batch["input_ids"]
    size = min(ids.size, vocab_size)
    rows, places = jnp.unique(ids, size=size, fill_value=vocab_size, return_inverse=True)
    return rows, {**batch, "input_ids": places.reshape(ids.shape).astype(ids.dtype)}


def taken(tree: Any, rows: Int[Array, " rows"]) -> Any:
    """``tree``, which has params in it, with those rows of every word embedding alone; those that are not there are 0."""
    return _at_words(lambda table: table.at[rows].get(mode="fill", fill_value=0, indices_are_sorted=True), tree)


def put_back(tree: Any, part: Any, rows: Int[Array, " rows"]) -> Any:
    """What :func:`taken` took of ``tree``, changed since, in its place there."""
    return _at_words(lambda table, new: table.at[rows].set(new, mode="drop", indices_are_sorted=True), tree, part)


def with_rows(objective: Objective, count: int) -> Objective:
    """``objective`` for a student with so many word pieces."""
    return replace(objective, student=replace(objective.student, vocab_size=count))


def _at_words(change: Any, tree: Any, *others: Any) -> Any:
    """``tree`` with ``change`` applied to word embeddings, and their moments; all else is that of the last tree."""

    def leaf(path: tuple[Any, ...], *leaves: Array) -> Array:
        named = _WORDS.search(jax.tree_util.keystr(path, simple=True, separator="/"))
        return change(*leaves) if named else leaves[-1]

    return jax.tree_util.tree_map_with_path(leaf, tree, *others)
