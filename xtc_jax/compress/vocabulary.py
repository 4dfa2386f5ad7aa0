"""Vocabulary reduction: the word pieces that a task does not use leave the embedding table and the tokenizer.

Every special token and every single character (``c`` and ``##c``) stays, and so does a piece that characters cannot spell. A
word whose piece leaves is split further, as WordPiece takes the longest piece that it has: it becomes ``[UNK]`` only if it was
before. (That is strict where every character that stands inside a word has its ``##c``, as in BERT's own vocabularies.) A kept
piece keeps its row, so a text whose pieces all stay has the same embeddings.

WordPiece: Schuster and Nakajima 2012, "Japanese and Korean voice search"; Devlin et al. 2018, section 3.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import jax
import numpy as np
from tokenizers import Tokenizer

from xtc_jax.errors import UserError
from xtc_jax.params import Params

_NAMED_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""BERT's special tokens, which a ``tokenizer.json`` need not list as such."""
_CHUNK = 1024


@dataclass(frozen=True)
class Vocabulary:
    """A reduced vocabulary.

    Attributes:
      keep: ids of the original tokenizer, increasing; ``keep[i]`` is piece ``i`` now.
      tokenizer: the text of the reduced ``tokenizer.json``.
    """

    keep: tuple[int, ...]
    tokenizer: str

    @property
    def digest(self) -> str:
        """A short hash of the kept ids."""
        return hashlib.sha256(np.array(self.keep, np.int64).tobytes()).hexdigest()[:16]

    def position(self, old: int) -> int:
        """The new id of an old one; 0 of one that left."""
        return self.keep.index(old) if old in self.keep else 0


def rows_between(before: Vocabulary | None, after: Vocabulary | None) -> np.ndarray | None:
    """The rows of a table of ``before`` (None: the original) that are the pieces of ``after``; None where these are the same.

    Raises:
      UserError: ``after`` has pieces that ``before`` lacks.
    """
    if before == after:
        return None
    if after is None or (before is not None and not set(after.keep) <= set(before.keep)):
        raise UserError("vocabulary: it has word pieces that were removed before")
    return np.array(after.keep if before is None else np.searchsorted(before.keep, after.keep), np.int32)


def reduce_vocabulary(params: Params, keep: Sequence[int] | np.ndarray) -> Params:
    """The params with only the rows ``keep`` of the word embedding table.

    Args:
      params: nested dict with ``embeddings/word_embeddings/weight``, float[pieces, hidden], or the two halves of one.
      keep: old ids, increasing; new id ``i`` is old id ``keep[i]``.

    Raises:
      UserError: an id outside the table, or ids that do not increase.
    """
    embeddings = params["embeddings"]
    words, rows = embeddings["word_embeddings"], np.asarray(keep, np.int64)
    pieces = min(leaf.shape[0] for leaf in jax.tree.leaves(words))
    if rows.size == 0 or rows[0] < 0 or rows[-1] >= pieces or np.any(np.diff(rows) <= 0):
        raise UserError(f"vocabulary: the kept ids must increase and lie in 0 to {pieces - 1}")
    return {**params, "embeddings": {**embeddings, "word_embeddings": jax.tree.map(lambda leaf: leaf[rows], words)}}


def piece_counts(tokenizer_json: str, texts: Iterable[tuple[str, ...]]) -> np.ndarray:
    """How often every word piece occurs.

    Args:
      tokenizer_json: the text of a ``tokenizer.json``.
      texts: single texts or pairs; they are not cut.

    Returns:
      int64[largest id + 1]; the tokens that frame a text are not counted.

    Raises:
      UserError: there is no text, or no piece in any.
    """
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    counts = np.zeros(1 + max(tokenizer.get_vocab(with_added_tokens=True).values()), np.int64)
    every = (text for example in texts for text in example)
    while chunk := list(islice(every, _CHUNK)):
        encoded = tokenizer.encode_batch(chunk, add_special_tokens=False)
        counts += np.bincount([i for each in encoded for i in each.ids], minlength=len(counts))
    if not counts.any():
        raise UserError("vocabulary: the corpus has no text, so no word piece can be counted")
    return counts


def special_ids(tokenizer_json: str) -> frozenset[int]:
    """Ids of the special tokens: added ones, those that frame a text, the unknown one and BERT's five by name."""
    content = json.loads(tokenizer_json)
    vocabulary = content["model"]["vocab"]
    named = (*_NAMED_SPECIAL, content["model"].get("unk_token"))
    found = {vocabulary[piece] for piece in named if piece in vocabulary}
    found |= {token["id"] for token in content.get("added_tokens") or []}
    return frozenset(found | set(_framing(content.get("post_processor") or {})))


def required_ids(tokenizer_json: str) -> frozenset[int]:
    """Ids of the pieces that never leave: special tokens, single characters in both forms, and what those cannot spell.

    Raises:
      UserError: the tokenizer's model is no WordPiece.
    """
    model = _word_pieces(json.loads(tokenizer_json))
    vocabulary: dict[str, int] = model["vocab"]
    prefix = model.get("continuing_subword_prefix", "##")
    return special_ids(tokenizer_json) | {i for piece, i in vocabulary.items() if not _is_spelled(piece, vocabulary, prefix)}


