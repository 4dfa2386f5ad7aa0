"""What the wall time of a run goes to, and a line on the screen when it goes to nothing."""

import statistics
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_INTERVAL = 5.0
"""Seconds between two looks of the watchdog."""


class Phases:
    """A stopwatch by phase: ``with phases("eval"): ...`` adds to the seconds of that phase. Phases do not nest.

    One thread enters phases; any may ask which one runs.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock()
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._past: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=101))
        self._running: tuple[str, float] | None = None

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Everything inside counts as ``name``."""
        begun = self._clock()
        self._running = (name, begun)
        try:
            yield
        finally:
            self._running = None
            seconds = self._clock() - begun
            self._spent[name] += seconds
            self._past[name].append(seconds)

    @property
    def elapsed(self) -> float:
        """Seconds since the stopwatch was made."""
        return self._clock() - self._begun

    def take(self) -> dict[str, float]:
        """Seconds by phase since the last call."""
        spent, self._spent = self._spent, defaultdict(float)
        return dict(spent)

    def stalled(self, factor: float, least: float, first: float) -> tuple[str, float, float] | None:
        """The running phase, if it takes long: ``(name, when it began, seconds so far)``.

        Args:
          factor: long is more than so many medians of the last 101 times,
          least: and more than so many seconds;
          first: limit in seconds for a phase that never ended before: it may be compiling.
        """
        running = self._running
        if running is None:
            return None
        name, begun = running
        past, seconds = list(self._past[name]), self._clock() - begun
        limit = max(least, factor * statistics.median(past)) if past else first
        return (name, begun, seconds) if seconds > limit else None


@contextmanager
def watchdog(
    phases: Phases,
    log: Callable[[str], None],
    factor: float = 10.0,
    least: float = 60.0,
    first: float = 600.0,
    interval: float = _INTERVAL,
) -> Iterator[None]:
    """A thread that says one line about every phase that takes long, see :meth:`Phases.stalled`; it stops nothing."""
    done = threading.Event()

    def watch() -> None:
        said: float | None = None
        while not done.wait(interval):
            stalled = phases.stalled(factor, least, first)
            if stalled is not None and stalled[1] != said:
                name, said, seconds = stalled
                log(f"no progress for {seconds:.0f} s in phase '{name}'; still waiting")

    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
