"""Word pieces: a tokenizer of a dozen words, and the quick start's."""

import json
import shutil

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from xtc_jax.data import check_vocabulary, load_tokenizer, pinned_directory, tokenize
from xtc_jax.data.tokens import CHUNK, Ragged
from xtc_jax.errors import UserError

VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "bird", "##s", "sing", "at", "dawn", ".")
CLS, SEP, THE, BIRD, S, SING, AT, DAWN, STOP, UNK = 2, 3, 5, 6, 7, 8, 9, 10, 11, 1


@pytest.fixture
def tokenizer():
    ids = {word: i for i, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    return tokenizer


def lists(arrays):
    return [array.tolist() for array in arrays]


def test_one_text_stands_between_cls_and_sep(tokenizer):
    tokens = tokenize(tokenizer, [("The birds sing.",), ("bird",)], 16)
    assert lists(tokens.input_ids) == [[CLS, THE, BIRD, S, SING, STOP, SEP], [CLS, BIRD, SEP]]
    assert lists(tokens.token_type_ids) == [[0] * 7, [0] * 3]
    assert tokens.lengths.tolist() == [7, 3]
    assert {array.dtype for array in tokens.input_ids} == {np.dtype(np.int32)}
    assert {array.dtype for array in tokens.token_type_ids} == {np.dtype(np.int8)}


def test_a_pair_has_two_seps_and_two_segments(tokenizer):
    tokens = tokenize(tokenizer, [("the bird", "sing at dawn")], 16)
    assert lists(tokens.input_ids) == [[CLS, THE, BIRD, SEP, SING, AT, DAWN, SEP]]
    assert lists(tokens.token_type_ids) == [[0, 0, 0, 0, 1, 1, 1, 1]]


def test_a_word_without_pieces_is_unknown(tokenizer):
    assert lists(tokenize(tokenizer, [("the owl",)], 16).input_ids) == [[CLS, THE, UNK, SEP]]


def test_an_empty_text_is_cls_and_sep(tokenizer):
    assert lists(tokenize(tokenizer, [("",)], 16).input_ids) == [[CLS, SEP]]


def test_a_long_text_is_cut_and_keeps_its_sep(tokenizer):
    assert lists(tokenize(tokenizer, [("the birds sing at dawn",)], 5).input_ids) == [[CLS, THE, BIRD, S, SEP]]


def test_of_a_long_pair_the_longer_side_is_cut_first(tokenizer):
    tokens = tokenize(tokenizer, [("the birds sing at dawn.", "sing"), ("sing", "the birds sing at dawn.")], 7)
    assert lists(tokens.input_ids) == [[CLS, THE, BIRD, S, SEP, SING, SEP], [CLS, SING, SEP, THE, BIRD, S, SEP]]
    assert lists(tokens.token_type_ids) == [[0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1, 1]]


def test_nothing_is_padded_whatever_the_tokenizer_was_saved_with(tokenizer):
    tokenizer.enable_padding(length=12)
    assert tokenize(tokenizer, [("bird",), ("the bird",)], 16).lengths.tolist() == [3, 4]


def test_a_tokenizer_file_is_read(tokenizer, tmp_path):
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    texts = [("The birds sing at dawn.", "the owl")]
    expected = tokenize(tokenizer, texts, 16)
    assert lists(tokenize(load_tokenizer(tmp_path), texts, 16).input_ids) == lists(expected.input_ids)


@pytest.mark.parametrize("settings", [None, {"do_lower_case": True}, {"do_lower_case": False}], ids=str)
def test_a_vocabulary_alone_is_read_with_the_case_of_its_config(tokenizer, tmp_path, settings):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    if settings is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **settings}))
    lower = settings is None or settings["do_lower_case"]
    tokens = tokenize(load_tokenizer(tmp_path), [("The birds sing", "at DAWN.")], 16)
    expected = [CLS, THE, BIRD, S, SING, SEP, AT, DAWN, STOP, SEP]
    if not lower:
        expected = [UNK if token in (THE, DAWN) else token for token in expected]
    assert lists(tokens.input_ids) == [expected]
    assert lists(tokens.token_type_ids) == [[0] * 6 + [1] * 4]


def test_a_directory_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer\.json and no vocab\.txt in it") as refused:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(refused.value)


@pytest.mark.parametrize("content", ["", "{", '{"model": {}}'])
def test_a_damaged_tokenizer_file_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match="the tokenizer cannot be read") as refused:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(refused.value)


class Counting:
    """A tokenizer that counts the texts of every call."""

    def __init__(self, tokenizer):
        self.tokenizer, self.calls = tokenizer, []

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def encode_batch(self, texts):
        self.calls.append(len(texts))
        return self.tokenizer.encode_batch(texts)


