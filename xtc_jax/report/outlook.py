"""What more minutes would bring, in words, for a recipe with a time."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xtc_jax.pipeline.plan import PACKED
from xtc_jax.pipeline.predictions import PREDICTIONS
from xtc_jax.pipeline.timed import read_budget

_LEFT = 0.5
"""Of a student's distance from its teacher, what twice as many steps leave: a rule of thumb. Its runs stand in
benchmarks/README.md, "More steps"."""


def outlook(results: Mapping[str, Any], workdir: Path) -> list[str]:
    """Sentences: the share of the teacher that the packed model keeps, and what more minutes are expected to bring.

    Args:
      results: of the run.
      workdir: with ``budget.json``; without it, or without a packed model, there is nothing to say.
    """
    budget = read_budget(workdir)
    if not budget or PACKED not in results:
        return []
    examples = len(json.loads((workdir / PREDICTIONS).read_text())["labels"])
    (first, teacher), packed = next(iter(results.items())), results[PACKED]
    metric, best = next(iter(teacher["metrics"].items()))
    value = packed["metrics"][metric]
    kept = f"packed keeps {100 * value / best:.1f} % of the {first}'s {metric} ({100 * value:.2f} of {100 * best:.2f})"
    error = math.sqrt(max(value * (1 - value), 0.01) / examples)
    return [
        f"{kept}; {examples:,} validation examples tell it to about {100 * error:.1f} points.",
        _more(budget, best - value, error),
    ]


def _more(budget: Mapping[str, Any], distance: float, error: float) -> str:
    """What is expected of more minutes, ``distance`` from the teacher."""
    (_, teacher), (last, student) = next(iter(budget.items())), list(budget.items())[-1]
    timed = [name for name, record in budget.items() if record["bound"] == "time"]
    if not timed:
        return "No stage was ended by its time: more minutes are not expected to bring anything."
    also = " The teacher was ended by its time too, and would gain as well." if teacher["bound"] == "time" else ""
    if student["bound"] != "time" or distance <= error:
        reason = "it is as good as its teacher within that" if distance <= error else f"{last} was not ended by its time"
        return f"More minutes are not expected to bring the student anything that would show: {reason}.{also}"
    minutes, gain = math.ceil(student["seconds"] / 60), 100 * distance * (1 - _LEFT)
    return (
        f"Another {minutes} minutes, which double the student's steps, are expected to bring about {gain:.1f} points: run the "
        f"same command with minutes={math.ceil(student['minutes'] + minutes)}.{also}"
    )
