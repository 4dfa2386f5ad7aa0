"""One training step and one evaluation step, both jitted over the mesh."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from xtc_jax.bert import BertConfig, BertOutput, apply
from xtc_jax.compress import DistillSpec, LayerMap, distillation_losses, label_loss
from xtc_jax.quantize import Params, QuantRules, fake_quantize
from xtc_jax.train.mesh import replicated, split
from xtc_jax.train.state import TrainState

DeviceBatch = dict[str, Array]
TrainStep = Callable[[TrainState, Params | None, DeviceBatch], tuple[TrainState, dict[str, Array]]]
EvalStep = Callable[[Params, DeviceBatch], Array]


@dataclass(frozen=True)
class Objective:
    """What a stage trains: which model, at which bits, against what.

    Attributes:
      student: shape of the model that trains.
      rules: its quantization; None trains in full precision.
      teacher: shape of the teacher; None trains on the labels alone.
      layers: the student's layer map.
      spec: weights and normalisations of the losses.
    """

    student: BertConfig
    rules: QuantRules | None
    teacher: BertConfig | None
    layers: LayerMap
    spec: DistillSpec


def forward(config: BertConfig, params: Params, batch: DeviceBatch, **options: object) -> BertOutput:
    """:func:`xtc_jax.bert.apply` on a batch."""
    arrays = (batch["input_ids"], batch["token_type_ids"], batch["attention_mask"])
    return apply(config, params, *arrays, **options)  # type: ignore[arg-type]


def compute_params(params: Params, rules: QuantRules | None) -> Params:
    """The params a student computes with: latent ones, or their fake quantization."""
    return params if rules is None else fake_quantize(params, rules)


def objective_losses(
    objective: Objective, params: Params, teacher: Params | None, batch: DeviceBatch, dropout_key: Array | None
) -> dict[str, Array]:
    """Every term of the loss, weighted; their sum is what is minimised.

    The teacher runs deterministically and without a gradient; ``dropout_key`` None runs the student so too.
    """
    spec, regression = objective.spec, objective.student.regression
    quantized = compute_params(params, objective.rules)
    student = forward(objective.student, quantized, batch, dropout_key=dropout_key, intermediates=objective.teacher is not None)
    losses: dict[str, Array] = {}
    if spec.label or objective.teacher is None:
        weight = spec.label if objective.teacher is not None else 1.0
        losses["label"] = weight * label_loss(student.logits, batch["labels"], batch["valid"], regression).value()
    if objective.teacher is not None:
        target = jax.lax.stop_gradient(forward(objective.teacher, teacher, batch, intermediates=True))
        losses |= distillation_losses(
            student, target, batch["attention_mask"], batch["valid"], objective.layers, spec, regression
        )
    return losses


def make_train_step(objective: Objective, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh) -> TrainStep:
    """``step(state, teacher_params, batch) -> (state, losses)``, jitted; the state is donated.

    Losses are means over the whole global batch, so the result does not depend on the number of devices
    (up to the order of float sums).
    """

    def step(state: TrainState, teacher: Params | None, batch: DeviceBatch) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(state.key, state.step)

        def total(params: Params) -> tuple[Array, dict[str, Array]]:
            losses = objective_losses(objective, params, teacher, batch, key)
            return jnp.sum(jnp.stack(list(losses.values()))), losses

        (loss, losses), gradients = jax.value_and_grad(total, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state, state.key), {"loss": loss, **losses}

    everywhere = replicated(mesh)
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(everywhere, everywhere, split(mesh)),
        out_shardings=(everywhere, everywhere),
    )


def make_eval_step(config: BertConfig, rules: QuantRules | None, mesh: jax.sharding.Mesh) -> EvalStep:
    """``step(params, batch) -> logits``, jitted; quantizes first, as training does."""

    def step(params: Params, batch: DeviceBatch) -> Array:
        return forward(config, compute_params(params, rules), batch).logits

    return jax.jit(step, in_shardings=(replicated(mesh), split(mesh)), out_shardings=replicated(mesh))
