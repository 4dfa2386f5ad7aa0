"""Variants of texts: which words vary, how often, into what, and that chance is the row's own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtc_jax.augment import STOP_WORDS, Sentence, augment_rows, rounds_of
from xtc_jax.augment.variants import make_sentence, split_words, vary

TEXTS = st.lists(st.sampled_from(["lamp", "kettle", "Bridge", "the", "was", "not", "7", ".", "—"]), max_size=8).map(" ".join)


def three_each(sentences):
    """Three candidates for every word, distinguished from all others by their number."""
    return [{i: [f"{sentence.words[i]}{n}" for n in range(3)] for i in sentence.eligible} for sentence in sentences]


def nothing(sentences):
    return [{} for _ in sentences]


def test_a_text_is_split_like_berts_basic_tokenizer_but_keeps_case_and_accents():
    assert split_words("Don't  touch\tthe Café—it's 3.5% 茶\u00a0!") == (
        *("Don", "'", "t", "touch", "the", "Café", "—", "it", "'", "s", "3", ".", "5", "%", "茶", "!"),
    )
    assert split_words(" \t\n") == ()


@pytest.mark.parametrize(
    ("text", "eligible"),
    [
        ("The warm lamp sang .", ["warm", "lamp", "sang"]),
        ("I couldn't have liked it less , could you ?", ["liked"]),
        ("room 101 costs 5 euros", ["room", "costs", "euros"]),
        ("b2b and x1 plans", ["plans"]),
        ("Zoé naïve", ["Zoé", "naïve"]),
        ("It is what it is .", []),
        ("", []),
    ],
)
def test_eligible_are_alphabetic_words_that_are_no_function_words(text, eligible):
    sentence = make_sentence(text)
    assert [sentence.words[i] for i in sentence.eligible] == eligible


def test_the_stop_words_are_lower_case_words_of_every_kind():
    assert {"the", "she", "would", "under", "because", "not", "never", "didn", "ll"} <= STOP_WORDS
    assert not {"good", "bad", "lamp", "run", "red"} & STOP_WORDS
    assert all(word.isalpha() and word.islower() for word in STOP_WORDS)


def test_the_rounds_are_those_of_the_reference():
    tasks = ("cola", "mrpc", "rte", "stsb", "wnli", "sst2", "qnli", "mnli", "qqp", "mine")
    assert [rounds_of(task) for task in tasks] == [30, 30, 30, 30, 30, 20, 20, 10, 10, 30]


def test_words_are_replaced_with_the_probability_and_uniformly(rng):
    sentence = Sentence(("lamp",) * 50, tuple(range(50)))
    choices = {i: ["a", "b", "c", "d"] for i in range(50)}
    variants = np.array(vary(sentence, choices, 2000, 0.4, rng))
    assert len(variants) == 2000  # 100,000 draws: 5 standard deviations are 0.0077 and 0.0049
    assert np.mean(variants != "lamp") == pytest.approx(0.4, abs=0.0077)
    for word in "abcd":
        assert np.mean(variants == word) == pytest.approx(0.1, abs=0.0049)


@pytest.mark.parametrize(("probability", "variants"), [(0.0, []), (1.0, [("the", "cup")])])
def test_the_probability_may_be_none_or_certain(probability, variants, rng):
    assert vary(make_sentence("the lamp"), {1: ["cup"]}, 30, probability, rng) == variants


@pytest.mark.parametrize("choices", [{}, {1: []}])
def test_a_word_without_candidates_stays(choices, rng):
    assert vary(make_sentence("the lamp"), choices, 30, 1.0, rng) == []


def test_candidates_of_a_word_that_is_not_eligible_are_ignored(rng):
    assert vary(make_sentence("the lamp"), {0: ["a"], 1: ["cup"]}, 5, 1.0, rng) == [("the", "cup")]


def test_a_variant_equal_to_the_sentence_is_none(rng):
    assert vary(make_sentence("the lamp"), {1: ["lamp"]}, 30, 1.0, rng) == []


@settings(deadline=None, max_examples=60)
@given(st.lists(TEXTS, min_size=1, max_size=4), st.integers(0, 5), st.integers(0, 99))
def test_every_variant_is_new_and_differs_from_its_original_in_eligible_words_only(texts, rounds, seed):
    examples = [(text,) for text in texts]
    for (text,), (original, *variants) in zip(
        examples, augment_rows(examples, range(len(texts)), three_each, rounds, 0.5, seed), strict=True
    ):
        assert original == (text,)
        assert len({" ".join(split_words(text)), *(variant for (variant,) in variants)}) == 1 + len(variants)
        assert len(variants) <= rounds
        sentence = make_sentence(text)
        for (variant,) in variants:
            words = variant.split(" ")
            assert len(words) == len(sentence.words)
            for i, (before, after) in enumerate(zip(sentence.words, words, strict=True)):
                allowed = {f"{before}{n}" for n in range(3)} if i in sentence.eligible else set()
                assert after in {before, *allowed}


@settings(deadline=None, max_examples=60)
@given(TEXTS, TEXTS, st.integers(0, 5))
def test_of_a_pair_one_side_varies_while_the_other_is_the_original(first, second, rounds):
    ((original, *variants),) = augment_rows([(first, second)], [3], three_each, rounds, 0.5, 0)
    assert original == (first, second)
    sides = [0 if variant[1] == second and variant[0] != first else 1 for variant in variants]
    assert sides == sorted(sides)
    assert all(variant[1 - side] == original[1 - side] for variant, side in zip(variants, sides, strict=True))
    assert max(sides.count(0), sides.count(1)) <= rounds


def test_the_second_half_of_a_pairs_variants_keeps_the_original_first_text():
    """The reference leaves the first text at its last variant there."""
    ((_, *variants),) = augment_rows([("lamp", "kettle")], [0], three_each, 30, 0.9, 0)
    assert sorted(variants) == sorted([(f"lamp{n}", "kettle") for n in range(3)] + [("lamp", f"kettle{n}") for n in range(3)])


def test_the_original_stands_first_to_the_letter():
    assert augment_rows([("  The lamp,it sang ",)], [0], nothing, 30, 0.4, 0) == [[("  The lamp,it sang ",)]]


def test_a_row_varies_the_same_in_any_company_and_order():
    texts = [(f"warm lamp number {i} , bright kettle",) for i in range(6)]
    whole = augment_rows(texts, range(6), three_each, 5, 0.4, 1)
    assert augment_rows(texts[4:], [4, 5], three_each, 5, 0.4, 1) == whole[4:]
    assert augment_rows(texts[::-1], range(5, -1, -1), three_each, 5, 0.4, 1) == whole[::-1]


def test_seed_and_row_number_both_matter():
    texts = [("warm lamp , bright kettle , brave parrot",)]
    made = {str(augment_rows(texts, [row], three_each, 5, 0.4, seed)) for row in range(3) for seed in range(3)}
    assert len(made) == 9


def test_candidates_are_asked_once_for_distinct_sentences():
    asked = []

    def record(sentences):
        asked.append([" ".join(sentence.words) for sentence in sentences])
        return three_each(sentences)

    augment_rows([("a lamp", "a kettle"), ("a lamp", "a bridge")], [0, 1], record, 2, 0.4, 0)
    assert asked == [["a lamp", "a kettle", "a bridge"]]
