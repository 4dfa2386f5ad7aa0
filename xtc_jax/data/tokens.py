"""Text to word pieces, through the ``tokenizers`` library."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from xtc_jax.errors import UserError

CHUNK = 4096
"""Texts that are tokenized at once: an ``Encoding`` takes 11 kB for a pair of sentences, so a chunk takes 45 MB."""


@dataclass(frozen=True)
class Ragged(Sequence[np.ndarray]):
    """Vectors of different lengths, stored end to end: one array has no overhead for each of millions of examples.

    Attributes:
      values: all vectors, one after the other.
      bounds: int64 ``(vectors + 1,)``; vector i is ``values[bounds[i] : bounds[i + 1]]``.
    """

    values: np.ndarray
    bounds: np.ndarray

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, index: Any) -> Any:
        """A view of the vector ``index``, or a list of several for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        return self.values[self.bounds[at] : self.bounds[at + 1]]


@dataclass(frozen=True)
class Tokens:
    """Tokenized examples, unpadded.

    Attributes:
      input_ids: one int32 vector per example, ``[CLS] text [SEP]`` or ``[CLS] text [SEP] second [SEP]``.
      token_type_ids: int8 vectors of the same lengths, 0 for the first segment and 1 for the second.
    """

    input_ids: Sequence[np.ndarray]
    token_type_ids: Sequence[np.ndarray]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every example, int64."""
        if isinstance(self.input_ids, Ragged):
            return np.diff(self.input_ids.bounds)
        return np.array([len(ids) for ids in self.input_ids], np.int64)


def load_tokenizer(directory: Path) -> Tokenizer:
    """Read ``tokenizer.json``, or through transformers the ``vocab.txt`` of older checkpoints.

    Raises:
      UserError: neither file is there, or it is damaged.
    """
    file = directory / "tokenizer.json"
    if not file.is_file() and not (directory / "vocab.txt").is_file():
        raise UserError(f"{directory}: no tokenizer.json and no vocab.txt in it")
    try:
        if file.is_file():
            return Tokenizer.from_file(str(file))
        from transformers import BertTokenizerFast  # seconds to import, needed by old checkpoints alone

        return BertTokenizerFast.from_pretrained(directory).backend_tokenizer
    except Exception as error:  # both libraries raise bare Exception
        raise UserError(f"{directory}: the tokenizer cannot be read ({error})") from None


def check_vocabulary(tokenizer: Tokenizer, pieces: int, types: int, texts: int, where: str) -> None:
    """Every id that the tokenizer gives for ``texts`` texts is a row of the model's tables, of ``pieces`` and ``types`` rows.

    JAX takes the last row of a table for an id beyond it and says nothing, so it must not come to that.

    Raises:
      UserError: an id beyond a table; names the word pieces, and with ``where`` the model.
    """
    beyond = sorted((i, piece) for piece, i in tokenizer.get_vocab(with_added_tokens=True).items() if i >= pieces)
    if beyond:
        named = ", ".join(f"{piece!r} ({i})" for i, piece in beyond[:4]) + (", ..." if len(beyond) > 4 else "")
        raise UserError(
            f"{where}: its tokenizer has {len(beyond)} word pieces beyond the vocab_size of {pieces}: {named}; "
            "the tokenizer is of another model, or vocab_size and the embeddings are too small"
        )
    frame = tokenizer.encode("", "" if texts == 2 else None)
    if max(frame.ids, default=0) >= pieces:
        raise UserError(f"{where}: its tokenizer adds token {max(frame.ids)}, and the vocab_size is {pieces}")
    if max(frame.type_ids, default=0) >= types:
        raise UserError(f"{where}: {texts} texts need {max(frame.type_ids) + 1} segments, and its type_vocab_size is {types}")


def tokenize(tokenizer: Tokenizer, texts: Sequence[tuple[str, ...]], max_length: int) -> Tokens:
    """Tokenize single texts or pairs, cut to ``max_length`` tokens (pairs: the longer side first).

    Memory: 5 bytes a token, for a moment at the end twice that, and the encodings of :data:`CHUNK` texts.

    Raises:
      UserError: the tokenizer fails on a text.
    """
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    ids, types, lengths = [np.zeros(0, np.int32)], [np.zeros(0, np.int8)], [np.zeros(1, np.int64)]
    for start in range(0, len(texts), CHUNK):
        encoded = _encode(tokenizer, texts[start : start + CHUNK])
        lengths.append(np.array([len(e.ids) for e in encoded], np.int64))
        ids.append(np.fromiter(chain.from_iterable(e.ids for e in encoded), np.int32))
        types.append(np.fromiter(chain.from_iterable(e.type_ids for e in encoded), np.int8))
    bounds = np.cumsum(np.concatenate(lengths))
    return Tokens(Ragged(np.concatenate(ids), bounds), Ragged(np.concatenate(types), bounds))


def _encode(tokenizer: Tokenizer, texts: Sequence[tuple[str, ...]]) -> list[Encoding]:
    try:
        return tokenizer.encode_batch([text[0] if len(text) == 1 else text for text in texts])
    except Exception as error:  # the library raises bare Exception, for example where [UNK] is no word piece
        raise UserError(f"the model's tokenizer cannot read a text ({error})") from None
