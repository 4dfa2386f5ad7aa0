"""Whether a teacher cache pays."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from xtc_jax.train.teacher import Teaching
from xtc_jax.train.teacher_cache.budget import automatic_budget

QUIET = "off"
"""A reason that nobody need be told."""


@dataclass(frozen=True)
class TeacherCache:
    """Whether, where and for how much a run keeps what its teacher says.

    Attributes:
      directory: of its files; runs with the same teacher and data share it.
      budget: bytes it may take; None is ``auto``: what :func:`automatic_budget` allows, and only where it pays.
      batches: that this run and those after it, with the same teacher and data, read in all.
      distinct: of these, batches that must be computed, at most an epoch's.
    """

    directory: Path
    budget: int | None
    batches: int
    distinct: int


@dataclass
class Costs:
    """Seconds of batches: to run the teacher, to write what it said, to read it again."""

    computing: list[float] = field(default_factory=list)
    writing: list[float] = field(default_factory=list)
    reading: list[float] = field(default_factory=list)

    def add(self, computing: float, writing: float, reading: float) -> None:
        """Of one batch."""
        self.computing.append(computing)
        self.writing.append(writing)
        self.reading.append(reading)

    def pays(self, reads: int, writes: int) -> bool:
        """Whether reading ``reads`` batches saves more than writing ``writes`` batches costs."""
        computing, writing, reading = self._medians()
        return reads * (computing - reading) > writes * writing

    def __str__(self) -> str:
        computing, writing, reading = (1e3 * each for each in self._medians())
        return f"a batch takes {computing:.1f} ms to compute, {writing:.1f} to write, {reading:.1f} to read"

    def _medians(self) -> tuple[float, float, float]:
        return float(np.median(self.computing)), float(np.median(self.writing)), float(np.median(self.reading))


def unfit(cache: TeacherCache, teaching: Teaching, size: int) -> str:
    """Why a cache of ``size`` bytes is not made; "" if it is."""
    if cache.budget == 0 or (cache.budget is None and cache.batches <= cache.distinct):
        return QUIET
    rules = teaching.rules.rules if teaching.rules else ()
    if any(spec.activation is not None and spec.activation.range == "tensor" for _, spec in rules):
        return "the activations of the teacher have a range over the whole batch"
    budget = automatic_budget(cache.directory) if cache.budget is None else cache.budget
    return f"it would take {size / 1e9:.2f} GB, and the budget is {budget / 1e9:.2f} GB" if size > budget else ""
