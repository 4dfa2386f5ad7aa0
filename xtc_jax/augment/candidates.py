"""Words that may stand for another word: what a masked language model guesses, or the nearest word embeddings.

TinyBERT (Jiao et al. 2020, algorithm 1) asks BERT for a word that is one piece and GloVe for one of several. Here the
model's own table of word embeddings takes the place of GloVe: it is in every checkpoint, so nothing is downloaded, and
a checkpoint without a masked-language-model head can be used as well.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from xtc_jax.augment.variants import Candidates, Choices, Sentence
from xtc_jax.bert import MASKED_LM, BertConfig, masked_lm_logits
from xtc_jax.data import Dataset, Tokens, default_buckets, eval_batches
from xtc_jax.errors import UserError
from xtc_jax.params import Params

_BATCH = 32
_SPARE = 8
"""Neighbours asked for beyond those wanted: the word itself, however it is written, and its own pieces are left out."""
Pieces = tuple[int, ...]


@dataclass(frozen=True)
class _Query:
    """A sentence with one word masked: ``[CLS] masked [SEP] original [SEP]``, and where the mask stands."""

    ids: np.ndarray
    types: np.ndarray
    position: int


def make_candidates(config: BertConfig, params: Params, tokenizer: Tokenizer, most: int, max_length: int) -> Candidates:
    """Where the candidates of :func:`xtc_jax.augment.augment_rows` come from.

    A word of one piece gets the ``most`` pieces that the masked language model finds most probable, given
    ``[CLS] sentence with [MASK] [SEP] sentence [SEP]``, less those that only go on a word (``##``) and special ones;
    the word itself may be among them. A word of several pieces, and every word where ``params`` have no such head,
    gets the ``most`` nearest whole words, see :func:`nearest_words`. Title case is carried over.

    The answer depends on the sentences of the call alone (their batches are computed from nothing else), so that
    any process that is given the same sentences gets the same candidates.

    Args:
      config: shape of the model.
      params: ``embeddings`` and, for the masked language model, ``encoder`` and ``cls``; any float dtype.
      tokenizer: of the model; its padding and truncation are turned off.
      most: candidates of a word.
      max_length: tokens that a query is cut to; a mask beyond them gets no candidates.

    Raises:
      UserError: the tokenizer lacks one of the special tokens.
    """
    tokenizer.no_padding()
    tokenizer.no_truncation()
    names = [tokenizer.id_to_token(i) or "" for i in range(config.vocab_size)]
    special = {token: _special(tokenizer, token) for token in ("[CLS]", "[SEP]", "[MASK]")}
    nearest = nearest_words(params, names, most)
    guess = _guesser(config, params, min(most, config.vocab_size), max_length) if MASKED_LM in params else None

    def candidates(sentences: Sequence[Sentence]) -> list[Choices]:
        pieces = _pieces(tokenizer, sentences)
        wanted = [(row, i) for row, sentence in enumerate(sentences) for i in sentence.eligible if pieces[sentence.words[i]]]
        masked = [(row, i) for row, i in wanted if guess and len(pieces[sentences[row].words[i]]) == 1]
        others = sorted({sentences[row].words[i] for row, i in set(wanted) - set(masked)})
        neighbours = nearest({word: pieces[word] for word in others})
        found: list[dict[int, tuple[str, ...]]] = [{} for _ in sentences]
        for row, i in wanted:
            word = sentences[row].words[i]
            found[row][i] = _in_case_of(word, neighbours.get(word, ()))
        if guess:
            queries = [make_query(sentences[row].words, i, pieces, special, max_length) for row, i in masked]
            for (row, i), top in zip(masked, guess(queries), strict=True):
                words = [names[piece] for piece in top if _is_word(names[piece])]
                found[row][i] = _in_case_of(sentences[row].words[i], words)
        return list(found)

    return candidates


def _special(tokenizer: Tokenizer, token: str) -> int:
    number = tokenizer.token_to_id(token)
    if number is None:
        raise UserError(f"the model's tokenizer has no {token} token; augmentation needs the tokenizer of a BERT")
    return int(number)


def _pieces(tokenizer: Tokenizer, sentences: Sequence[Sentence]) -> dict[str, Pieces]:
    words = list(dict.fromkeys(word for sentence in sentences for word in sentence.words))
    encoded = tokenizer.encode_batch(words, add_special_tokens=False)
    return {word: tuple(e.ids) for word, e in zip(words, encoded, strict=True)}


def _is_word(piece: str) -> bool:
    """Neither the continuation of a word nor a special or unused token."""
    return bool(piece) and not piece.startswith("##") and not (piece[0] == "[" and piece[-1] == "]" and len(piece) > 1)


def _in_case_of(word: str, candidates: Sequence[str]) -> tuple[str, ...]:
    """The distinct candidates, with a capital where ``word`` is in title case."""
    written = (found[:1].upper() + found[1:] if word.istitle() else found for found in candidates)
    return tuple(dict.fromkeys(written))


def make_query(
    words: Sequence[str], at: int, pieces: Mapping[str, Pieces], special: Mapping[str, int], max_length: int
) -> _Query | None:
    """The masked language model's input for the word ``at``, of one piece; None where the mask is cut off."""
    before = [piece for word in words[:at] for piece in pieces[word]]
    after = [piece for word in words[at + 1 :] for piece in pieces[word]]
    position = 1 + len(before)
    if position >= max_length:
        return None
    masked = [special["[CLS]"], *before, special["[MASK]"], *after, special["[SEP]"]]
    original = [*before, *pieces[words[at]], *after, special["[SEP]"]]
    types = [0] * len(masked) + [1] * len(original)
    return _Query(np.array(masked + original, np.int32)[:max_length], np.array(types, np.int32)[:max_length], position)


def _buckets(max_length: int) -> tuple[int, ...]:
    """16, 24, 32, 48, 64, … up to ``max_length``: twice as many shapes to compile, half as much padding."""
    doubling = default_buckets(max_length)
    return tuple(sorted({*doubling, *(3 * length // 2 for length in doubling if 3 * length // 2 < max_length)}))


def _guesser(
    config: BertConfig, params: Params, most: int, max_length: int
) -> Callable[[Sequence[_Query | None]], list[Sequence[int]]]:
    """``guess(queries)``: for each the ``most`` best pieces at the mask, best first; none for None."""
    used = _float32({name: params[name] for name in ("embeddings", "encoder", MASKED_LM)})

    @jax.jit
    def best(params: Params, ids: jax.Array, types: jax.Array, mask: jax.Array, positions: jax.Array) -> jax.Array:
        return jax.lax.top_k(masked_lm_logits(config, params, ids, types, mask, positions), most)[1]

    def guess(queries: Sequence[_Query | None]) -> list[Sequence[int]]:
        found: list[Sequence[int]] = [()] * len(queries)
        asked = [i for i, query in enumerate(queries) if query]
        real = [query for query in queries if query]
        tokens = Tokens([query.ids for query in real], [query.types for query in real])
        positions = np.array([query.position for query in real], np.int32)
        dataset = Dataset(tokens, positions, _BATCH, _buckets(max_length), config.pad_token_id)
        for batch in eval_batches(dataset) if real else ():  # the labels of this data set are its positions
            names = ("input_ids", "token_type_ids", "attention_mask", "labels")
            top = np.asarray(best(used, *(batch[name] for name in names)))
            for row in np.flatnonzero(batch["valid"]):
                found[asked[batch["index"][row]]] = top[row].tolist()
        return found

    return guess


def nearest_words(
    params: Params, names: Sequence[str], most: int
) -> Callable[[Mapping[str, Pieces]], dict[str, tuple[str, ...]]]:
    """``nearest(words)``: for each word, given with its pieces, the whole words whose embeddings have the highest cosine.

    Whole words are the alphabetic entries of the vocabulary. A word of several pieces is represented by the mean of
    their rows. The word itself and its own pieces are left out; a word with an unknown piece has no neighbours.

    Args:
      params: of the model; the table is ``embeddings/word_embeddings/weight``.
      names: the vocabulary, in the order of the table's rows.
      most: neighbours of a word, nearest first.
    """
    table = np.asarray(params["embeddings"]["word_embeddings"]["weight"], np.float32)
    whole = np.array([i for i, name in enumerate(names) if name.isalpha()], np.int64)
    # The cosine, up to the length of the word's own vector, which does not change the order.
    unit = jnp.asarray(table[whole] / np.maximum(np.linalg.norm(table[whole], axis=1, keepdims=True), 1e-12))

    @jax.jit
    def best(unit: jax.Array, vectors: jax.Array) -> jax.Array:
        return jax.lax.top_k(vectors @ unit.T, min(most + _SPARE, len(whole)))[1]

    def nearest(words: Mapping[str, Pieces]) -> dict[str, tuple[str, ...]]:
        known = {word: pieces for word, pieces in words.items() if not any(names[i] == "[UNK]" for i in pieces)}
        found: dict[str, tuple[str, ...]] = {}
        for start in range(0, len(known), _BATCH):
            chunk = list(known.items())[start : start + _BATCH]
            vectors = np.zeros((_BATCH, table.shape[1]), np.float32)  # one shape, one compilation
            for row, (_, pieces) in enumerate(chunk):
                vectors[row] = table[list(pieces)].mean(axis=0)
            for (word, pieces), top in zip(chunk, np.asarray(best(unit, vectors)), strict=False):
                itself = {word.casefold(), *(names[i].casefold() for i in pieces)}
                others = [names[whole[i]] for i in top if names[whole[i]].casefold() not in itself]
                found[word] = tuple(others[:most])
        return found

    return nearest


def _float32(params: Any) -> Params:
    converted: Params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    return converted
