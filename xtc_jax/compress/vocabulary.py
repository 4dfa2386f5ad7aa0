"""Vocabulary reduction: the word pieces that a task does not use leave the embedding table and the tokenizer.

Every single character (``c`` and ``##c``) and every special token stays, and so does a piece that characters cannot
spell, so a word whose rare piece leaves is split further instead of becoming ``[UNK]``. A kept piece keeps its row: the
ids only move up. WordPiece: Wu et al. 2016, "Google's Neural Machine Translation System", section 4.1.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xtc_jax.errors import UserError
from xtc_jax.params import Params

PREFIX = "##"
"""What marks a piece that continues a word, in the vocabularies of BERT."""


def reduce_vocabulary(params: Params, keep: np.ndarray) -> Params:
    """The params with only the rows ``keep`` of the word embedding table, in that order.

    Args:
      params: nested dict with ``embeddings/word_embeddings/weight``, float[pieces, hidden].
      keep: int[kept], old ids, increasing; new id ``i`` is old id ``keep[i]``.

    Raises:
      UserError: an id outside the table, or ids that do not increase.
    """
    embeddings = params["embeddings"]
    words = embeddings["word_embeddings"]
    rows = np.asarray(keep, np.int64)
    if rows.size == 0 or rows[0] < 0 or rows[-1] >= words["weight"].shape[0] or np.any(np.diff(rows) <= 0):
        raise UserError(f"the kept ids must increase and lie in 0 to {words['weight'].shape[0] - 1}")
    return {**params, "embeddings": {**embeddings, "word_embeddings": {**words, "weight": words["weight"][rows]}}}


def always_kept(vocabulary: Mapping[str, int], special: Sequence[str]) -> frozenset[str]:
    """The pieces that never leave: special tokens, single characters in both forms, and what those cannot spell."""

    def stays(piece: str) -> bool:
        inside = piece.startswith(PREFIX) and len(piece) > len(PREFIX)
        text = piece.removeprefix(PREFIX) if inside else piece
        first = (PREFIX if inside else "") + text[:1]
        return len(text) == 1 or first not in vocabulary or any(PREFIX + c not in vocabulary for c in text[1:])

    return frozenset(piece for piece in vocabulary if piece in special or stays(piece))


def reduced_tokenizer(tokenizer_json: str, keep: Sequence[int]) -> str:
    """The ``tokenizer.json`` with only the pieces of the ids ``keep``, numbered 0, 1, … in that order.

    Args:
      tokenizer_json: the text of a ``tokenizer.json`` whose model is a WordPiece.
      keep: old ids, increasing.

    Raises:
      UserError: another model than WordPiece, or a special token is not among ``keep``.
    """
    content: dict[str, Any] = json.loads(tokenizer_json)
    model = content["model"]
    if model.get("type", "WordPiece") != "WordPiece":
        raise UserError(f"tokenizer.json: its model is {model['type']}; the vocabulary of a WordPiece alone can be reduced")
    new = {int(old): i for i, old in enumerate(keep)}
    missing = [token["content"] for token in content.get("added_tokens", []) if token["id"] not in new]
    if missing:
        raise UserError(f"the reduced vocabulary leaves out the special token {missing[0]!r}; keep it")
    model["vocab"] = {piece: new[i] for piece, i in sorted(model["vocab"].items(), key=lambda item: item[1]) if i in new}
    for token in content.get("added_tokens", []):
        token["id"] = new[token["id"]]
    for token in ((content.get("post_processor") or {}).get("special_tokens") or {}).values():
        token["ids"] = [new[i] for i in token["ids"]]
    for side in ("sep", "cls"):
        if side in (content.get("post_processor") or {}):
            piece, old = content["post_processor"][side]
            content["post_processor"][side] = [piece, new[old]]
    return json.dumps(content, ensure_ascii=False)
