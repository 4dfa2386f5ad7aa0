"""Baselines in a report: their table, and in words whether the run's model beats them."""

import json
from pathlib import Path
from typing import Any

from xtc_jax.pipeline.baselines import BASELINES
from xtc_jax.pipeline.plan import PACKED

Result = dict[str, Any]


def read_baselines(workdir: Path) -> list[Result]:
    """The baselines of a run, as :class:`xtc_jax.data.Baseline` has them; [] of a run without."""
    file = workdir / BASELINES
    return json.loads(file.read_text())["baselines"] if file.is_file() else []


def baseline_table(baselines: list[Result]) -> str:
    """The baselines in Markdown."""
    names = list(baselines[0]["metrics"])
    header = ("baseline", *names, "bytes", "seconds")
    rows = [
        (
            each["name"],
            *(f"{100 * each['metrics'][name]:.2f}" for name in names),
            f"{each['bytes']:,}",
            f"{each['seconds']:.1f}",
        )
        for each in baselines
    ]
    lines = [header, ("---", *("---:" for _ in header[1:])), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def verdicts(results: Result, baselines: list[Result]) -> list[str]:
    """A sentence for every packed model, or, where none is packed, for the last stage: which baselines it beats.

    The selecting metric decides; a model that is only as good does not beat a baseline.
    """
    judged = [name for name in results if name.endswith(PACKED)] or list(results)[-1:]
    return [_verdict(name, results[name], baselines) for name in judged] if baselines else []


def _verdict(name: str, result: Result, baselines: list[Result]) -> str:
    metric, value = next(iter(result["metrics"].items()))
    lost = [each for each in baselines if not value > each["metrics"][metric]]
    found = f"{name} has {metric} {100 * value:.2f}"
    if not lost:
        best = max(baselines, key=lambda each: float(each["metrics"][metric]))
        points = 100 * (value - best["metrics"][metric])
        return f"{found}, {points:.2f} points above the best baseline, {_named(best, metric)}."
    named = " and ".join(_named(each, metric) for each in lost)
    advice = "" if value == 1 else " Train it longer, or compress it less."
    return f"{found} and does not beat {named}: on this data a simpler model does as well.{advice}"


def _named(baseline: Result, metric: str) -> str:
    return f"{baseline['name']} ({100 * baseline['metrics'][metric]:.2f})"
