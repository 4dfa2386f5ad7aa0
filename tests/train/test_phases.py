import time
from contextlib import suppress

import pytest

from xtc_jax.train.phases import Phases, watchdog


class Clock:
    """Stands still unless a test moves it."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def spend(phases, clock, name, *seconds):
    for some in seconds:
        with phases(name):
            clock.now += some


def test_seconds_are_counted_by_phase_and_taken_once(clock):
    phases = Phases(clock)
    spend(phases, clock, "data", 1, 2)
    clock.now += 10  # between phases: nobody's
    spend(phases, clock, "step", 4)
    assert phases.take() == {"data": 3, "step": 4}
    assert phases.take() == {}
    assert phases.elapsed == 17


def test_a_phase_that_ends_with_an_error_is_counted(clock):
    phases = Phases(clock)
    with suppress(ZeroDivisionError), phases("step"):
        clock.now += 2
        raise ZeroDivisionError
    assert phases.take() == {"step": 2}


LIMITS = {"factor": 10, "least": 60, "first": 600}


@pytest.mark.parametrize(
    ("past", "running", "stalled"),
    [
        ((), 600, False),
        ((), 601, True),
        ((1, 1, 1), 60, False),
        ((1, 1, 1), 61, True),
        ((20, 9, 8), 90, False),
        ((20, 9, 8), 91, True),
    ],
)
def test_a_phase_is_stalled_beyond_ten_medians_and_a_minute_and_one_without_a_past_beyond_ten_minutes(
    clock, past, running, stalled
):
    phases = Phases(clock)
    spend(phases, clock, "eval", 5)  # another phase has medians of its own
    spend(phases, clock, "step", *past)
    with phases("step"):
        begun = clock.now
        clock.now += running
        assert phases.stalled(**LIMITS) == (("step", begun, running) if stalled else None)
    assert phases.stalled(**LIMITS) is None


def test_the_watchdog_says_one_line_for_each_stall_and_stops_nothing():
    phases, lines = Phases(), []
    with watchdog(phases, lines.append, least=0.05, first=0.05, interval=0.01):
        for name in ("step", "data"):
            with phases(name):
                deadline = time.monotonic() + 20
                while not any(name in line for line in lines) and time.monotonic() < deadline:
                    time.sleep(0.01)
                time.sleep(0.1)
    assert lines == [f"no progress for 0 s in phase '{name}'; still waiting" for name in ("step", "data")]
