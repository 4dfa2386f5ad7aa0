"""The distillation loss: logits, attention scores and hidden states in one sum.

``L = logit + sum_l MSE(A_s[l], A_t[map(l)]) + sum_i MSE(H_s[i], H_t[map(i)])`` (XTC section 3; DeepSpeedExamples
``compression/bert/util.py:180``). Every term is a ``(sum, count)`` pair, so that a mean over a global batch is
exact however the batch is split, and padding adds nothing to either (docs/method.md, sections 2.3 to 2.5).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from xtc_jax.compress.layers import LayerMap

LogitNorm = Literal["deepspeed", "textbook"]
PaddingNorm = Literal["valid", "deepspeed", "ternarybert"]
_DEEPSPEED_MASK = -10000.0


class Mean(NamedTuple):
    """A mean in the making: ``total / number``, both summed over the global batch first."""

    total: Float[Array, ""]
    number: Float[Array, ""]

    def value(self) -> Float[Array, ""]:
        """``total / number``; 0 where nothing was counted."""
        return self.total / jnp.maximum(self.number, 1)


class Term(NamedTuple):
    """One term of the loss: the weighted sum of means, one for each layer that is compared."""

    weight: float
    means: tuple[Mean, ...]

    def value(self) -> Float[Array, ""]:
        """The term as a float32 scalar: ``weight * sum(means)``."""
        return self.weight * jnp.sum(jnp.stack([mean.value() for mean in self.means]))


@runtime_checkable
class Layers(Protocol):
    """Arrays by index: all in a tuple, or some in a mapping."""

    def __getitem__(self, index: int, /) -> Array:
        """The array of a layer."""


@runtime_checkable
class Outputs(Protocol):
    """What a loss reads of a model's output (``BertOutput`` has it)."""

    @property
    def logits(self) -> Array:
        """Float ``(batch, labels)``, before softmax."""

    @property
    def hidden_states(self) -> Layers:
        """Arrays ``(batch, length, hidden)``, at least those of the layer map, of L + 1."""

    @property
    def attention_scores(self) -> Layers:
        """Arrays ``(batch, heads, query, key)``, before the mask, at least those of the layer map, of L."""


@dataclass(frozen=True)
class DistillSpec:
    """Weights of the terms and how each is averaged. The defaults are XTC's, with docs/method.md, sections 2.3 to 2.5.

    Attributes:
      label, logit, attention, hidden: weights of the task loss against the labels (XTC: 0), and of the
        three distillation terms (XTC: 1 each). A weight of 0 leaves the term out.
      temperature: both sides' logits are divided by it before the soft cross-entropy, as TinyBERT and BinaryBERT do, without a
        factor T^2.
      logit_norm: ``deepspeed`` averages the soft cross-entropy over batch x classes, ``textbook`` over
        the batch: C times larger.
      attention_norm: ``valid`` averages over real keys and real queries only. ``deepspeed`` adds -10000
        to masked keys and averages over every entry. ``ternarybert`` leaves masked keys out of the sum
        and divides by every entry. The last two depend on the padding.
      hidden_norm: ``valid`` averages over real tokens, ``deepspeed`` over padding too.
    """

    label: float = 0.0
    logit: float = 1.0
    attention: float = 1.0
    hidden: float = 1.0
    temperature: float = 1.0
    logit_norm: LogitNorm = "deepspeed"
    attention_norm: PaddingNorm = "valid"
    hidden_norm: Literal["valid", "deepspeed"] = "valid"


def label_loss(logits: Float[Array, "batch labels"], labels: Array, valid: Bool[Array, " batch"], regression: bool) -> Mean:
    """Cross-entropy against classes (``labels`` int), or squared error against numbers."""
    if regression:
        each = jnp.square(logits[:, 0] - labels)
    else:
        each = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]
    return _masked(each, valid)


def logit_loss(
    student: Float[Array, "batch labels"],
    teacher: Float[Array, "batch labels"],
    valid: Bool[Array, " batch"],
    regression: bool,
    norm: LogitNorm = "deepspeed",
    temperature: float = 1.0,
) -> Mean:
    """``-softmax(teacher / T) . log_softmax(student / T)``; for regression the squared error to the *teacher*.

    A soft cross-entropy over one logit is identically 0 (docs/method.md, section 13.8), hence the second form.
    """
    if regression:
        return _masked(jnp.mean(jnp.square(student - teacher), axis=1), valid)
    each = -jnp.sum(jax.nn.softmax(teacher / temperature) * jax.nn.log_softmax(student / temperature), axis=1)
    mean = _masked(each, valid)
    return Mean(mean.total, mean.number * student.shape[1]) if norm == "deepspeed" else mean