def _is_spelled(piece: str, vocabulary: Collection[str], prefix: str) -> bool:
    """Whether a piece of several characters can be written with pieces of one."""
    inside = piece.startswith(prefix) and len(piece) > len(prefix)
    text = piece.removeprefix(prefix) if inside else piece
    first = prefix + text[:1] if inside else text[:1]
    return len(text) > 1 and first in vocabulary and all(prefix + character in vocabulary for character in text[1:])


def choose_pieces(tokenizer_json: str, counts: np.ndarray, size: int = 0, min_count: int = 0) -> np.ndarray:
    """The ids to keep: what is required, and the most frequent of the rest.

    Args:
      tokenizer_json: a WordPiece's.
      counts: int64, see :func:`piece_counts`.
      size: pieces to keep at most, 0 all. Pieces that the corpus lacks fill what is left, those of lower ids first, which are
        the more frequent in BERT's vocabularies; last come those that no text can give, as ``[unused0]``.
      min_count: a piece that occurs less often leaves, unless it is required.

    Returns:
      int32[kept], increasing.

    Raises:
      UserError: ``size`` is less than what is required, or more than there is.
    """
    required = required_ids(tokenizer_json)
    known = np.array(sorted({*json.loads(tokenizer_json)["model"]["vocab"].values(), *required}), np.int64)
    if size > len(known):
        raise UserError(f"vocabulary={size}: the tokenizer has {len(known):,} word pieces; keep fewer, or 0 for all")
    if 0 < size < len(required):
        special = len(special_ids(tokenizer_json))
        raise UserError(
            f"vocabulary={size}: {len(required):,} word pieces must stay, {special} special tokens and "
            f"{len(required) - special:,} single characters and what these cannot spell; keep at least as many"
        )
    frequency = np.zeros(known[-1] + 1, np.int64)
    frequency[: len(counts)] = counts
    rest = np.array([i for i in known if i not in required and frequency[i] >= min_count], np.int64)
    most_frequent = rest[np.lexsort((rest, ~_can_occur(tokenizer_json, rest), -frequency[rest]))]
    room = size - len(required) if size else len(rest)
    return np.sort(np.concatenate([np.array(sorted(required), np.int64), most_frequent[:room]])).astype(np.int32)


def _can_occur(tokenizer_json: str, ids: np.ndarray) -> np.ndarray:
    """Bool per id: whether the piece stays one word under the normalizer and the pre-tokenizer."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    prefix = json.loads(tokenizer_json)["model"].get("continuing_subword_prefix", "##")
    normalizer, splitter = tokenizer.normalizer, tokenizer.pre_tokenizer

    def stays_one(piece: str | None) -> bool:
        text = (piece or "").removeprefix(prefix)
        normal = normalizer.normalize_str(text) if normalizer else text
        words = [word for word, _ in splitter.pre_tokenize_str(normal)] if splitter else [normal]
        return words == [text]

    return np.array([stays_one(tokenizer.id_to_token(int(i))) for i in ids], bool)


def reduced_tokenizer(tokenizer_json: str, keep: Sequence[int] | np.ndarray) -> str:
    """The ``tokenizer.json`` with only the pieces of the ids ``keep``, which become 0, 1, … in that order.

    Raises:
      UserError: the model is no WordPiece, or a special token is not among ``keep``.
    """
    content: dict[str, Any] = json.loads(tokenizer_json)
    model, new = _word_pieces(content), {int(old): i for i, old in enumerate(keep)}
    lost = special_ids(tokenizer_json) - new.keys()
    if lost:
        piece = Tokenizer.from_str(tokenizer_json).id_to_token(min(lost))
        raise UserError(
            f"vocabulary: the special token {piece!r} would be removed; keep all {len(special_ids(tokenizer_json))}"
        )
    kept = sorted((new[i], piece) for piece, i in model["vocab"].items() if i in new)
    model["vocab"] = {piece: i for i, piece in kept}
    for token in content.get("added_tokens") or []:
        token["id"] = new[token["id"]]
    if content.get("padding"):
        content["padding"]["pad_id"] = new.get(content["padding"]["pad_id"], 0)
    if content.get("post_processor"):
        content["post_processor"] = _renumbered(content["post_processor"], new)
    return json.dumps(content, ensure_ascii=False)


def _word_pieces(content: Mapping[str, Any]) -> dict[str, Any]:
    model: dict[str, Any] = content["model"]
    if model.get("type", "WordPiece") != "WordPiece":
        raise UserError(f"vocabulary: the tokenizer's model is {model['type']}, and only a WordPiece can be reduced")
    return model


def _framing(processor: Mapping[str, Any]) -> Iterable[int]:
    """The ids that a post-processor puts around texts."""
    for part in processor.get("processors") or []:
        yield from _framing(part)
    for token in (processor.get("special_tokens") or {}).values():
        yield from token["ids"]
    yield from (processor[side][1] for side in ("cls", "sep") if side in processor)


def _renumbered(processor: Mapping[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    """A post-processor whose tokens have their new ids."""
    changed = dict(processor)
    if processor.get("processors"):
        changed["processors"] = [_renumbered(part, new) for part in processor["processors"]]
    if processor.get("special_tokens"):
        tokens = processor["special_tokens"].items()
        changed["special_tokens"] = {name: {**token, "ids": [new[i] for i in token["ids"]]} for name, token in tokens}
    changed |= {side: [processor[side][0], new[processor[side][1]]] for side in ("cls", "sep") if side in processor}
    return changed
