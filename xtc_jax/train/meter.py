"""The numbers of a record of ``metrics.jsonl``: mean losses, speed, where the time went, memory, utilisation."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from xtc_jax.train.metrics import Record


class Meter:
    """Collects what the steps report until a record is written.

    Args:
      batch_size: examples per step.
      peak_flops: what one device could do in a second; 0 leaves the utilisation out.
    """

    def __init__(self, batch_size: int, peak_flops: float = 0.0) -> None:
        self._batch_size, self._peak_flops = batch_size, peak_flops
        self._losses: defaultdict[str, list[jax.Array]] = defaultdict(list)
        self._steps, self._flops = 0, 0.0
        self._flops_of: dict[Any, float] = {}

    @property
    def latest(self) -> list[jax.Array]:
        """Loss of the last step, to wait for; empty right after :meth:`means`, which waits itself."""
        return self._losses["loss"][-1:]

    def add(self, losses: Mapping[str, jax.Array], *programs: tuple[Any, tuple[Any, ...]]) -> None:
        """Count a step: its losses, still on the device, and the FLOPs of its programs, jitted functions with arguments."""
        for name, value in losses.items():
            self._losses[name].append(value)
        self._steps += 1
        if self._peak_flops:
            self._flops += sum(self._program_flops(*each) for each in programs)

    def _program_flops(self, jitted: Any, arguments: tuple[Any, ...]) -> float:
        """FLOPs of a program on one device, as XLA counts them in the compiled program; asked once for each shape.

        The program is the one that has just run: JAX finds it by the shapes and compiles nothing. Arithmetic inside of custom
        calls, such as Pallas kernels, counts only where they declare how much it is.
        """
        key = (id(jitted), *(leaf.shape for leaf in jax.tree.leaves(arguments)))
        if key not in self._flops_of:
            self._flops_of[key] = (jitted.lower(*arguments).compile().cost_analysis() or {}).get("flops", 0.0)
        return self._flops_of[key]

    def means(self) -> Record:
        """Means of the losses since the last call; waits for the last step."""
        losses, self._losses = self._losses, defaultdict(list)
        return {name: float(np.mean(jax.device_get(values))) for name, values in losses.items()}

    def speed(self, spent: Mapping[str, float]) -> Record:
        """``steps_per_second``, ``examples_per_second``, and where they are known ``mfu`` and ``device_memory_bytes``.

        The first record of a process contains the compilation. ``mfu`` is a fraction of the peak; the memory is the highest so
        far of any device of this process.

        Args:
          spent: seconds by phase since the last call; the speed is of the phases ``data``, ``teacher`` and ``step``.
        """
        seconds = max(sum(spent.get(name, 0.0) for name in ("data", "teacher", "step")), 1e-9)
        rate = self._steps / seconds
        record = {"steps_per_second": rate, "examples_per_second": rate * self._batch_size}
        if self._flops:
            record["mfu"] = self._flops / seconds / self._peak_flops
        self._steps, self._flops = 0, 0.0
        return record | _device_memory()


def split_of(spent: Mapping[str, float]) -> Record:
    """Seconds by phase as entries of a record."""
    return {f"seconds/{name}": seconds for name, seconds in spent.items()}


def _device_memory() -> Record:
    """``{"device_memory_bytes": ...}``; empty on devices that do not tell, such as CPUs."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    peaks = [entry["peak_bytes_in_use"] for entry in stats if entry and "peak_bytes_in_use" in entry]
    return {"device_memory_bytes": float(max(peaks))} if peaks else {}
