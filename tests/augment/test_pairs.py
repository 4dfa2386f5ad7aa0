"""New pairs of the training texts: what resembles what, once each, and never a pair that is there already."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from xtc_jax.augment import resembling_pairs

PAIRS = [
    ("a man plays the guitar", "the guitar is played by a man"),
    ("a woman plays the violin", "someone plays a violin"),
    ("two dogs run in the snow", "dogs are running through snow"),
    ("prices of oil rise", "oil gets more expensive"),
]
WORDS = st.lists(st.sampled_from(["lamp", "kettle", "bridge", "warm", "old"]), min_size=1, max_size=4).map(" ".join)


def test_texts_that_share_rare_words_come_first():
    found = resembling_pairs(PAIRS, 100)
    assert found[0] == ("a man plays the guitar", "someone plays a violin")
    assert ("two dogs run in the snow", "oil gets more expensive") not in found, "they share no word"


def test_no_more_pairs_are_made_than_asked_for_and_those_of_a_smaller_number_are_the_first_of_a_larger():
    few, many = resembling_pairs(PAIRS, 2), resembling_pairs(PAIRS, 100)
    assert len(few) == 2 < len(many)
    assert many[:2] == few
    assert resembling_pairs(PAIRS, 0) == resembling_pairs(PAIRS, -5) == []


def test_texts_without_a_word_have_no_pairs():
    assert resembling_pairs([("?", "!"), ("...", "—")], 9) == []


def test_equal_texts_and_a_known_pair_the_other_way_round_are_no_new_pairs():
    assert resembling_pairs([("warm lamp", "old lamp"), ("old lamp", "warm lamp")], 9) == []


@settings(max_examples=50, deadline=None)
@given(pairs=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=8), count=st.integers(0, 40))
def test_a_new_pair_is_a_first_and_a_second_text_once(pairs, count):
    found = resembling_pairs(pairs, count)
    assert len(found) <= count
    assert len({frozenset(pair) for pair in found}) == len(found)
    firsts, seconds = map(set, zip(*pairs, strict=True))
    for first, second in found:
        assert first in firsts
        assert second in seconds
        assert first != second
        assert (first, second) not in pairs
        assert set(first.split()) & set(second.split())
    assert found == resembling_pairs(pairs, count)


def test_no_text_has_more_than_its_four_nearest():
    pairs = [(f"lamp number{i}", f"lamp colour{i}") for i in range(30)]
    found = resembling_pairs(pairs, 10_000)
    assert len(found) <= 2 * 4 * len(pairs)
    assert np.unique([first for first, _ in found]).size == 30
