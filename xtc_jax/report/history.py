"""What a finished run has left in its work directory, read for the report: curves, timings, tensors."""

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xtc_jax.errors import UserError
from xtc_jax.formats import file_account
from xtc_jax.params import SizeEntry, named_leaves
from xtc_jax.pipeline.predictions import PREDICTIONS

Curve = list[tuple[float, float]]
"""``(step, value)`` in order."""
_NOT_LOSSES = ("step", "seconds", "learning_rate", "steps_per_second", "examples_per_second", "mfu", "device_memory_bytes")


@dataclass(frozen=True)
class StageHistory:
    """What one stage has recorded.

    Attributes:
      name: of its directory.
      losses, metrics: curves by name; the total is ``loss``.
      learning_rate: its curve; empty where an older version has not recorded it.
      seconds: by what they were spent on: ``compile``, ``step``, ``teacher``, ``eval``, ``data``, ``checkpoint``.
    """

    name: str
    losses: Mapping[str, Curve]
    metrics: Mapping[str, Curve]
    learning_rate: Curve
    seconds: Mapping[str, float]


def read_histories(workdir: Path, rates: Mapping[str, float]) -> list[StageHistory]:
    """Every stage's records, in the order of ``rates``.

    Args:
      workdir: of a finished run.
      rates: the stages' directories, with the learning rate that was best where several were tried.
    """
    return [stage_history(name, _records(workdir / name, rate)) for name, rate in rates.items()]


def _records(directory: Path, rate: float) -> list[dict[str, float]]:
    from xtc_jax.train.metrics import read_metrics

    tried = directory / f"learning_rate_{rate:g}" / "metrics.jsonl"
    return read_metrics(tried if tried.is_file() else directory / "metrics.jsonl")


def stage_history(name: str, records: Sequence[Mapping[str, float]]) -> StageHistory:
    """Sort the records of ``metrics.jsonl`` into curves and sums.

    The time to compile is not measured apart: it is estimated as what the steps of some records take beyond half again the
    stage's median.
    """
    losses: defaultdict[str, Curve] = defaultdict(list)
    metrics: defaultdict[str, Curve] = defaultdict(list)
    seconds: defaultdict[str, float] = defaultdict(float)
    for record in records:
        for key, value in record.items():
            if key.startswith("eval/"):
                metrics[key.removeprefix("eval/")].append((record["step"], value))
            elif key.startswith("seconds/"):
                seconds[key.removeprefix("seconds/")] += value
            elif key not in _NOT_LOSSES:
                losses[key].append((record["step"], value))
    steps = [record["seconds/step"] for record in records if record.get("seconds/step")]
    typical = statistics.median(steps) if steps else 0.0
    compiled = sum(each - typical for each in steps if each > 1.5 * typical)
    split = {"compile": compiled, **seconds, "step": seconds.get("step", 0.0) - compiled}
    curve = [(record["step"], record["learning_rate"]) for record in records if "learning_rate" in record]
    return StageHistory(name, dict(losses), dict(metrics), curve, split)


def read_predictions(workdir: Path) -> dict[str, Any]:
    """``predictions.json``, see :func:`xtc_jax.pipeline.predictions.prediction_record`; {} of a run of before it was kept."""
    file = workdir / PREDICTIONS
    return json.loads(file.read_text()) if file.is_file() else {}


def byte_groups(entries: Sequence[SizeEntry], header: int) -> dict[str, tuple[int, int]]:
    """``(bytes of codes or floats, bytes of scales)`` by group of tensors, the largest group first.

    Groups: each table, the attention and the feed-forward matrices of all layers, LayerNorm, biases, pooler and classifier, and
    the header of the file.
    """
    found: dict[str, tuple[int, int]] = {"header of the file": (header, 0)}
    for entry in entries:
        group = _group(entry.name)
        codes, scales = found.get(group, (0, 0))
        found[group] = (codes + entry.code_bytes, scales + entry.scale_bytes)
    return dict(sorted(found.items(), key=lambda item: -sum(item[1])))


def _group(name: str) -> str:
    if "LayerNorm" in name:
        return "LayerNorm"
    if name.startswith("embeddings/"):
        return name.split("/")[1].replace("_", " ")
    if name.startswith(("pooler", "classifier")):
        return "pooler and classifier"
    if name.endswith("bias"):
        return "biases"
    return "attention" if "/attention/" in name else "feed-forward"


@dataclass(frozen=True)
class WeightSummary:
    """One packed weight.

    Attributes:
      layer: number of its layer; -1 of what is in none.
      part: which matrix it is: ``query``, ``key``, ``value``, ``attention output``, ``intermediate``, ``output``, or a table.
      bits: of its values.
      scale: mean of its scales, and their smallest and largest.
      positive, zero: shares of its values.
    """

    layer: int
    part: str
    bits: int
    scale: tuple[float, float, float]
    positive: float
    zero: float


def weight_summaries(packed: Path) -> list[WeightSummary]:
    """Every packed weight of a model on a symmetric grid, in the order of the model.

    Raises:
      UserError: see :func:`xtc_jax.formats.load_packed`.
    """
    from xtc_jax.formats import load_packed
    from xtc_jax.kernels import PackedTensor

    named = named_leaves(load_packed(packed).params, whole=PackedTensor)
    return [_summary(name, leaf) for name, leaf in named.items() if isinstance(leaf, PackedTensor) and leaf.zero is None]


def _summary(name: str, weight: Any) -> WeightSummary:
    values, scale = np.asarray(weight.unpacked().codes), np.asarray(weight.scale)
    parts = name.split("/")
    layer = int(parts[1].removeprefix("layer_")) if parts[1].startswith("layer_") else -1
    return WeightSummary(
        layer,
        _part(parts),
        weight.bits,
        (float(scale.mean()), float(scale.min()), float(scale.max())),
        float((values > 0).mean()),
        float((values == 0).mean()),
    )


def _part(parts: list[str]) -> str:
    words = [part for part in parts if part not in ("weight", "dense", "self", "encoder") and not part.startswith("layer_")]
    text = " ".join(words[1:] if words[0] in ("attention", "embeddings") and words[-1] != "output" else words)
    return (text or words[0]).replace("_", " ")


def packed_account(packed: Path) -> dict[str, tuple[int, int]]:
    """:func:`byte_groups` of a packed model's file; {} where there is none any more."""
    try:
        entries, header, _ = file_account(packed)
    except UserError:
        return {}
    return byte_groups(entries, header)
