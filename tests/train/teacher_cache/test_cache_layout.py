import numpy as np
import pytest

from xtc_jax.train.teacher_cache.layout import HEADER, decode, encode, is_whole, make_layout

TOKENS = np.array([3, 5, 1])


@pytest.fixture
def arrays(rng):
    """Logits, a hidden state and attention scores of 3 rows of 6, 0 at padding."""
    hidden, scores = rng.normal(size=(3, 6, 4)), rng.normal(size=(3, 2, 6, 6))
    for row, count in enumerate(TOKENS):
        hidden[row, count:], scores[row, :, count:], scores[row, :, :, count:] = 0, 0, 0
    return [rng.normal(size=(3, 2)).astype(np.float32), hidden.astype(np.float16), scores.astype(np.float32)]


def test_an_entry_takes_the_bytes_of_its_real_tokens_and_begins_at_a_multiple_of_64(arrays):
    layout = make_layout(arrays, TOKENS)
    expected = [HEADER + 4 * 2 + 2 * 4 * n + 4 * 2 * n * n for n in (3, 5, 1)]
    assert [layout.entry_bytes(example) for example in range(3)] == expected == [112, 256, 32]
    assert layout.offsets.tolist() == [0, 128, 384, 448]
    assert layout.size == 448


def test_what_is_decoded_is_what_was_encoded_at_any_row_and_width(arrays):
    layout = make_layout(arrays, TOKENS)
    for example, row in ((0, 2), (1, 0), (2, 1)):
        entry = encode(layout, example, [array[[0, 1, 2]] for array in arrays], example)
        assert is_whole(entry, example)
        wide = [np.zeros((3, 2), np.float32), np.zeros((3, 8, 4), np.float16), np.zeros((3, 2, 8, 8), np.float32)]
        decode(layout, example, entry, wide, row)
        for array, found, cut in zip(arrays, wide, ((), np.s_[:6], np.s_[:, :6, :6]), strict=True):
            assert found[row][cut].tobytes() == np.ascontiguousarray(array[example]).tobytes()
            assert np.count_nonzero(found) == np.count_nonzero(array[example])


def test_every_changed_byte_and_another_example_are_recognised_and_zeros_are_no_entry(arrays):
    entry = encode(make_layout(arrays, TOKENS), 1, arrays, 1)
    assert not is_whole(entry, 0)
    assert not is_whole(np.zeros_like(entry), 0)
    for place in range(len(entry)):
        damaged = entry.copy()
        damaged[place] ^= 1
        assert not is_whole(damaged, 1)
