"""What a checkpoint must have in common with the run that goes on from it."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from xtc_jax.data import Dataset
from xtc_jax.params import Params, named_leaves
from xtc_jax.train.teacher import Teaching

Identity = dict[str, Any]


def data_digest(dataset: Dataset) -> str:
    """A short hash of all that determines the batches of a data set, given seed and step."""
    tokens = dataset.tokens
    digest = hashlib.sha256(repr((dataset.batch_size, tuple(dataset.buckets), dataset.pad_id)).encode())
    for array in (tokens.lengths, *tokens.input_ids, *tokens.token_type_ids, dataset.labels):
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:16]


def teacher_identity(teaching: Teaching, params: Params, dataset: Dataset, mesh: jax.sharding.Mesh) -> Identity:
    """All that the outputs of a teacher depend on, to the bit, as plain data; ``params`` are host arrays."""
    digest = hashlib.sha256()
    for name, leaf in sorted(named_leaves(params).items()):
        digest.update(f"{name} {leaf.shape} {leaf.dtype}".encode())
        digest.update(np.ascontiguousarray(leaf))
    return {
        "teacher": digest.hexdigest(),
        "outputs": repr(teaching),
        "data": data_digest(dataset),
        "mesh": [int(size) for size in mesh.devices.shape],
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }


def run_identity(dataset: Dataset, seed: int, steps: int, learning_rate: float, config: Mapping[str, Any]) -> Identity:
    """As plain data.

    Batch k is a pure function of (data, seed, k): these and the step are the whole state of the data iterator.
    """
    identity = {
        "seed": seed,
        "steps": steps,
        "learning_rate": learning_rate,
        "data": data_digest(dataset),
        "config": dict(config),
    }
    return json.loads(json.dumps(identity))


def first_difference(then: Identity, now: Identity) -> str:
    """``"key: old then, new now"`` of the first key that differs; "" if none does."""
    for key in now:
        if then.get(key) != now[key]:
            inner = isinstance(then.get(key), dict) and isinstance(now[key], dict)
            return (
                f"{key}.{first_difference(then[key], now[key])}"
                if inner
                else f"{key}: {then.get(key)!r} then, {now[key]!r} now"
            )
    return ""
