"""What a stage reads of its teacher, by a program of its own.

The teacher is frozen and deterministic, so its outputs can be kept (:mod:`xtc_jax.train.teacher_cache`). For that to change
nothing, they are always computed by the same compiled function: fused into the step, the teacher would round otherwise.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array

from xtc_jax.bert import BertConfig
from xtc_jax.devices import Arithmetic
from xtc_jax.parallel import batch_sharding, gathered
from xtc_jax.params import Params
from xtc_jax.quantize import QuantRules
from xtc_jax.train.objective import DeviceBatch, Objective, compute_params, forward
from xtc_jax.train.parts import as_whole, in_parts


@dataclass(frozen=True)
class Teaching:
    """All that determines the outputs that are read of a teacher, but for its params and the batch.

    Attributes:
      config: its shape.
      rules: its quantization, one of a chain of students; None is full precision.
      hidden, scores: indices of its hidden states and layers' attention scores that are compared, increasing.
      padding: whether a loss reads them at padding too, as DeepSpeed's and TernaryBERT's norms do.
      dtype, arithmetic, accumulate: as of :class:`xtc_jax.train.objective.Objective`.
      rounded: whether hidden states and scores are rounded to bfloat16.
    """

    config: BertConfig
    rules: QuantRules | None
    hidden: tuple[int, ...]
    scores: tuple[int, ...]
    padding: bool
    dtype: str
    arithmetic: Arithmetic
    accumulate: int
    rounded: bool


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["logits", "hidden_states", "attention_scores"], meta_fields=[]
)
@dataclass(frozen=True)
class Target:
    """The outputs of a teacher that a stage compares; 0 where nothing is compared.

    Attributes:
      logits: float32 ``(batch, labels)``; 0 in rows that only fill the batch up.
      hidden_states: by the teacher's index, those of the layer map, ``(batch, length, hidden)``.
      attention_scores: by the teacher's layer, those of the layer map, ``(batch, heads, query, key)``.
    """

    logits: Array
    hidden_states: Mapping[int, Array]
    attention_scores: Mapping[int, Array]


TeacherStep = Callable[[Params, DeviceBatch], Target]


def teaching(objective: Objective) -> Teaching:
    """What ``objective``, which has a teacher, reads of it."""
    assert objective.teacher is not None
    spec, layers = objective.spec, objective.layers
    return Teaching(
        objective.teacher,
        objective.teacher_rules,
        tuple(sorted({t for _, t in layers.hidden_pairs})) if spec.hidden else (),
        tuple(sorted({t for _, t in layers.attention_pairs})) if spec.attention else (),
        (spec.attention > 0 and spec.attention_norm != "valid") or (spec.hidden > 0 and spec.hidden_norm != "valid"),
        objective.dtype,
        objective.arithmetic,
        objective.accumulate,
        objective.teacher_dtype == "bfloat16",
    )


def teacher_outputs(teaching: Teaching, params: Params, batch: DeviceBatch) -> Target:
    """The teacher's outputs for a batch, deterministically and without a gradient."""
    known = compute_params(params, teaching.rules, arithmetic=teaching.arithmetic)
    inner = bool(teaching.hidden or teaching.scores)
    output = forward(teaching.config, known, batch, intermediates=inner, dtype=jnp.dtype(teaching.dtype))
    mask = batch["attention_mask"]
    token = (jnp.ones_like(mask) if teaching.padding else mask) > 0

    def kept(array: Array, where: Array) -> Array:
        rounded = array.astype(jnp.bfloat16) if teaching.rounded else array
        return jnp.where(where, rounded, jnp.zeros_like(rounded))

    pair = token[:, None, :, None] & token[:, None, None, :]
    target = Target(
        jnp.where(batch["valid"][:, None], output.logits, 0),
        {t: kept(output.hidden_states[t], token[..., None]) for t in teaching.hidden},
        {t: kept(output.attention_scores[t], pair) for t in teaching.scores},
    )
    return jax.lax.stop_gradient(target)


def make_teacher_step(teaching: Teaching, mesh: jax.sharding.Mesh) -> TeacherStep:
    """``teach(teacher's params, batch) -> target``, jitted over the mesh; in ``teaching.accumulate`` parts, to save memory."""

    def teach(params: Params, batch: DeviceBatch) -> Target:
        whole = gathered(params, mesh)
        if teaching.accumulate == 1:
            return teacher_outputs(teaching, whole, batch)
        parts = in_parts(batch, teaching.accumulate, mesh)
        target: Target = as_whole(jax.lax.map(lambda part: teacher_outputs(teaching, whole, part), parts))
        return target

    return jax.jit(teach, in_shardings=(None, batch_sharding(mesh)), out_shardings=batch_sharding(mesh))
