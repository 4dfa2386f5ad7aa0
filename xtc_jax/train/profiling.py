"""A trace of some steps, for TensorBoard."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import jax

Traced = Callable[[int], AbstractContextManager[Callable[[Any], None]]]


@contextmanager
def profiler(directory: Path, window: tuple[int, int] | None) -> Iterator[Traced]:
    """``with traced(step) as finish: finish(step's results)`` around every step; traces the steps of ``window``.

    Args:
      directory: gets ``plugins/profile/``, which TensorBoard's profile plugin and Perfetto open.
      window: ``(first step, how many)``; None traces nothing. A run resumed beyond the first step traces nothing either.
    """
    first, last = (window[0], sum(window) - 1) if window else (0, -1)
    running = False

    @contextmanager
    def traced(step: int) -> Iterator[Callable[[Any], None]]:
        nonlocal running
        if window and step == first:
            jax.profiler.start_trace(directory)
            running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            # Inside a trace every step is waited for, so that what the device does for it lies inside its annotation.
            yield jax.block_until_ready if running else lambda _: None
        if running and step >= last:
            running = False
            jax.profiler.stop_trace()

    try:
        yield traced
    finally:
        if running:
            jax.profiler.stop_trace()
