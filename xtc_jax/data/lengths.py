"""The lengths that a data set is cut and padded to, where the config leaves them to the data."""

import math

import numpy as np

_MULTIPLE = 8
"""Lengths are multiples of it: rows of whole vectors."""
_WHOLE = 0.995
"""Share of the texts that are not cut."""
_BUCKETS = 5
"""Padded lengths, each compiled for every stage. Five have 5 (CoLA) to 20 % (SST-2) fewer tokens than three."""


def fitted_length(lengths: np.ndarray, most: int) -> int:
    """The length that texts are cut to: the least multiple of 8 that 99.5 % of them fit, at most ``most``.

    Args:
      lengths: int ``(examples,)``, tokens of every text, not cut.
      most: positions that the model has.
    """
    needed = int(np.sort(lengths)[math.ceil(_WHOLE * len(lengths)) - 1])
    return min(-(-needed // _MULTIPLE) * _MULTIPLE, most)


def fitted_buckets(lengths: np.ndarray, most: int, count: int = _BUCKETS) -> tuple[int, ...]:
    """The at most ``count`` padded lengths under which all texts together have the fewest tokens.

    Every text is padded to the least bucket that it fits. By dynamic programming over multiples of 8: the best buckets that end
    at a width are the best, one fewer, that end at a smaller one, and this width for the texts in between.

    Args:
      lengths: int ``(examples,)``; those above ``most`` are taken as ``most``.
      most: the last bucket.
      count: how many, at least 1.
    """
    widths = [*range(_MULTIPLE, most, _MULTIPLE), most]
    fitting = np.searchsorted(np.sort(np.minimum(lengths, most)), widths, side="right")
    # tokens[i], ends[i]: of the texts that fit widths[i], under the best buckets of which it is the last.
    tokens = fitting * np.asarray(widths)
    ends: list[tuple[int, ...]] = [(width,) for width in widths]
    for _ in range(count - 1):
        for i in reversed(range(1, len(widths))):
            shared = tokens[:i] + (fitting[i] - fitting[:i]) * widths[i]
            best = int(shared.argmin())
            if shared[best] < tokens[i]:
                tokens[i], ends[i] = shared[best], (*ends[best], widths[i])
    return ends[-1]
