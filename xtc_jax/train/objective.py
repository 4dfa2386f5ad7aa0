"""What a stage trains, and the two lines that every forward pass begins with."""

from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Array

from xtc_jax.bert import BertConfig, BertOutput, apply
from xtc_jax.compress import DistillSpec, LayerMap
from xtc_jax.devices import Arithmetic
from xtc_jax.params import Params
from xtc_jax.quantize import QuantRules, fake_quantize

DeviceBatch = dict[str, Array]


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
      arithmetic: in what quantized Linears multiply integers, forward; the result is the same up to float rounding.
      accumulate: parts in which a batch is computed, one after another, to save memory. The step is the same up to the order of
        float sums, but for dropout, which draws other random numbers, and ranges of activations over a whole batch.
      teacher_dtype: bfloat16 rounds the teacher's hidden states and attention scores to it before they are compared; float32
        leaves them as they are computed.
      freeze: lower layers that do not train, see :func:`xtc_jax.train.frozen.trained`; -1: all train.
      lazy_embeddings: whether a step leaves the rows of the word table that its batch does not read as they are, see
        :mod:`xtc_jax.train.lazy`.
    """

    student: BertConfig
    rules: QuantRules | None
    teacher: BertConfig | None
    layers: LayerMap
    spec: DistillSpec
    teacher_rules: QuantRules | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    arithmetic: Arithmetic = "float"
    accumulate: int = 1
    teacher_dtype: Literal["float32", "bfloat16"] = "float32"
    freeze: int = -1
    lazy_embeddings: bool = False

    @property
    def projects(self) -> bool:
        """Whether hidden states are compared through a learned projection: teacher and student differ in width."""
        return self.teacher is not None and self.spec.hidden > 0 and self.teacher.hidden_size != self.student.hidden_size


def forward(config: BertConfig, params: Params, batch: DeviceBatch, **options: Any) -> BertOutput:
    """:func:`xtc_jax.bert.apply` on a batch."""
    return apply(config, params, batch["input_ids"], batch["token_type_ids"], batch["attention_mask"], **options)


def compute_params(params: Params, rules: QuantRules | None, **options: Any) -> Params:
    """The params a model computes with: latent ones, or their :func:`fake_quantize`."""
    return params if rules is None else fake_quantize(params, rules, **options)