def attention_loss(
    student: Float[Array, "batch heads query key"],
    teacher: Float[Array, "batch heads query key"],
    mask: Int[Array, "batch key"],
    norm: PaddingNorm = "valid",
) -> Mean:
    """Squared error of one layer's attention scores, see :class:`DistillSpec` for ``norm``."""
    real, teacher = mask > 0, teacher.astype(student.dtype)
    keys = real[:, None, None, :]
    if norm == "deepspeed":
        # Both sides carry the mask, so only its float32 rounding at 1e4 is left at masked keys.
        bias = jnp.where(keys, 0.0, _DEEPSPEED_MASK)
        error = jnp.square((student + bias) - (teacher + bias))
        return Mean(jnp.sum(error), jnp.asarray(error.size, error.dtype))
    counted = keys if norm == "ternarybert" else keys & real[:, None, :, None]
    total = jnp.sum(jnp.where(counted, jnp.square(student - teacher), 0))
    if norm == "ternarybert":
        return Mean(total, jnp.asarray(student.size, total.dtype))
    tokens = jnp.sum(real, axis=1).astype(total.dtype)
    return Mean(total, student.shape[1] * jnp.sum(jnp.square(tokens)))


def hidden_loss(
    student: Float[Array, "batch length hidden"],
    teacher: Float[Array, "batch length hidden"],
    mask: Int[Array, "batch length"],
    norm: Literal["valid", "deepspeed"] = "valid",
) -> Mean:
    """Squared error of one pair of hidden states, over real tokens (``valid``) or all."""
    error = jnp.square(student.astype(jnp.float32) - teacher.astype(jnp.float32))
    if norm == "deepspeed":
        return Mean(jnp.sum(error), jnp.asarray(error.size, error.dtype))
    real = mask > 0
    total = jnp.sum(jnp.where(real[..., None], error, 0))
    return Mean(total, jnp.sum(real).astype(total.dtype) * student.shape[-1])


def distillation_terms(
    student: Outputs,
    teacher: Outputs,
    mask: Int[Array, "batch length"],
    valid: Bool[Array, " batch"],
    layers: LayerMap,
    spec: DistillSpec,
    regression: bool,
    projection: Mapping[str, Array] | None = None,
) -> dict[str, Term]:
    """The three distillation terms.

    Args:
      student, teacher: outputs with intermediates.
      mask: 1 for tokens, 0 for padding; rows that only fill the batch up are all 0.
      valid: False for rows that only fill the batch up.
      layers: the student's layer map.
      spec: weights and normalisations.
      regression: the head predicts a number.
      projection: one learned ``weight (teacher hidden, student hidden)`` and ``bias`` that every hidden state of a student
        of another width goes through (TinyBERT's ``fit_dense``); None where the widths are equal.

    Returns:
      ``{"logit": …, "attention": …, "hidden": …}`` without the terms of weight 0.
    """
    terms: dict[str, Term] = {}
    if spec.logit:
        logit = logit_loss(student.logits, teacher.logits, valid, regression, spec.logit_norm, spec.temperature)
        terms["logit"] = Term(spec.logit, (logit,))
    if spec.attention:
        means = [
            attention_loss(student.attention_scores[s], teacher.attention_scores[t], mask, spec.attention_norm)
            for s, t in layers.attention_pairs
        ]
        terms["attention"] = Term(spec.attention, tuple(means))
    if spec.hidden:
        means = [
            hidden_loss(project(student.hidden_states[s], projection), teacher.hidden_states[t], mask, spec.hidden_norm)
            for s, t in layers.hidden_pairs
        ]
        terms["hidden"] = Term(spec.hidden, tuple(means))
    return terms


def project(hidden: Float[Array, "batch length k"], projection: Mapping[str, Array] | None) -> Float[Array, "batch length n"]:
    """``hidden @ weight.T + bias`` in float32, or ``hidden`` itself."""
    if projection is None:
        return hidden
    return jnp.einsum("blk,nk->bln", hidden.astype(jnp.float32), projection["weight"]) + projection["bias"]


def new_projection(key: Key[Array, ""], student: int, teacher: int, std: float = 0.02) -> dict[str, Array]:
    """A fresh projection from ``student`` to ``teacher`` features: normal weights, zero bias."""
    return {"weight": std * jax.random.normal(key, (teacher, student)), "bias": jnp.zeros(teacher)}


def _masked(each: Array, valid: Array) -> Mean:
    return Mean(jnp.sum(jnp.where(valid, each, 0)), jnp.sum(valid).astype(each.dtype))
