"""Where candidates come from: the masked language model's guesses, and the neighbours in the table of words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from xtc_jax.augment.candidates import make_candidates, make_query, nearest_words
from xtc_jax.augment.variants import make_sentence
from xtc_jax.bert import masked_lm_logits
from xtc_jax.errors import UserError

NAMES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lamp", "Lamp", "lantern", "kettle", "##s", "7", "sing", "##ing", "un"]
SPECIAL = {"[CLS]": 2, "[SEP]": 3, "[MASK]": 4}


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(np.asarray, toy.params(toy.FULL_SIZE, 7) | toy.masked_lm_head(toy.FULL_SIZE))


@pytest.fixture(scope="module")
def headless(params):
    return {name: leaf for name, leaf in params.items() if name != "cls"}


def table(**rows):
    """Params with a table of two dimensions, zero but for the rows named."""
    weight = np.zeros((len(NAMES), 2), np.float32)
    for name, row in rows.items():
        weight[NAMES.index(name)] = row
    return {"embeddings": {"word_embeddings": {"weight": weight}}}


def test_a_query_is_the_masked_sentence_and_the_sentence():
    pieces = {"lamps": (5, 9), "sing": (11,), ".": (1,)}
    query = make_query(("lamps", "sing", "."), 1, pieces, SPECIAL, 16)
    assert query.ids.tolist() == [2, 5, 9, 4, 1, 3, 5, 9, 11, 1, 3]
    assert query.types.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert query.position == 3


def test_a_query_is_cut_and_a_mask_beyond_the_cut_is_none():
    pieces = {"lamp": (5,), "sing": (11,)}
    words = ("lamp", "lamp", "sing")
    assert make_query(words, 2, pieces, SPECIAL, 6).ids.tolist() == [2, 5, 5, 4, 3, 5]
    assert make_query(words, 2, pieces, SPECIAL, 4).ids.tolist() == [2, 5, 5, 4]
    assert make_query(words, 2, pieces, SPECIAL, 3) is None


def test_a_word_of_one_piece_gets_the_best_pieces_at_its_mask(params):
    """Computed here for one word alone, unpadded and unbatched."""
    sentence = make_sentence("the lamp was bright")
    (choices,) = make_candidates(toy.FULL_SIZE, params, toy.tokenizer(), 6, 32)([sentence])
    ids = {name: i for i, name in enumerate(toy.VOCABULARY)}
    original = [ids[word] for word in sentence.words]
    masked = [original[0], ids["[MASK]"], *original[2:]]
    row = jnp.array([[ids["[CLS]"], *masked, ids["[SEP]"], *original, ids["[SEP]"]]])
    types = jnp.array([[0] * 6 + [1] * 5])
    logits = masked_lm_logits(toy.FULL_SIZE, jax.tree.map(jnp.asarray, params), row, types, jnp.ones_like(row), jnp.array([2]))
    best = [toy.VOCABULARY[i] for i in np.argsort(-np.asarray(logits[0]))[:6]]
    assert list(choices[1]) == [name for name in best if not name.startswith("[")]
    assert choices.keys() == {1, 3}


def test_special_tokens_and_continuations_are_dropped(params):
    sentence = make_sentence("the lamp was bright")
    tokenizer = toy.tokenizer()
    (choices,) = make_candidates(toy.FULL_SIZE, params, tokenizer, len(toy.VOCABULARY), 32)([sentence])
    assert sorted(choices[1]) == sorted(name for name in toy.VOCABULARY if not name.startswith("["))
    assert "lamp" in choices[1]  # of the model's guesses the word itself may be one


def test_title_case_is_carried_over(params, headless):
    for source in (params, headless):
        plain, titled = make_candidates(toy.FULL_SIZE, source, toy.tokenizer(), 5, 32)(
            [make_sentence("the lamp"), make_sentence("the Lamp")]
        )
        assert plain[1]
        assert [word.capitalize() for word in plain[1]] == list(titled[1])


def test_the_same_sentences_get_the_same_candidates_and_others_make_no_difference(params):
    sentences = [make_sentence(text) for text, _ in toy.sentences(40, 3)]
    candidates = make_candidates(toy.FULL_SIZE, params, toy.tokenizer(), 8, 32)
    whole = candidates(sentences)
    assert candidates(sentences) == whole
    assert make_candidates(toy.FULL_SIZE, params, toy.tokenizer(), 8, 32)(sentences[30:]) == whole[30:]


def test_beyond_the_length_there_are_no_candidates(params):
    (choices,) = make_candidates(toy.FULL_SIZE, params, toy.tokenizer(), 5, 4)([make_sentence("lamp kettle puppet garden")])
    assert {i: bool(words) for i, words in choices.items()} == {0: True, 1: True, 2: True, 3: False}


def test_without_the_head_the_nearest_words_are_taken(headless):
    weight = headless["embeddings"]["word_embeddings"]["weight"]
    (choices,) = make_candidates(toy.FULL_SIZE, headless, toy.tokenizer(), 5, 32)([make_sentence("lamp")])
    unit = weight / np.linalg.norm(weight, axis=1, keepdims=True)
    order = np.argsort(-(unit @ unit[toy.VOCABULARY.index("lamp")]))
    assert list(choices[0]) == [name for name in np.array(toy.VOCABULARY)[order] if name.isalpha() and name != "lamp"][:5]


def test_without_sentences_and_without_eligible_words_there_is_nothing_to_do(params):
    candidates = make_candidates(toy.FULL_SIZE, params, toy.tokenizer(), 5, 32)
    assert candidates([]) == []
    assert candidates([make_sentence("it was the ."), make_sentence("")]) == [{}, {}]


def test_neighbours_are_whole_words_by_cosine_nearest_first():
    rows = {"lamp": (1, 0), "lantern": (9, 1), "kettle": (1, 1), "un": (0, 1), "##s": (1, 0), "7": (1, 0), "[PAD]": (1, 0)}
    nearest = nearest_words(table(**rows, sing=(-1, 0)), NAMES, 4)
    assert nearest({"lamp": (5,)}) == {"lamp": ("lantern", "kettle", "un", "sing")}


def test_a_word_of_several_pieces_is_their_mean_and_they_are_left_out():
    nearest = nearest_words(table(un=(2, 0), **{"##s": (0, 2)}, lamp=(0, 3), kettle=(3, 3), sing=(3, 0)), NAMES, 2)
    assert nearest({"uns": (13, 9)})["uns"][0] == "kettle"
    assert "un" not in nearest({"uns": (13, 9)})["uns"]


def test_a_word_is_not_its_own_neighbour_however_it_is_written():
    found = nearest_words(table(lamp=(1, 0), Lamp=(1, 0), lantern=(1, 1)), NAMES, 9)({"LAMP": (5,)})["LAMP"]
    assert found[0] == "lantern"
    assert not {"lamp", "Lamp"} & set(found)


def test_an_unknown_word_has_no_neighbours():
    assert nearest_words(table(lamp=(1, 0)), NAMES, 3)({"茶": (1,)}) == {}


def test_more_words_than_a_batch_are_all_answered():
    nearest = nearest_words(table(lamp=(1, 0), lantern=(9, 1), kettle=(0, 1)), NAMES, 1)
    found = nearest({f"word{i}": (5,) for i in range(130)})
    assert len(found) == 130
    assert set(found.values()) == {("lantern",)}


def test_a_tokenizer_without_a_mask_is_refused(params):
    other = Tokenizer(models.WordPiece({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2}, unk_token="[UNK]"))
    with pytest.raises(UserError, match=r"tokenizer has no \[MASK\] token"):
        make_candidates(toy.FULL_SIZE, params, other, 5, 32)


def test_padding_and_truncation_of_the_tokenizer_do_not_matter(params):
    sentence, tokenizer = make_sentence("the lamp was bright and the kettle sang"), toy.tokenizer()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=20)
    one, other = (make_candidates(toy.FULL_SIZE, params, t, 5, 32)([sentence]) for t in (tokenizer, toy.tokenizer()))
    assert one == other


def test_words_in_pieces_take_neighbours_beside_the_models_guesses(params):
    names = [*toy.VOCABULARY[:-2], "##s", "##ing"]
    tokenizer = Tokenizer(models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    (choices,) = make_candidates(toy.FULL_SIZE, params, tokenizer, 5, 32)([make_sentence("lamps warm")])
    pieces = (names.index("lamp"), names.index("##s"))
    assert choices[0] == nearest_words(params, names, 5)({"lamps": pieces})["lamps"]
    assert len(choices[0]) == 5
    assert choices[1]
