"""An exported ONNX file is run, and compared with the packed model that it was made of."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xtc_jax.bert import apply
from xtc_jax.compress import ready
from xtc_jax.data import Dataset, default_buckets, eval_batches, load_examples, load_tokenizer, splits_of, tokenize
from xtc_jax.errors import UserError
from xtc_jax.formats import PackedModel

MEDIAN = 1e-4
"""Largest median difference of logits that is accepted."""
Inputs = dict[str, np.ndarray]
_BATCH = 32


@dataclass(frozen=True)
class Agreement:
    """How two runtimes compare on the same inputs.

    Attributes:
      rows: examples compared.
      median, maximum: of the absolute differences of logits.
      other_labels: examples whose label differs though the margin is larger than ``maximum``.
      close_labels: examples whose label differs, with a smaller margin.
    """

    rows: int
    median: float
    maximum: float
    other_labels: int
    close_labels: int

    @property
    def accepted(self) -> bool:
        """Whether the export may be kept; a difference that is no number is not accepted."""
        return self.median <= MEDIAN and self.other_labels == 0


def compare(ours: np.ndarray, theirs: np.ndarray) -> Agreement:
    """Compare logits ``(rows, labels)``; a single column is a number, which has no label.

    >>> compare(np.array([[0.0, 1.0]]), np.array([[0.0, 1.5]]))
    Agreement(rows=1, median=0.25, maximum=0.5, other_labels=0, close_labels=0)
    """
    difference = np.abs(ours - theirs)
    other = ours.argmax(axis=1) != theirs.argmax(axis=1)
    ordered = np.sort(ours, axis=1)
    margin = ordered[:, -1] - ordered[:, -2] if ours.shape[1] > 1 else np.zeros(len(ours))
    close = other & (margin <= difference.max())
    return Agreement(
        len(ours), float(np.median(difference)), float(difference.max()), int((other & ~close).sum()), int(close.sum())
    )


def sample_inputs(model: PackedModel) -> list[Inputs]:
    """Token ids drawn at random: a short text, and rows up to the longest, padded, every other one of two segments."""
    rng, longest = np.random.default_rng(0), min(model.max_length, model.config.max_position_embeddings)
    shapes = [(1, min(3, longest)), (16, longest)]
    batches = []
    for rows, length in shapes:
        ids = rng.integers(0, model.config.vocab_size, (rows, length))
        ends = np.maximum(2, length - np.arange(rows) * length // (2 * rows))[:, None]
        mask = np.arange(length) < ends
        types = (np.arange(length) >= length // 2) * (np.arange(rows) % 2)[:, None]
        types = np.minimum(types, model.config.type_vocab_size - 1)
        named = {"input_ids": np.where(mask, ids, model.config.pad_token_id), "attention_mask": mask, "token_type_ids": types}
        batches.append({name: value.astype(np.int64) for name, value in named.items()})
    return batches


def data_inputs(model: PackedModel, directory: Path, data: str) -> list[Inputs]:
    """The validation examples of a data set as padded batches.

    Raises:
      UserError: see :func:`xtc_jax.data.load_examples`.
    """
    splits = splits_of(data, model.task.validation)
    texts = [text for split in splits for text in load_examples(data, model.task, split).texts]
    tokens = tokenize(load_tokenizer(directory), texts, model.max_length)
    labels = np.zeros(len(texts), np.int32)
    dataset = Dataset(tokens, labels, _BATCH, default_buckets(model.max_length), model.config.pad_token_id)
    names = ("input_ids", "attention_mask", "token_type_ids")
    batches = zip(dataset.in_order(), eval_batches(dataset), strict=True)  # the last may be filled up with rows of padding
    return [{name: np.asarray(rows[name][: len(plan.indices)], np.int64) for name in names} for plan, rows in batches]


def packed_logits(model: PackedModel, batches: Sequence[Inputs]) -> np.ndarray:
    """Logits of the packed model itself, ``(rows, labels)``; on a CPU by XLA, whose sums have the order of the student's."""
    forward = jax.jit(functools.partial(apply, model.config))
    params = ready(model.params, backend="xla" if jax.default_backend() == "cpu" else "")
    found = [
        forward(params, *(jnp.asarray(rows[name], jnp.int32) for name in ("input_ids", "token_type_ids", "attention_mask")))
        for rows in batches
    ]
    return np.concatenate([np.asarray(output.logits, np.float32) for output in found])


def runtime_session(file: Path | bytes, optimized: bool) -> Any:
    """An ONNX Runtime session on the CPU, all its optimizations on or off."""
    import onnxruntime

    options, levels = onnxruntime.SessionOptions(), onnxruntime.GraphOptimizationLevel
    options.log_severity_level = 3
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    source = file if isinstance(file, bytes) else str(file)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def runtime_logits(session: Any, batches: Sequence[Inputs]) -> np.ndarray:
    """Logits by ONNX Runtime, ``(rows, labels)``."""
    return np.concatenate([session.run(["logits"], rows)[0] for rows in batches])


def accept(agreement: Agreement, file: str, run: str) -> Agreement:
    """The agreement of a run.

    Raises:
      UserError: it is not accepted; names the file and the run.
    """
    if not agreement.accepted:
        raise UserError(
            f"{file}: does not agree with the packed model ({run}: median difference {agreement.median:.2g}, largest "
            f"{agreement.maximum:.2g}, {agreement.other_labels} other labels); nothing is kept"
        )
    return agreement


def verify_onnx(file: Path, model: PackedModel, batches: Sequence[Inputs]) -> dict[str, Agreement]:
    """Run the file with optimizations off and on.

    Returns:
      The agreement by name of the run.

    Raises:
      UserError: one of them differs too much from the packed model.
    """
    ours = packed_logits(model, batches)
    found = {}
    for name, optimized in (("optimizations off", False), ("optimizations on", True)):
        agreement = compare(ours, runtime_logits(runtime_session(file, optimized), batches))
        found[name] = accept(agreement, file.name, name)
    return found
