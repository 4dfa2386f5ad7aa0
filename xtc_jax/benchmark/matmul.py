"""``xtc benchmark matmul``: the product of a Linear, from float activations to float results, by packed weights and others."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from xtc_jax.benchmark.device import environment, label, peaks
from xtc_jax.benchmark.results import Benchmark
from xtc_jax.benchmark.timing import interleave, ratio
from xtc_jax.errors import UserError
from xtc_jax.kernels import PackedTensor, choose, integer_matmul, pack_tensor, packed_matmul, prepare

SHAPES = ((768, 768), (768, 3072), (3072, 768))
"""``(K, N)`` of the Linears of BERT-base."""
TOKENS = (1, 8, 32, 128, 512, 4096)
BITS = (1, 2)
_OURS, _REFERENCE, _BFLOAT16, _INT8, _FLOAT32 = "ours", "unpacked each call", "XLA bfloat16", "XLA int8", "float32"
_COLUMNS = ("K", "N", "M", "bits", "backend", _OURS, _REFERENCE, _BFLOAT16, _INT8, _FLOAT32, "roofline")
_RATIOS = {f"x {name}": name for name in (_BFLOAT16, _INT8, _FLOAT32)}
_NOTES = (
    "Microseconds, medians; x: how many times faster ours is, the median of paired rounds.",
    "ours, unpacked each call: from float32 activations, quantized per token, to float32. XLA int8: the bare int8 product with "
    "unpacked weights, nothing quantized. roofline: ours at the device's peaks.",
)


def measure_matmul(
    log: Callable[[str], None],
    command: str,
    shapes: Sequence[tuple[int, int]] = SHAPES,
    tokens: Sequence[int] = TOKENS,
    backend: str = "",
    rounds: int = 9,
) -> Benchmark:
    """Check every product against int64, then time it against its rivals.

    Args:
      log: receives a line of text about each measurement.
      command: to be repeated, for the record.
      shapes: ``(K, N)`` of weights.
      tokens: rows of the activations.
      backend: of ours; "" is what the dispatcher chooses.
      rounds: how many turns each contestant takes.

    Raises:
      UserError: the backend does not serve the device, or a product is wrong.
    """
    device = jax.devices()[0]
    limits, rows = peaks(device), []
    for k, n in shapes:
        for m in tokens:
            log(f"matmul: {m} x {k} times {k} x {n}")
            rows += _rows(device, (m, k, n), backend, rounds, limits)
    source = () if limits is None else (f"Peaks of the roofline: {limits.source}.",)
    title = f"packed matmul on {device.device_kind}"
    columns = (*_COLUMNS, *_RATIOS)
    bars = _COLUMNS[5:10]
    return Benchmark(
        f"matmul_{label(device)}",
        title,
        command,
        environment(device),
        columns,
        tuple(rows),
        bars,
        "microseconds",
        (*_NOTES, *source),
    )


def _rows(device: jax.Device, shape: tuple[int, int, int], backend: str, rounds: int, limits: Any) -> list[dict[str, Any]]:
    """One row for each number of bits, everything of this shape timed in the same rounds."""
    m, k, n = shape
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(m, k)), jnp.float32)
    weights = {bits: _weights(rng, n, k, bits) for bits in BITS}
    try:
        laid_out = {bits: prepare(weights[bits], device.device_kind, backend) for bits in BITS}
    except ValueError as error:
        raise UserError(f"--backend={backend}: {error}") from None
    for bits in BITS:
        _check(rng, weights[bits], laid_out[bits], m)
    wide, narrow, codes = weights[2].dequantize(), weights[2].dequantize().astype(jnp.bfloat16), weights[2].values()
    multiply, product = jax.jit(packed_matmul), jax.jit(_product, static_argnums=2)
    integers, halves = jnp.asarray(rng.integers(-128, 128, (m, k)), jnp.int8), x.astype(jnp.bfloat16)
    contestants: dict[str, Callable[[], Any]] = {
        _BFLOAT16: functools.partial(product, halves, narrow, jnp.float32),
        _INT8: functools.partial(product, integers, codes, jnp.int32),
        _FLOAT32: functools.partial(product, x, wide, jnp.float32),
    }
    for bits in BITS:
        contestants[f"{_OURS} {bits}"] = functools.partial(multiply, x, laid_out[bits])
        contestants[f"{_REFERENCE} {bits}"] = functools.partial(multiply, x, weights[bits])
    found = interleave(contestants, rounds)
    rows = []
    for bits in BITS:
        ours = found[f"{_OURS} {bits}"]
        times = {_OURS: ours, _REFERENCE: found[f"{_REFERENCE} {bits}"], **{name: found[name] for name in _RATIOS.values()}}
        row: dict[str, Any] = {"K": k, "N": n, "M": m, "bits": bits}
        row["backend"] = choose(weights[bits], device.device_kind, backend).backend
        row |= {name: 1e6 * timing.median for name, timing in times.items()}
        row |= {name: ratio(found[other], ours) for name, other in _RATIOS.items()}
        moved = x.nbytes + laid_out[bits].codes.nbytes + 4 * m * n
        row["roofline"] = None if limits is None else 1e6 * limits.seconds("int8", 2 * m * k * n, moved)
        rows.append(row)
    return rows


def _weights(rng: np.random.Generator, n: int, k: int, bits: int) -> PackedTensor:
    levels = jnp.asarray(rng.choice([-1, 1] if bits == 1 else [-1, 0, 1], size=(n, k)), jnp.int8)
    return pack_tensor(levels, jnp.full(1, 0.05), bits)


def _product(x: Array, w: Array, total: Any) -> Array:
    """``x @ w.T`` as XLA does it."""
    return jax.lax.dot_general(x, w, (((1,), (1,)), ((), ())), preferred_element_type=total)


def _check(rng: np.random.Generator, weights: PackedTensor, laid_out: PackedTensor, m: int) -> None:
    """Speed is worth nothing where the integers are wrong."""
    x = rng.integers(-128, 128, (min(m, 64), weights.shape[1]))
    expected = x @ np.asarray(weights.values(), np.int64).T
    if not np.array_equal(jax.jit(integer_matmul)(jnp.asarray(x, jnp.int8), laid_out), expected):
        raise UserError(f"the product of layout {laid_out.layout} is wrong on this device: please report it; nothing was timed")
