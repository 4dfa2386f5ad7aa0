"""Real processes, real signals; see killing.py, which kills fifty times on demand."""

import random
import signal

import pytest
from killing import Killer

from xtc_jax.cli.main import PREEMPTED


@pytest.fixture(scope="module")
def killer(tmp_path_factory):
    """It has seen the undisturbed run."""
    scratch = tmp_path_factory.mktemp("killing")
    # A cache of compiled programs of its own: a kill may leave half an entry, which would be a warning in other tests.
    killer = Killer(scratch, scratch / "xla", random.Random(1))
    killer.finish(scratch / "undisturbed")
    return killer


@pytest.mark.slow
def test_killed_six_times_in_steps_evaluations_and_saves_a_run_saves_and_ends_with_the_same_bits(killer):
    before = len(killer.log)
    killer.kill(6)
    kinds = {line.split(" into ")[1].split()[0] for line in killer.log[before:] if line.endswith("-9")}
    assert kinds == {"step", "eval", "checkpoint"}


@pytest.mark.slow
def test_sigterm_saves_at_once_and_exits_with_a_status_of_its_own_and_the_run_ends_with_the_same_bits(killer):
    directory = killer.scratch / "terminated"
    done = 0
    for phase in ("step", "eval"):
        assert killer.disturb(directory, phase, signal.SIGTERM) == PREEMPTED == 75
        done += killer.seen.count("phase step")
        assert [line.split()[:2] for line in killer.seen if line.startswith("saved")][-1] == ["saved", str(done)]
    killer.finish(directory)
