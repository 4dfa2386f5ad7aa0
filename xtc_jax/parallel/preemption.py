"""SIGTERM: a scheduler wants the machine back. A run saves and stops; everything else just stops, it is resumed anyway."""

import itertools
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from xtc_jax.errors import Preempted

_calls = itertools.count(1)
"""Numbers the questions to JAX's coordination service, which lives as long as the process: they must rise across runs."""


@contextmanager
def preemption_notice() -> Iterator[Callable[[], bool]]:
    """``preempted()``, to be asked after every step by every process: whether SIGTERM has come.

    Of several processes all get the same answer at the same step, one that none has begun: JAX's coordination service sees the
    signal of any of them. Of one process it is the signal itself; outside of the main thread it is never noticed.

    Raises:
      Preempted: on leaving, if the signal came after the last question.
    """
    if jax.process_count() > 1:
        yield lambda: multihost_utils.reached_preemption_sync_point(next(_calls))
        return
    noticed = threading.Event()
    with _handler(lambda *_: noticed.set()):
        yield noticed.is_set
    if noticed.is_set():  # too late for the last question
        raise Preempted("stopped by SIGTERM")


@contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """SIGTERM raises :class:`Preempted` wherever the program is, except under :func:`preemption_notice`.

    Of several processes it leaves the signal to JAX's coordination service: all must stop at the same step of a run.
    """
    if jax.process_count() > 1:
        yield
        return

    def stop(_: int, __: FrameType | None) -> None:
        raise Preempted("stopped by SIGTERM")

    with _handler(stop):
        yield


@contextmanager
def _handler(handle: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """``handle`` as the handler of SIGTERM; Python lets only the main thread install one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
