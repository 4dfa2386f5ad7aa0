"""Layer reduction: the student's layers are copies of some of the teacher's.

XTC section 4; ``student_initialization`` of ``deepspeed/compression/compress.py``. Embeddings, pooler and
classifier are copied as well, from the *fine-tuned* teacher.
"""

import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from xtc_jax.errors import UserError
from xtc_jax.params import Params


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
        teacher's state ``max(t0 - 1, 0)``, t0 the first kept layer: docs/method.md, section 2.6. (DeepSpeed has
        ``t0 - 1``, and so -1, the teacher's *last* state, where t0 is 0.)

        >>> LayerMap((2, 4, 6, 8, 10)).hidden_pairs
        ((0, 1), (1, 3), (2, 5), (3, 7), (4, 9), (5, 11))
        """
        first = max(self.teacher_layers[0] - 1, 0)
        return tuple(enumerate((first, *(layer + 1 for layer in self.teacher_layers))))


def _every_other(depth: int, _: int) -> range:
    return range(1, depth, 2)


def _first(depth: int, count: int) -> range:
    del depth
    return range(count)


def _last(depth: int, count: int) -> range:
    return range(depth - count, depth)


def _evenly(depth: int, count: int) -> list[int]:
    return [-(-(i + 1) * (depth + 1) // (count + 1)) - 1 for i in range(count)]


NAMED_LAYERS: dict[str, Callable[[int, int], Iterable[int]]] = {
    "every_other": _every_other,
    "first": _first,
    "last": _last,
    "evenly": _evenly,
}
"""Ways to choose layers, ``function(teacher depth, n)``; all but ``every_other`` are written with their n, ``last(3)``."""


def parse_layers(text: str, teacher_depth: int) -> tuple[int, ...]:
    """The teacher layers that a config names.

    Args:
      text: ``"1,3,5"``, ``"every_other"`` (1, 3, 5, …), ``"first(n)"``, ``"last(n)"``, ``"evenly(n)"`` or "": all of them.
        ``evenly(n)`` cuts the teacher into n + 1 equal parts, ``ceil((i + 1) (L + 1) / (n + 1)) - 1``; of 12 layers that
        gives the paper's 6 and 5.
      teacher_depth: number of layers to choose from.

    >>> parse_layers("evenly(5)", 12), parse_layers("evenly(6)", 12)
    ((2, 4, 6, 8, 10), (1, 3, 5, 7, 9, 11))

    Raises:
      UserError: another form, or layers that the teacher does not have.
    """
    bare = re.sub(r"\s*([(),])\s*", r"\1", text.strip())  # no space between digits: "1 3" is not 13
    bare = bare[1:-1] if bare.startswith("(") and bare.endswith(")") else bare
    if not bare:
        return tuple(range(teacher_depth))
    if re.fullmatch(r"-?\d+(,-?\d+)*,?", bare):
        return layer_map(tuple(int(part) for part in bare.split(",") if part), teacher_depth).teacher_layers
    match = re.fullmatch(r"(every_other|(?P<name>first|last|evenly)\((?P<count>\d+)\))", bare)
    if match is None:
        raise UserError(f"layers={text!r}: use a list such as 1,3,5, or every_other, first(n), last(n), evenly(n)")
    count = int(match["count"] or teacher_depth // 2)
    if not 1 <= count <= teacher_depth:
        raise UserError(f"layers={text!r}: that keeps {count} of {teacher_depth} layers; keep 1 to {teacher_depth}")
    return tuple(NAMED_LAYERS[match["name"] or "every_other"](teacher_depth, count))


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
