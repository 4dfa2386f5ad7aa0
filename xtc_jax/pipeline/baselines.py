"""The baselines of a run, measured once per work directory."""

import json
from dataclasses import asdict
from pathlib import Path

from xtc_jax.data import fit_baselines
from xtc_jax.pipeline.inputs import Inputs, Log
from xtc_jax.pipeline.workdir import write_json

BASELINES = "baselines.json"


def measure_baselines(inputs: Inputs, workdir: Path, log: Log) -> None:
    """Write ``baselines.json``, unless it is there and of the same data: what needs no BERT, on the selecting split."""
    file, digests = workdir / BASELINES, dict(inputs.digests)
    if file.is_file() and json.loads(file.read_text())["data_digest"] == digests:
        return
    split = next(iter(inputs.validation))
    found = fit_baselines(inputs.task, inputs.examples["train"], inputs.examples[split])
    for each in found:
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in each.metrics.items())
        log(f"baseline: {each.name}, {metrics}, {each.bytes:,} bytes, {each.seconds:.1f} s")
    write_json(file, {"data_digest": digests, "baselines": [asdict(each) for each in found]})
