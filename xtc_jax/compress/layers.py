"""Layer reduction: the student's layers are copies of some of the teacher's.

XTC section 4; ``student_initialization`` of ``deepspeed/compression/compress.py``. Embeddings, pooler and
classifier are copied as well, from the *fine-tuned* teacher.
"""

import itertools
from dataclasses import dataclass

from xtc_jax.errors import UserError
from xtc_jax.quantize import Params


@dataclass(frozen=True)
class LayerMap:
    """Which teacher layer every student layer comes from, and is distilled against.

    Attributes:
      teacher_layers: 0-based indices, one per student layer, increasing.
    """

    teacher_layers: tuple[int, ...]

    @property
    def attention_pairs(self) -> tuple[tuple[int, int], ...]:
        """(student layer, teacher layer) whose attention scores are compared."""
        return tuple(enumerate(self.teacher_layers))

    @property
    def hidden_pairs(self) -> tuple[tuple[int, int], ...]:
        """(student, teacher) indices into the hidden states, which start with the embedding output.

        State ``i + 1`` is the output of layer ``i``. The student's embedding output is paired with the
        teacher's state ``max(t0 - 1, 0)``, t0 the first kept layer: method.md section 2.6. (DeepSpeed has
        ``t0 - 1``, and so -1, the teacher's *last* state, where t0 is 0.)

        >>> LayerMap((2, 4, 6, 8, 10)).hidden_pairs
        ((0, 1), (1, 3), (2, 5), (3, 7), (4, 9), (5, 11))
        """
        first = max(self.teacher_layers[0] - 1, 0)
        return tuple(enumerate((first, *(layer + 1 for layer in self.teacher_layers))))


def layer_map(teacher_layers: tuple[int, ...], teacher_depth: int) -> LayerMap:
    """A checked :class:`LayerMap`; an empty list keeps every layer.

    Raises:
      UserError: an index outside the teacher, or not increasing.
    """
    layers = tuple(teacher_layers) or tuple(range(teacher_depth))
    outside = [layer for layer in layers if not 0 <= layer < teacher_depth]
    if outside:
        raise UserError(f"layers={layers}: the teacher has layers 0 to {teacher_depth - 1}, not {outside[0]}")
    if any(a >= b for a, b in itertools.pairwise(layers)):
        raise UserError(f"layers={layers}: the indices must increase")
    return LayerMap(layers)


def reduce_layers(params: Params, layers: LayerMap) -> Params:
    """The student's initial params: the teacher's, with layer ``i`` taken from ``teacher_layers[i]``.

    Args:
      params: the teacher's nested dict, with ``encoder/layer_<i>``.
      layers: which to keep.
    """
    encoder = params["encoder"]
    kept = {f"layer_{i}": encoder[f"layer_{t}"] for i, t in layers.attention_pairs}
    return {**params, "encoder": kept}
