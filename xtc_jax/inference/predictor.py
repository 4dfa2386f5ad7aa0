"""Run a packed model from its directory alone: classify text, or measure it on a data set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array
from tokenizers import Tokenizer

from xtc_jax.bert import BertConfig, apply
from xtc_jax.compress import ready
from xtc_jax.data import (
    Dataset,
    check_vocabulary,
    compute_all,
    default_buckets,
    eval_batches,
    load_examples,
    load_tokenizer,
    splits_of,
    tokenize,
)
from xtc_jax.errors import UserError
from xtc_jax.formats.packed import PackedModel, load_packed
from xtc_jax.params import Params

Forward = Callable[[Params, ArrayLike, ArrayLike, ArrayLike], Array]
_BATCH = 32


@dataclass(frozen=True)
class Predictor:
    """A packed model ready to run.

    Attributes:
      model: as stored, but without params: their packed codes lie in memory once.
      params: of the model, laid out for the device they run on.
      tokenizer: of its directory.
      forward: ``(params, input_ids, token_type_ids, attention_mask) -> logits``, jitted: one executable per shape of a batch,
        of which there are few. One device: a handful of texts is not worth splitting, and any number of them must do.
    """

    model: PackedModel
    params: Params
    tokenizer: Tokenizer
    forward: Forward


@dataclass(frozen=True)
class Prediction:
    """The answer for one input.

    Attributes:
      label: name of the most probable class; None for a regression.
      value: its probability, or the predicted number.
      probabilities: of every class; empty for a regression.
    """

    label: str | None
    value: float
    probabilities: dict[str, float]


def load_predictor(directory: Path) -> Predictor:
    """Load a packed model directory onto the first device.

    Raises:
      UserError: see :func:`xtc_jax.formats.load_packed` and :func:`xtc_jax.data.check_vocabulary`.
    """
    model, device = load_packed(directory), jax.local_devices()[0]
    params = jax.device_put(ready(model.params, device.device_kind), device)
    tokenizer, config = load_tokenizer(directory), model.config
    check_vocabulary(tokenizer, config.vocab_size, config.type_vocab_size, len(model.task.text), str(directory))
    return Predictor(replace(model, params={}), params, tokenizer, _make_forward(config))


def _make_forward(config: BertConfig) -> Forward:
    def forward(params: Params, input_ids: Array, token_type_ids: Array, attention_mask: Array) -> Array:
        return apply(config, params, input_ids, token_type_ids, attention_mask).logits

    return jax.jit(forward)


def text_logits(predictor: Predictor, texts: Sequence[tuple[str, ...]]) -> np.ndarray:
    """Logits ``(inputs, labels)``, float32.

    Raises:
      UserError: an input has another number of texts than the task.
    """
    wanted = len(predictor.model.task.text)
    for i, text in enumerate(texts):
        if len(text) != wanted:
            raise UserError(f"input {i + 1} has {len(text)} text(s); this model takes {wanted}, a pair separated by a tab")
    tokens = tokenize(predictor.tokenizer, texts, predictor.model.max_length)
    config = predictor.model.config
    batch = _batch_size(len(texts))
    dataset = Dataset(
        tokens, np.zeros(len(texts), np.int32), batch, default_buckets(predictor.model.max_length), config.pad_token_id
    )
    logits = np.empty((len(texts), config.num_labels), np.float32)
    for planned, rows in zip(dataset.in_order(), eval_batches(dataset), strict=True):
        inputs = (rows[name] for name in ("input_ids", "token_type_ids", "attention_mask"))  # numpy: copied faster by the call
        logits[planned.indices] = np.asarray(predictor.forward(predictor.params, *inputs))[: len(planned.indices)]
    return logits


def _batch_size(inputs: int) -> int:
    return min(_BATCH, 1 << (inputs - 1).bit_length())


def warm_up(predictor: Predictor, most: int) -> int:
    """Compile, or read from the cache, every shape that a batch of up to ``most`` inputs can have; returns how many."""
    lengths, sizes = default_buckets(predictor.model.max_length), sorted({_batch_size(i) for i in range(1, most + 1)})
    for size in sizes:
        for length in lengths:
            zeros = np.zeros((size, length), np.int32)
            jax.block_until_ready(predictor.forward(predictor.params, zeros, zeros, zeros + 1))
    return len(sizes) * len(lengths)


def predict(predictor: Predictor, texts: Sequence[tuple[str, ...]]) -> list[Prediction]:
    """Classify (or rate) texts; each is a tuple of one text, or of the two of a pair."""
    if not texts:
        return []
    config = predictor.model.config
    return answers(config.labels, config.regression, text_logits(predictor, texts))


def answers(labels: tuple[str, ...], regression: bool, logits: np.ndarray) -> list[Prediction]:
    """What logits ``(inputs, labels)`` say.

    >>> answers(("bad", "good"), False, np.array([[0.0, np.log(3)]]))[0].label
    'good'
    """
    if regression:
        return [Prediction(None, float(row[0]), {}) for row in logits]
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    found = []
    for row in shifted / shifted.sum(axis=1, keepdims=True):
        best = int(row.argmax())
        named = {label: float(p) for label, p in zip(labels, row, strict=True)}
        found.append(Prediction(labels[best], float(row[best]), named))
    return found


def read_lines(stream: BinaryIO, where: str) -> list[str]:
    """The lines of a text in UTF-8, without a byte order mark and their ends, LF or CR LF; blank ones too.

    Raises:
      UserError: a line is not UTF-8; ``where`` names the stream.
    """
    lines = []
    for number, line in enumerate(stream, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{where}: line {number} is not UTF-8; convert it, for example with iconv") from None
        lines.append(text.removesuffix("\n").removesuffix("\r"))
    return lines


def predict_lines(predictor: Predictor, lines: Sequence[str]) -> list[Prediction | None]:
    """The answer to every line, None to a blank one; a pair is a line with a tab between its texts.

    Raises:
      UserError: a line has another number of texts than the task, or is not Unicode; it is named by its number.
    """
    wanted, asked = len(predictor.model.task.text), [i for i, line in enumerate(lines) if line.strip()]
    texts = [tuple(lines[i].split("\t")) for i in asked]
    for i, text in zip(asked, texts, strict=True):
        if any("\ud800" <= character <= "\udfff" for part in text for character in part):
            raise UserError(f"input {i + 1} is not UTF-8")  # so the system hands over other bytes in arguments
        if len(text) != wanted:
            raise UserError(f"input {i + 1} has {len(text)} text(s); this model takes {wanted}, a pair separated by a tab")
    answers = dict(zip(asked, predict(predictor, texts), strict=True))
    return [answers.get(i) for i in range(len(lines))]


def evaluate_packed(predictor: Predictor, data: str, split: str = "") -> tuple[dict[str, float], int]:
    """The task's metrics on a data set, and its number of examples.

    Args:
      predictor: the model.
      data: as of :func:`xtc_jax.data.load_examples`.
      split: "" is all validation splits of the task; where ``data`` is a file, the first.

    Raises:
      UserError: see :func:`xtc_jax.data.load_examples`.
    """
    task = predictor.model.task
    splits = (split,) if split else splits_of(data, task.validation)
    examples = {name: load_examples(data, task, name) for name in splits}
    logits = {name: text_logits(predictor, found.texts) for name, found in examples.items()}
    labels = {name: found.labels for name, found in examples.items()}
    return compute_all(task, logits, labels), sum(len(found) for found in labels.values())
