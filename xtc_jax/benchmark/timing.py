"""Timing on machines that others use too: contestants take turns, so that noise meets all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

_SHORTEST = 0.005
"""Seconds that one measurement takes at least, by repeating the call: a clock and a scheduler have grains."""


@dataclass(frozen=True)
class Timing:
    """The seconds of one call, once for each round.

    Attributes:
      seconds: in the order of the rounds.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the rounds, in seconds: the number that is printed."""
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        """What a quiet machine would show."""
        return min(self.seconds)


def ratio(slow: Timing, fast: Timing) -> float:
    """How many times faster ``fast`` is: the median over rounds of the two times that were taken one after the other."""
    return statistics.median(a / b for a, b in zip(slow.seconds, fast.seconds, strict=True))


def interleave(contestants: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Timing]:
    """Time all contestants in turn, ``rounds`` times.

    Args:
      contestants: by name; each call does the work once and returns arrays, which are waited for. The first two calls of each
        compile and warm up. Calls too short for the clock are repeated and queued, so that on an accelerator the device works
        through them without waiting for Python.
      rounds: measurements of each.
    """
    repeats = {}
    for name, call in contestants.items():
        jax.block_until_ready(call())
        repeats[name] = max(1, round(_SHORTEST / max(_measure(call, 1), 1e-7)))
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds):
        # Backwards every second time: whoever follows a contestant that leaves the caches full is not always the same.
        for name in list(contestants)[:: 1 if turn % 2 == 0 else -1]:
            seconds[name].append(_measure(contestants[name], repeats[name]))
    return {name: Timing(tuple(found)) for name, found in seconds.items()}


def _measure(call: Callable[[], Any], repeats: int) -> float:
    """Seconds of one of ``repeats`` calls."""
    begun = time.perf_counter()
    for _ in range(repeats):
        result = call()
    jax.block_until_ready(result)
    return (time.perf_counter() - begun) / repeats
