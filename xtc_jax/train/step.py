"""One training step and one evaluation step, both jitted over the mesh."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from xtc_jax.bert import BertConfig, BertOutput, apply
from xtc_jax.compress import DistillSpec, LayerMap, distillation_losses, label_loss, new_projection
from xtc_jax.quantize import INPUT_RANGE, Params, QuantRules, fake_quantize, with_input_ranges
from xtc_jax.train.mesh import replicated, split
from xtc_jax.train.state import TrainState

DeviceBatch = dict[str, Array]
TrainStep = Callable[[TrainState, Params | None, DeviceBatch, Any], tuple[TrainState, dict[str, Array]]]
EvalStep = Callable[[Params, DeviceBatch], Array]
PROJECTION = "projection"
"""Name under which a learned projection trains beside the student's own params."""


@dataclass(frozen=True)
class Objective:
    """What a stage trains: which model, at which bits, against what.

    Attributes:
      student: shape of the model that trains.
      rules: its quantization; None trains in full precision.
      teacher: shape of the teacher; None trains on the labels alone.
      layers: the student's layer map.
      spec: weights and normalisations of the losses.
      teacher_rules: quantization of the teacher, one of a chain of students; None is full precision.
      dtype: in which both models compute. Latent params, scales, softmax, LayerNorm's statistics, losses and the optimizer are
        float32 whatever it is.
    """

    student: BertConfig
    rules: QuantRules | None
    teacher: BertConfig | None
    layers: LayerMap
    spec: DistillSpec
    teacher_rules: QuantRules | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"

    @property
    def projects(self) -> bool:
        """Whether hidden states are compared through a learned projection: teacher and student differ in width."""
        return self.teacher is not None and self.spec.hidden > 0 and self.teacher.hidden_size != self.student.hidden_size


def trainable(objective: Objective, params: Params, key: Array) -> Params:
    """The student's params with what else trains: running input ranges, and a projection where the widths differ."""
    ready = with_input_ranges(params, objective.rules)
    if not objective.projects:
        return ready
    assert objective.teacher is not None
    projection = new_projection(key, objective.student.hidden_size, objective.teacher.hidden_size)
    return {**ready, PROJECTION: projection}


def student_params(params: Params) -> Params:
    """``params`` without the projection: the model itself."""
    return {name: child for name, child in params.items() if name != PROJECTION}


def forward(config: BertConfig, params: Params, batch: DeviceBatch, **options: Any) -> BertOutput:
    """:func:`xtc_jax.bert.apply` on a batch."""
    return apply(config, params, batch["input_ids"], batch["token_type_ids"], batch["attention_mask"], **options)


def compute_params(params: Params, rules: QuantRules | None, training: bool = False, key: Array | None = None) -> Params:
    """The params a model computes with: latent ones, or their fake quantization."""
    return params if rules is None else fake_quantize(params, rules, training=training, key=key)


def objective_losses(
    objective: Objective, params: Params, teacher: Params | None, batch: DeviceBatch, key: Array | None
) -> dict[str, Array]:
    """Every term of the loss, weighted; their sum is what is minimised.

    The teacher runs deterministically and without a gradient. ``key`` is for the student's dropout and stochastic rounding;
    None runs it without either.
    """
    spec, regression = objective.spec, objective.student.regression
    dropout_key, noise_key = (None, None) if key is None else jax.random.split(key)
    quantized = compute_params(student_params(params), objective.rules, training=True, key=noise_key)
    taught = objective.teacher is not None
    options = {"intermediates": taught, "dtype": jnp.dtype(objective.dtype)}
    student = forward(objective.student, quantized, batch, dropout_key=dropout_key, **options)
    losses: dict[str, Array] = {}
    if spec.label or not taught:
        label = label_loss(student.logits, batch["labels"], batch["valid"], regression)
        losses["label"] = (spec.label if taught else 1.0) * label.value()
    if objective.teacher is not None:
        known = compute_params(teacher, objective.teacher_rules)
        target = jax.lax.stop_gradient(forward(objective.teacher, known, batch, **options))
        mask, valid = batch["attention_mask"], batch["valid"]
        losses |= distillation_losses(student, target, mask, valid, objective.layers, spec, regression, params.get(PROJECTION))
    return losses


def make_train_step(
    objective: Objective, optimizer: optax.GradientTransformationExtraArgs, mesh: jax.sharding.Mesh
) -> TrainStep:
    """``step(state, teacher_params, batch, learning_rate) -> (state, losses)``, jitted; the state is donated.

    Losses are means over the whole global batch, so the result does not depend on the number of devices
    (up to the order of float sums).
    """

    def step(state: TrainState, teacher: Params | None, batch: DeviceBatch, rate: Array) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(state.key, state.step)

        def total(params: Params) -> tuple[Array, dict[str, Array]]:
            losses = objective_losses(objective, params, teacher, batch, key)
            return jnp.sum(jnp.stack(list(losses.values()))), losses

        (loss, losses), gradients = jax.value_and_grad(total, has_aux=True)(state.params)
        steered = jax.tree_util.tree_map_with_path(lambda path, g: jnp.zeros_like(g) if _is_range(path) else g, gradients)
        updates, opt_state = optimizer.update(steered, state.opt_state, state.params, rate=rate)
        params = optax.apply_updates(state.params, updates)
        # The "gradient" of a running range is its new value, see quantize_activations; (0, 0) where the step did not use it.
        params = jax.tree_util.tree_map_with_path(
            lambda path, new, old, g: jnp.where(jnp.any(g != 0), g, old) if _is_range(path) else new,
            params,
            state.params,
            gradients,
        )
        return TrainState(state.step + 1, params, opt_state, state.key), {"loss": loss, **losses}

    everywhere = replicated(mesh)
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(everywhere, everywhere, split(mesh), everywhere),
        out_shardings=(everywhere, everywhere),
    )


def _is_range(path: tuple[Any, ...]) -> bool:
    return path[-1].key == INPUT_RANGE


def make_eval_step(config: BertConfig, rules: QuantRules | None, mesh: jax.sharding.Mesh) -> EvalStep:
    """``step(params, batch) -> logits``, jitted; quantizes first, as training does, and computes in float32."""

    def step(params: Params, batch: DeviceBatch) -> Array:
        return forward(config, compute_params(student_params(params), rules), batch).logits

    return jax.jit(step, in_shardings=(replicated(mesh), split(mesh)), out_shardings=replicated(mesh))
