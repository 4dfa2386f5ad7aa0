"""One thread that runs the model, and the inputs that wait for it.

Requests that wait while the model runs are answered together by its next run. A lone request waits for nobody.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from xtc_jax.serve.runners import Texts


class TooManyError(Exception):
    """More inputs wait than may."""


@dataclass
class Job:
    """The inputs of one request, and the promise of their logits."""

    texts: Texts
    answer: "Future[np.ndarray]" = field(default_factory=Future)


class Worker:
    """Runs jobs in the order in which they came, several at a time.

    Args:
      logits: of texts, float32 ``(inputs, labels)``.
      most: inputs of a run, where jobs are put together; 1 runs every job alone.
      waiting: inputs that may wait.
      ran: is told the inputs of every run.
    """

    def __init__(self, logits: Callable[[Texts], np.ndarray], most: int, waiting: int, ran: Callable[[int], None]) -> None:
        self._logits, self._most, self._limit, self._ran = logits, most, waiting, ran
        self._jobs: deque[Job] = deque()
        self._waiting, self._closed = 0, False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="xtc-model")
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Inputs that wait now."""
        return self._waiting

    def submit(self, texts: Texts) -> "Future[np.ndarray]":
        """Put inputs in the queue.

        Raises:
          TooManyError: the queue is full.
        """
        job = Job(texts)
        with self._changed:
            if self._waiting and self._waiting + len(texts) > self._limit:
                raise TooManyError
            self._jobs.append(job)
            self._waiting += len(texts)
            self._changed.notify()
        return job.answer

    def close(self) -> None:
        """Answer what waits, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while jobs := self._take():
            self._answer([job for job in jobs if job.answer.set_running_or_notify_cancel()])

    def _take(self) -> list[Job]:
        """The next jobs: one, or several whose inputs are a power of two at most, as batches are; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            room = 1 << (min(self._waiting, self._most).bit_length() - 1) if self._jobs else 0
            jobs: list[Job] = []
            while self._jobs and (not jobs or sum(len(job.texts) for job in jobs) + len(self._jobs[0].texts) <= room):
                jobs.append(self._jobs.popleft())
            self._waiting -= sum(len(job.texts) for job in jobs)
            return jobs

    def _answer(self, jobs: list[Job]) -> None:
        texts = [text for job in jobs for text in job.texts]
        if not texts:
            return
        try:
            logits = self._logits(texts)
        except Exception as error:  # whoever waits is told; the thread goes on
            for job in jobs:
                job.answer.set_exception(error)
            return
        self._ran(len(texts))
        start = 0
        for job in jobs:
            job.answer.set_result(logits[start : start + len(job.texts)])
            start += len(job.texts)
