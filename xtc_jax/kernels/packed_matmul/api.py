"""``packed_matmul``: the public op, and the choice of what computes it.

A weight carries its backend: :func:`prepare` lays its codes out for one, once, when a model is loaded, and the layout says
from then on what multiplies it. So the choice is made outside of ``jit``, needs no global, and travels with the weight
through ``vmap``, ``shard_map``, ahead-of-time compilation and ``jax.export``.
"""

import functools
import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8, Int32

from xtc_jax.kernels.layout import GPU_PLANES256, INT8, STORED_LAYOUTS, TPU_WORDS, code_width
from xtc_jax.kernels.packed_matmul import cpu, reference
from xtc_jax.kernels.packed_matmul.reference import ACTIVATIONS
from xtc_jax.kernels.tensor import PackedTensor


class _Backend(NamedTuple):
    """One way to multiply: the layouts it reads, how to get there, and the op on ``(M, K)``."""

    layouts: tuple[str, ...]
    prepare: Callable[[PackedTensor, str], PackedTensor]
    matmul: Callable[..., Array]


def _when_called(module: str, function: str) -> Callable[..., Any]:
    """A function of a module that is imported at the first call: Pallas takes as long to import as the rest of the package."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module(f"{__package__}.{module}"), function)(*args, **kwargs)

    return call


_BACKENDS: Mapping[str, _Backend] = MappingProxyType(
    {
        "mosaic_tpu": _Backend((TPU_WORDS,), _when_called("mosaic_tpu", "prepare"), _when_called("mosaic_tpu", "matmul")),
        "mosaic_gpu": _Backend((GPU_PLANES256,), _when_called("mosaic_gpu", "prepare"), _when_called("mosaic_gpu", "matmul")),
        "native_cpu": _Backend(cpu.LAYOUTS, cpu.prepare, cpu.matmul),
        "xla": _Backend((INT8,), reference.prepare, reference.matmul),
        "reference": _Backend(STORED_LAYOUTS, lambda weights, _: weights, reference.matmul),
    }
)
BACKENDS = tuple(_BACKENDS)
"""``xla`` multiplies weights that were unpacked once; ``reference`` unpacks them at every call, and serves any weight."""


@dataclass(frozen=True)
class Choice:
    """What multiplies a weight on a device, and why.

    Attributes:
      backend: one of :data:`BACKENDS`.
      why: in words, with the reasons for which others were passed over.
    """

    backend: str
    why: str


def choose(weights: PackedTensor, device_kind: str, backend: str = "") -> Choice:
    """The backend for ``weights`` on a kind of device (``jax.Device.device_kind``: "cpu", "TPU v5 lite", "NVIDIA H100 …").

    Args:
      weights: in a layout of files; looked at, not computed with.
      device_kind: where it is going to be multiplied.
      backend: takes this one.

    Raises:
      ValueError: no such backend, or it cannot serve this weight on this device; says why.
    """
    order, why = ((backend,), "as asked") if backend else _preference(device_kind)
    refused = []
    for name in order:
        if name not in _BACKENDS:
            raise ValueError(f"backend {name!r} is not known; use one of {', '.join(BACKENDS)}")
        try:
            jax.eval_shape(lambda each: _BACKENDS[name].prepare(each, device_kind), weights)  # noqa: B023 (called at once)
        except NotImplementedError as error:
            refused.append(f"{name}: {error}")
            continue
        return Choice(name, "; ".join([why if name == order[0] else "the next that serves it", *refused]))
    raise ValueError(f"no backend multiplies this weight on {device_kind}: {'; '.join(refused)}")


def _preference(device_kind: str) -> tuple[tuple[str, ...], str]:
    """Backends for a device in order, and the reason for the first."""
    if device_kind.startswith("TPU"):
        return (
            "mosaic_tpu",
            "xla",
            "reference",
        ), "unpacking costs no bundles beside int8 weights (benchmarks/README.md)"
    if device_kind.startswith("NVIDIA"):
        # Not the kernel: until it has run on such a device and its time stands in a table, it must be asked for.
        return ("xla", "reference"), "mosaic_gpu has not been measured on a GPU, and XLA's int8 product is known to work"
    return _preference_of_cpu() if device_kind == "cpu" else (("xla", "reference"), f"no kernel is known for {device_kind}")


def _preference_of_cpu() -> tuple[tuple[str, ...], str]:
    """The library where it is built and has fast instructions; in plain C++ it is slower than XLA."""
    found = cpu.library()
    isa = "" if isinstance(found, str) else cpu.instruction_set()
    if isa in ("", cpu.ISAS[0]):
        why = found if isinstance(found, str) else "the native library has no fast instructions for this processor"
        return ("xla", "reference"), f"int8, unpacked once; {why}"
    why = f"multiplies the packed bits with {isa}: faster than XLA's int8 (docs/kernels.md, section 6)"
    return ("native_cpu", "xla", "reference"), why


def prepare(weights: PackedTensor, device_kind: str, backend: str = "") -> PackedTensor:
    """``weights`` with its codes laid out for what :func:`choose` chooses.

    Raises:
      ValueError: see :func:`choose`.
    """
    return _BACKENDS[choose(weights, device_kind, backend).backend].prepare(weights, device_kind)


def integer_matmul(x: Int8[Array, "*batch k"], weights: PackedTensor) -> Int32[Array, "*batch n"]:
    """``sum_k x[..., k] * w[n, k]`` in int32, exact on every backend.

    Raises:
      ValueError, TypeError: see :func:`packed_matmul`.
    """
    return _call(x, weights, jnp.zeros((), jnp.float32), dtype=jnp.int32)


def packed_matmul(
    x: Float[Array, "*batch k"] | Int8[Array, "*batch k"],
    weights: PackedTensor,
    *,
    x_scale: Float[Array, "..."] | None = None,
    bias: Float[Array, " n"] | None = None,
    activation: str = "",
    dtype: Any = jnp.float32,
) -> Float[Array, "*batch n"]:
    """``activation((x * x_scale) @ weights.T + bias)`` with integer arithmetic inside, by the backend that ``weights`` suits.

    Args:
      x: float activations, quantized here to int8 per token; or int8 ones, with ``x_scale``.
      weights: ``(N, K)``, one scale per matrix or per row.
      x_scale: scales of int8 ``x``, float32: one per token, ``(*batch, 1)``, or one for all, which broadcasts against that.
      bias: float, added in float32.
      activation: ``gelu``, ``gelu_new``, ``relu`` or none, of the sum.
      dtype: of the result, a float type.

    Returns:
      The sum over K is exact in int32; only the scales, the bias and the activation round, in float32.

    Raises:
      ValueError: shapes that do not fit, a layout or an activation that is not known, or codes that are not of their layout.
      TypeError: dtypes that do not fit.
    """
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"packed_matmul returns floats, not {jnp.dtype(dtype).name}; integer_matmul returns the int32 sums")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is not known; use one of {', '.join(filter(None, ACTIVATIONS))} or ''")
    return _call(x, weights, x_scale, bias=bias, activation=activation, dtype=dtype)


def _call(x: Array, weights: PackedTensor, x_scale: Array | None, **epilogue: Any) -> Array:
    """Check, flatten the batch, multiply."""
    backend = _backend_of(weights)
    _check_operands(x, weights, x_scale, epilogue.get("bias"))
    n, k = weights.shape
    batch = x.shape[:-1]
    if backend.matmul is reference.matmul:  # any rank: XLA fuses what surrounds it better without reshapes
        return backend.matmul(x, weights, x_scale, **epilogue)
    if x_scale is not None:
        x_scale = jnp.broadcast_to(x_scale, (*batch, 1)).reshape(-1, 1)
    return backend.matmul(x.reshape(math.prod(batch), k), weights, x_scale, **epilogue).reshape(*batch, n)


def _backend_of(weights: PackedTensor) -> _Backend:
    for backend in _BACKENDS.values():
        if weights.layout in backend.layouts:
            return backend
    known = ", ".join(layout for backend in _BACKENDS.values() for layout in backend.layouts)
    raise ValueError(f"a weight in layout {weights.layout!r}, which is not known here (known: {known}); is xtc_jax too old?")


def _check_operands(x: Array, weights: PackedTensor, x_scale: Array | None, bias: Array | None) -> None:
    n, k = weights.shape
    if x.ndim == 0 or x.shape[-1] != k:
        raise ValueError(f"x of shape {x.shape} does not fit a weight of shape {weights.shape}: its last axis must be {k}")
    if not weights.is_integer:
        raise ValueError(
            "a weight with zero points or groups inside its rows has no integer product; multiply its dequantize()"
        )
    width = k if weights.layout == INT8 else code_width(k, weights.bits, weights.layout)
    if weights.layout in (INT8, *STORED_LAYOUTS) and weights.codes.shape != (n, width):
        raise ValueError(
            f"codes of shape {weights.codes.shape} are not those of a weight of shape {weights.shape}: ({n}, {width})"
        )
    if bias is not None and bias.shape != (n,):
        raise ValueError(f"bias of shape {bias.shape} does not fit a weight of shape {weights.shape}: it must be ({n},)")
    if (x.dtype == jnp.int8) == (x_scale is None) or not (x.dtype == jnp.int8 or jnp.issubdtype(x.dtype, jnp.floating)):
        given = "without" if x_scale is None else "with"
        raise TypeError(f"x is {x.dtype} {given} x_scale; it is a float without one, or int8 with one")


@functools.cache
def native_product(bits: int) -> Callable[[Array, Array], Array] | None:
    """:func:`xtc_jax.kernels.packed_matmul.cpu.fresh_matmul` at so many bits; None where it has no such product."""
    return functools.partial(cpu.fresh_matmul, bits=bits) if bits <= 2 else None
