"""Operations of the matrix products in a traced function."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr  # type: ignore[attr-defined]
from jax.interpreters import partial_eval


def matmul_operations(jaxpr: ClosedJaxpr) -> dict[str, int]:
    """Multiplications and additions, counted each, of all ``dot_general``, by the dtype of their operands.

    A product of ``(b, m, k)`` by ``(b, k, n)`` is ``2 b m k n``. Loops are counted as often as they run, which the compiler's
    own count does not do; of a conditional the dearest branch; what no result depends on is left out, as the compiler does.
    """
    live, _ = partial_eval.dce_jaxpr(jaxpr.jaxpr, [True] * len(jaxpr.jaxpr.outvars))
    return dict(_count(live))


def _count(jaxpr: Any) -> Counter[str]:
    found: Counter[str] = Counter()
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval
            depth = math.prod(left.shape[axis] for axis in contracted)
            found[str(left.dtype)] += 2 * depth * math.prod(equation.outvars[0].aval.shape)
        inner = [_count(body) for body in _bodies(equation.params)]
        if name == "cond":
            inner = [max(inner, key=Counter.total)]
        for counts in inner:
            for dtype, count in counts.items():
                found[dtype] += count * (equation.params["length"] if name == "scan" else 1)
    return found


def _bodies(params: Mapping[str, Any]) -> Iterator[Any]:
    """The jaxprs among the parameters of an equation."""
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, ClosedJaxpr | Jaxpr):
                yield each.jaxpr if isinstance(each, ClosedJaxpr) else each
