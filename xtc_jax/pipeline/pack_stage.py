"""Pack a stage's model, and measure the file against the fake-quantized student it came from."""

import time
from pathlib import Path

import numpy as np

from xtc_jax.compress import float32_bytes, pack, ready
from xtc_jax.data import Task, compute_all
from xtc_jax.formats import WEIGHTS, PackedModel, clear_unfinished, load_flax, load_packed, save_packed, tokenizer_bytes
from xtc_jax.parallel import make_mesh, on_first, put_replicated, put_sharded
from xtc_jax.pipeline.inputs import Inputs, Log
from xtc_jax.pipeline.plan import StagePlan
from xtc_jax.pipeline.records import packed_digest
from xtc_jax.pipeline.stage import metrics_text
from xtc_jax.pipeline.workdir import Result, write_done
from xtc_jax.recipe.recipe import Recipe
from xtc_jax.train import Logits, make_eval_step, predict_logits


def pack_stage(
    plan: StagePlan, first: StagePlan, recipe: Recipe, inputs: Inputs, directory: Path, known: Logits | None, log: Log
) -> Result:
    """Pack a stage's model, then measure the file against the fake-quantized student it came from.

    ``known`` are this student's validation logits, where its training has just computed them.
    """
    begun, rules, storage = time.monotonic(), plan.stage.rules, recipe.config["storage"]
    assert rules is not None
    latent = load_flax(plan.directory / "model")[1]
    on_first(clear_unfinished, directory)
    packed = PackedModel(plan.config, pack(latent, rules), inputs.task, inputs.max_length)
    on_first(save_packed, directory, packed, plan.directory / "model", storage)
    mesh, sets = make_mesh(recipe.config["mesh"]), inputs.sets(plan.vocabulary).validation
    if known is None:
        fake_step, placed = make_eval_step(plan.config, rules, mesh), put_sharded(latent, mesh)
        known = {split: predict_logits(fake_step, placed, dataset, mesh) for split, dataset in sets.items()}
    fake = np.concatenate([known[split] for split in sets])
    # On a CPU by XLA, as the student: the native kernel sums attention in another order, which says nothing about the file.
    backend = "xla" if mesh.devices.flat[0].platform == "cpu" else ""
    stored = put_replicated(ready(load_packed(directory).params, backend=backend), mesh)
    start, step = time.monotonic(), make_eval_step(plan.config, None, mesh)
    by_split = {split: predict_logits(step, stored, dataset, mesh) for split, dataset in sets.items()}
    logits = np.concatenate(list(by_split.values()))
    speed = len(logits) / (time.monotonic() - start)
    size = (directory / WEIGHTS).stat().st_size
    fp32 = float32_bytes(load_flax(first.directory / "model")[1])
    metrics = compute_all(inputs.task, by_split, {split: dataset.labels for split, dataset in sets.items()})
    result = {
        "path": str(directory),
        "bytes": size,
        "fp32_bytes": fp32,
        "ratio": fp32 / size,
        "metrics": metrics,
        "max_logit_difference": float(np.abs(logits - fake).max()),
        "prediction_agreement": _agreement(logits, fake, inputs.task),
        "layers": plan.config.num_hidden_layers,
        "word_pieces": plan.config.vocab_size,
        "tokenizer_bytes": tokenizer_bytes(directory),
        "weight_bits": plan.stage.weight_bits,
        "steps": 0,
        "seconds": round(time.monotonic() - begun, 2),
        "examples_per_second": round(speed, 2),
    }
    log(f"{directory.name}: {size:,} bytes, {metrics_text(metrics)}")
    return on_first(write_done, directory, packed_digest(plan, storage), result)


def _agreement(a: np.ndarray, b: np.ndarray, task: Task) -> float:
    """Share of examples with the same class; of a regression, within 0.01 of each other."""
    same = np.abs(a - b)[:, 0] <= 0.01 if task.regression else a.argmax(axis=1) == b.argmax(axis=1)
    return float(same.mean())
