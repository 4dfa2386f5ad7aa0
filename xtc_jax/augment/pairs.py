"""New pairs for a teacher to judge: texts of the training data with other texts that they resemble.

A student of a few thousand pairs learns them by heart. Distillation needs no labels, so pairs that nobody has labelled teach
as well, if they are such as the task has: two texts drawn at random hardly ever resemble each other, pairs found by their
similarity do (Thakur et al. 2021, "Augmented SBERT", arXiv 2010.08240, where a model of sentences learns from such pairs).
"""

from collections.abc import Iterator, Sequence

import numpy as np

_NEIGHBOURS = 4
"""Most new pairs that a text gets from its own side; those further down resemble it less and less."""

Pair = tuple[str, str]


def resembling_pairs(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """At most ``count`` pairs of a first text and a second text of ``pairs`` that are no pair there, the most similar first.

    Similar is what shares rare words: the cosine of TF-IDF vectors. Every text gets its nearest one before any gets its second
    nearest. The two sides are kept apart, for they need not be of one kind (a question and an answer). Pairs without a common
    word and pairs of equal texts are none. The result depends on nothing but the arguments.

    >>> resembling_pairs([("a red car", "an old car"), ("a new car", "my boat")], 9)
    [('a new car', 'an old car')]
    """
    found: dict[Pair, None] = {}
    seen = {*pairs, *((second, first) for first, second in pairs)}
    for pair in _candidates(pairs):
        if len(found) >= count:
            break
        if pair[0] != pair[1] and pair not in seen and pair[::-1] not in found:
            found[pair] = None
    return list(found)


def _candidates(pairs: Sequence[Pair]) -> Iterator[Pair]:
    """The nearest neighbours, rank by rank: of all first texts, then of all second texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.neighbors import NearestNeighbors

    firsts, seconds = (list(dict.fromkeys(side)) for side in zip(*pairs, strict=True))
    try:
        vectors = TfidfVectorizer(sublinear_tf=True).fit([*firsts, *seconds])
    except ValueError:  # no text has a word
        return
    sides = firsts, seconds
    near = []
    for side, other in (sides, sides[::-1]):
        nearest = NearestNeighbors(n_neighbors=min(_NEIGHBOURS, len(other)), metric="cosine").fit(vectors.transform(other))
        near.append(nearest.kneighbors(vectors.transform(side)))
    for rank in range(_NEIGHBOURS):
        for (distances, numbers), (side, other) in zip(near, (sides, sides[::-1]), strict=True):
            if rank >= numbers.shape[1]:
                continue
            for i in np.flatnonzero(distances[:, rank] < 1):
                pair = side[i], other[numbers[i, rank]]
                yield pair if side is firsts else pair[::-1]
