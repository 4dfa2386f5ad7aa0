import os
import signal
import threading
from contextlib import suppress

import pytest

from xtc_jax.errors import Preempted
from xtc_jax.parallel import stop_on_sigterm
from xtc_jax.parallel.preemption import preemption_notice


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_is_noticed_and_does_not_interrupt():
    before = signal.getsignal(signal.SIGTERM)
    seen = []
    with suppress(Preempted), preemption_notice() as preempted:
        seen.append(preempted())
        terminate()
        seen.append(preempted())
        raise Preempted("checkpoint saved")
    assert seen == [False, True]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_after_the_last_question_is_not_lost():
    with pytest.raises(Preempted, match="stopped by SIGTERM"), preemption_notice():
        terminate()


def test_outside_of_a_run_it_stops_the_program_and_inside_it_waits():
    with stop_on_sigterm():
        with pytest.raises(Preempted, match="stopped by SIGTERM"):
            terminate()
        with suppress(Preempted), preemption_notice() as preempted:
            terminate()
            assert preempted()
            raise Preempted("checkpoint saved")
        with pytest.raises(Preempted, match="stopped by SIGTERM"):
            terminate()


def test_another_thread_is_never_preempted():
    seen = []

    def work():
        with preemption_notice() as preempted:
            seen.append(preempted())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def test_several_processes_ask_the_coordination_service_with_numbers_that_rise_across_runs(monkeypatch):
    asked = []
    monkeypatch.setattr("xtc_jax.parallel.preemption.jax.process_count", lambda: 2)
    monkeypatch.setattr(
        "xtc_jax.parallel.preemption.multihost_utils.reached_preemption_sync_point",
        lambda step: asked.append(step) or len(asked) == 3,
    )
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_sigterm(), preemption_notice():
        assert signal.getsignal(signal.SIGTERM) is before  # the service has a handler of its own, below Python's
    answers = []
    for _ in range(2):
        with preemption_notice() as preempted:
            answers += [preempted(), preempted()]
    assert answers == [False, False, True, False]
    assert [number - asked[0] for number in asked] == [0, 1, 2, 3]
