"""A program, and what it runs: one small distillation on several meshes.

python tests/training.py OUT '{"name": [devices, [data, fsdp, tensor]], …}' writes ``losses.json`` and ``gradients.npz``.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import toy
from ml_collections import ConfigDict

from xtc_jax.compress import DistillSpec, layer_map
from xtc_jax.data import Dataset, train_batches
from xtc_jax.parallel import make_mesh, put_batch, put_sharded
from xtc_jax.quantize import named_rules
from xtc_jax.recipe.schema import stage_config
from xtc_jax.train import Objective, OptimizerSpec, init_state, learning_rates, make_optimizer, make_taught_step

ROOT = Path(__file__).resolve().parents[1]
SHAPE, STEPS = toy.shape(1), 50
OPTIMIZER = OptimizerSpec(2e-3, STEPS, 5)
OBJECTIVES = {
    bits: Objective(SHAPE, rules, SHAPE, layer_map((0,), 1), DistillSpec())
    for bits, rules in (("float", None), ("quantized", named_rules("deepspeed", 1, 8)))
}


def environment(devices: int) -> dict[str, str]:
    """Of a process that runs this program, or xtc, with so many fake devices."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    return {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths}


def one_shape() -> Dataset:
    """Data of a single padded length: one compilation."""
    return replace(toy.dataset(), buckets=(16,))


def recipe(root: str | Path) -> ConfigDict:
    """The model in ``root`` measured as it is, then its first layer trained on the labels: one compiled step."""
    config = toy.recipe_config(Path(root) / "model", Path(root) / "data")
    config.stages = ("measured", "teacher")
    config.checkpoint.minutes = 0.0  # with every record
    config.measured = stage_config(layers=(0,), epochs=0.0)
    few = {"layers": (0,), "batch_size": 8, "warmup_steps": 2, "eval_every": 10, "dropout": 0.0}
    config.teacher = stage_config(steps=50, learning_rate=2e-3, **few)
    return config


def train(objective: Objective, mesh: jax.sharding.Mesh) -> tuple[list[float], np.ndarray]:
    """The losses of 50 steps, and the first step's clipped gradients in one vector."""
    optimizer = make_optimizer(OPTIMIZER)
    step = make_taught_step(objective, optimizer, mesh)
    state = put_sharded(init_state(toy.params(SHAPE, seed=1), optimizer, jax.random.key(0)), mesh)
    teacher = put_sharded(toy.params(SHAPE, seed=2), mesh)
    rates, losses, gradients = learning_rates(OPTIMIZER), [], np.zeros(0)
    for i, batch in enumerate(train_batches(one_shape(), 0, STEPS)):
        state, found = step(state, teacher, put_batch(batch, mesh), rates[i])
        losses.append(float(found["loss"]))
        if i == 0:
            moments = jax.tree.leaves(state.opt_state.mu)
            gradients = np.concatenate([np.asarray(leaf).ravel() for leaf in moments]) / (1 - OPTIMIZER.b1)
    return losses, gradients


def main(out: str, meshes: str) -> None:
    """Write every loss and gradient; the quantized run leaves two numbers of devices out, for time."""
    losses: dict[str, dict[str, list[float]]] = {}
    gradients = {}
    for precision, objective in OBJECTIVES.items():
        losses[precision] = {}
        for name, (devices, shape) in json.loads(meshes).items():
            if objective.rules and name in ("2 devices", "8 devices"):
                continue
            mesh = make_mesh(shape, jax.devices()[:devices])
            losses[precision][name], gradients[f"{precision}/{name}"] = train(objective, mesh)
    (Path(out) / "losses.json").write_text(json.dumps(losses))
    np.savez(Path(out) / "gradients.npz", **gradients)


if __name__ == "__main__":
    main(*sys.argv[1:])
