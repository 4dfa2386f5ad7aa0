"""Lengths that a data set is cut and padded to, where the config leaves them to the data."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xtc_jax.data.lengths import fitted_buckets, fitted_length


def padded(lengths, buckets):
    return sum(min(bucket for bucket in buckets if bucket >= length) for length in lengths)


def test_texts_are_cut_to_the_least_multiple_of_8_that_995_of_1000_fit():
    lengths = np.full(1000, 17)
    assert fitted_length(lengths, 512) == 24
    lengths[:5] = 400
    assert fitted_length(lengths, 512) == 24
    lengths[:6] = 400
    assert fitted_length(lengths, 512) == 400


def test_no_text_is_longer_than_the_model_has_positions():
    assert fitted_length(np.full(10, 900), 510) == 510


def test_two_kinds_of_text_have_a_bucket_each():
    assert fitted_buckets(np.array([7] * 50 + [60] * 50), 64, count=2) == (8, 64)
    assert fitted_buckets(np.array([7] * 50 + [60] * 50), 64, count=1) == (64,)


@given(st.lists(st.integers(1, 70), min_size=1, max_size=40), st.integers(1, 4), st.sampled_from([40, 48, 61]))
def test_no_other_buckets_of_as_many_have_fewer_tokens(lengths, count, most):
    lengths = np.minimum(lengths, most)
    found = fitted_buckets(lengths, most, count)
    widths = [*range(8, most, 8), most]
    others = (chosen for n in range(1, count + 1) for chosen in itertools.combinations(widths, n) if chosen[-1] == most)
    assert len(found) <= count
    assert found[-1] == most
    assert padded(lengths, found) == min(padded(lengths, other) for other in others)