@pytest.mark.parametrize("count", [0, 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5])
def test_texts_are_tokenized_in_chunks_and_come_out_as_if_they_were_not(tokenizer, count):
    texts = [("the bird", "sing at dawn") if i % 3 else ("the birds", ".") for i in range(count)]
    counting = Counting(tokenizer)
    tokens = tokenize(counting, texts, 7)
    assert max(counting.calls, default=0) <= CHUNK
    assert sum(counting.calls) == len(tokens.input_ids) == len(tokens.token_type_ids) == len(tokens.lengths) == count
    whole = tokenizer.encode_batch(texts)
    assert lists(tokens.input_ids) == [one.ids for one in whole]
    assert lists(tokens.token_type_ids) == [one.type_ids for one in whole]
    assert tokens.lengths.tolist() == [len(one.ids) for one in whole]


def test_vectors_that_are_stored_end_to_end_are_found_one_by_one():
    ragged = Ragged(np.array([1, 2, 3, 4, 5]), np.array([0, 2, 2, 5]))
    assert lists(ragged) == lists(ragged[:]) == [[1, 2], [], [3, 4, 5]]
    assert ragged[-1].tolist() == [3, 4, 5]
    assert np.shares_memory(ragged[0], ragged.values)
    for beyond in (3, -4):
        with pytest.raises(IndexError):
            ragged[beyond]


def test_a_tokenizer_that_fails_on_a_text_is_the_users_to_mend():
    without = Tokenizer(models.WordPiece({"[CLS]": 0, "[SEP]": 1, "the": 2}, unk_token="[UNK]"))
    without.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    with pytest.raises(UserError, match="the model's tokenizer cannot read a text"):
        tokenize(without, [("an owl",)], 8)


def test_a_tokenizer_that_fits_the_tables_of_a_model_passes(tokenizer):
    check_vocabulary(tokenizer, len(VOCABULARY), 2, 2, "here")
    check_vocabulary(tokenizer, 99, 1, 1, "here")


@pytest.mark.parametrize("added", [(), ("<new>",)], ids=["vocabulary", "added token"])
def test_word_pieces_beyond_the_table_are_refused_by_name(tokenizer, added):
    tokenizer.add_tokens(list(added))
    beyond = ["dawn", ".", *added]
    named = ", ".join(f"{piece!r} ({tokenizer.token_to_id(piece)})" for piece in beyond)
    with pytest.raises(UserError) as refused:
        check_vocabulary(tokenizer, 10, 2, 1, "model x")
    assert str(refused.value).startswith(
        f"model x: its tokenizer has {len(beyond)} word pieces beyond the vocab_size of 10: {named}"
    )


def test_a_token_that_the_template_adds_beyond_the_table_is_refused(tokenizer):
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 77), ("[CLS]", CLS))
    with pytest.raises(UserError, match="model x: its tokenizer adds token 77, and the vocab_size is 12"):
        check_vocabulary(tokenizer, 12, 2, 1, "model x")


def test_a_pair_needs_two_segments(tokenizer):
    with pytest.raises(UserError, match="model x: 2 texts need 2 segments, and its type_vocab_size is 1"):
        check_vocabulary(tokenizer, 12, 1, 2, "model x")


TEXTS = [
    ("A plain English sentence, with commas; and a full stop.",),
    ("Çafé Ünïcode — naïve résumé",),
    ("短い 文",),
    ("antidisestablishmentarianism isn't e-mail@home",),
    ("", "An empty first side"),
    ("UPPER lower MiXeD", "1,234.56 dollars"),
]


@pytest.mark.pinned
def test_the_vocabulary_of_the_quick_start_tokenizes_like_its_tokenizer_file(tmp_path):
    source = pinned_directory("pinned:all-MiniLM-L6-v2")
    shutil.copy(source / "vocab.txt", tmp_path)
    fast, slow = (tokenize(load_tokenizer(directory), TEXTS, 64) for directory in (source, tmp_path))
    assert lists(fast.input_ids) == lists(slow.input_ids)
    assert lists(fast.token_type_ids) == lists(slow.token_type_ids)


@pytest.mark.pinned
def test_the_quick_start_tokenizes_like_transformers():
    from transformers import AutoTokenizer

    source = pinned_directory("pinned:all-MiniLM-L6-v2")
    reference, tokens = AutoTokenizer.from_pretrained(source), tokenize(load_tokenizer(source), TEXTS, 12)
    for text, ids, types in zip(TEXTS, tokens.input_ids, tokens.token_type_ids, strict=True):
        expected = reference(*text, truncation=True, max_length=12)
        assert (ids.tolist(), types.tolist()) == (expected["input_ids"], expected["token_type_ids"])
