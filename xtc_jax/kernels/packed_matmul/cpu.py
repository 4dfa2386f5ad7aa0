"""``packed_matmul`` on a CPU: C++ behind XLA's FFI, from the packed bits, without a copy of the weights in int8.

One call quantizes tokens, sums integers, and finishes with the scales, the bias and the activation in the order and with the
roundings of ``reference.py`` as XLA:CPU compiles it. The sources and the layout are in ``native/``; ``cpu_encoder.py`` has all
layers of a BERT in one call. A call has no derivative, and ``vmap`` makes one call after the other of it; :func:`fresh_matmul`
is for training, where the caller has the derivative and the weight is another in every step.
"""

import ctypes
import functools
import math
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int8, Int32, UInt8

from xtc_jax.errors import UserError
from xtc_jax.kernels.layout import STORED_LAYOUTS, unpack_base3, unpack_codes
from xtc_jax.kernels.packed_matmul import reference
from xtc_jax.kernels.packed_matmul.native.build import HERE, LIBRARY
from xtc_jax.kernels.tensor import PackedTensor

LAYOUT, WORDS = LAYOUTS = ("groups16.v1", "words16.v1")
"""uint8 ``(groups, ceil(K / 4), 64)``; of 1 bit for look-ups ``(groups, 4 ceil(K / 16), 64)``: see ``native/packed.h``."""
ISAS = ("portable", "avx2", "avx512vnni", "avx512lut", "avxvnni", "neon")
"""Instruction sets, by their number in the library."""
LOOK_UP, _BESIDE_LOOK_UP = "avx512lut", "avx512vnni"
"""Looks up sums of 1-bit weights, laid out as :data:`WORDS` for it alone; the other multiplies those of 2 bits there."""
VARIABLE = "XTC_CPU_ISA"
_LANES, _WORD, _LARGEST_K = 16, 16, 2**17
_TARGETS = {f"xtc_native_{name}": f"xtc_{name}" for name in ("floats", "integers", "fresh", "linear", "encoder")}
FUSED_ACTIVATIONS = ("", "gelu", "relu")
"""Those that the library computes, by their number in it; after others it leaves to XLA."""


@functools.cache
def library(path: Path = HERE / LIBRARY) -> ctypes.CDLL | str:
    """The library, its calls registered with XLA; or in words why there is none."""
    if not path.exists():
        return "the native library is not built (python -m xtc_jax.kernels.packed_matmul.native)"
    try:
        found = ctypes.CDLL(str(path))
        built = found.xtc_ffi_major(), found.xtc_ffi_minor()
        symbols = {target: getattr(found, symbol) for target, symbol in _TARGETS.items()}
    except (OSError, AttributeError) as error:  # damaged, or of an older version of these sources
        return f"the native library cannot be loaded, build it again: {error}"
    runs = runtime_version()
    if why := mismatch(built, runs):
        return why
    for target, symbol in symbols.items():
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(symbol), platform="cpu")
    return found


def runtime_version() -> tuple[int, int]:
    """Version of XLA's FFI in the installed jaxlib, as its headers have it; (0, 0) where they cannot be read."""
    try:
        text = (Path(jax.ffi.include_dir()) / "xla/ffi/api/c_api.h").read_text()
    except OSError:
        return 0, 0
    found = dict(re.findall(r"#define XLA_FFI_API_(MAJOR|MINOR) (\d+)", text))
    return int(found.get("MAJOR", 0)), int(found.get("MINOR", 0))


def mismatch(built: tuple[int, int], runs: tuple[int, int]) -> str:
    """Why a library built against one version of the FFI may not be registered with another, or ''.

    To register one that is too new breaks the CPU backend (jaxlib 0.10.2), so that it must be known before.
    """
    if built[0] == runs[0] and built[1] <= runs[1]:
        return ""
    return f"the native library is for FFI {built[0]}.{built[1]}, jaxlib has {runs[0]}.{runs[1]}; build it again"


def instruction_set() -> str:
    """The one that runs: the best of this processor, or that of ``XTC_CPU_ISA``.

    Raises:
      UserError: the variable names none, or one that this processor lacks.
      NotImplementedError: no library.
    """
    found = library()
    if isinstance(found, str):
        raise NotImplementedError(found)
    asked = os.environ.get(VARIABLE, "")
    if asked and asked not in instruction_sets():
        raise UserError(f"{VARIABLE}={asked}: this processor has {', '.join(instruction_sets())}; use one of them")
    return asked or ISAS[found.xtc_best_isa()]


def instruction_sets() -> tuple[str, ...]:
    """Those of :data:`ISAS` that this processor and the library have; none without a library."""
    found = library()
    return () if isinstance(found, str) else tuple(isa for number, isa in enumerate(ISAS) if found.xtc_runs_here(number))


def prepare(weights: PackedTensor, device_kind: str, isa: str = "") -> PackedTensor:
    """``weights`` with its codes laid out for the library: 1 or 2 bits a weight still.

    Args:
      weights: in a layout of files.
      device_kind: of the device that multiplies.
      isa: one of :data:`ISAS` that it is laid out for; that of :func:`instruction_set` where there is none.

    Raises:
      NotImplementedError: another device, no library, or a weight that it does not multiply.
    """
    if device_kind != "cpu":
        raise NotImplementedError(f"for a CPU, not {device_kind}")
    layout = WORDS if (isa or instruction_set()) == LOOK_UP and weights.bits == 1 else LAYOUT
    if not weights.is_integer:
        raise NotImplementedError("zero points, or groups inside a row: no integer product")
    if weights.bits > 2 or weights.layout not in STORED_LAYOUTS:
        raise NotImplementedError(f"codes of 1 or 2 bits in a layout of files, not {weights.bits} in {weights.layout}")
    if weights.shape[1] >= _LARGEST_K:
        raise NotImplementedError(f"K = {weights.shape[1]}: sums could leave int32")
    unpack = unpack_codes if weights.layout == STORED_LAYOUTS[0] else lambda codes, _, k: unpack_base3(codes, k)
    codes = unpack(weights.codes, weights.bits, weights.shape[1])
    packed = _pack_words(codes) if layout == WORDS else _pack(codes, weights.bits)
    return replace(weights, codes=packed, layout=layout, device=device_kind)


def codes_shape(shape: tuple[int, int], bits: int, layout: str = LAYOUT) -> tuple[int, int, int]:
    """Shape of the codes of a weight ``(N, K)``."""
    steps = 4 * -(-shape[1] // _WORD) if layout == WORDS else -(-shape[1] // 4)
    return -(-shape[0] // (_LANES * 8 // bits)), steps, 4 * _LANES


def _pack_words(codes: UInt8[Array, "n k"]) -> UInt8[Array, "groups k4 64"]:
    """Codes of 1 bit in :data:`WORDS`; what is padded has code 0."""
    n, k = codes.shape
    groups, steps, size = codes_shape((n, k), 1, WORDS)
    words, outputs = steps // 4, 8 * _LANES
    grid = jnp.pad(codes, ((0, groups * outputs - n), (0, words * _WORD - k))).reshape(groups, outputs, words, 2, 8)
    packed = lax.reduce(grid << jnp.arange(8, dtype=jnp.uint8), np.uint8(0), lax.bitwise_or, (4,))
    return packed.transpose(0, 2, 1, 3).reshape(groups, steps, size)


def _pack(codes: UInt8[Array, "n k"], bits: int) -> UInt8[Array, "groups k4 64"]:
    """Codes in :data:`LAYOUT`; what is padded has code 0."""
    (n, k), planes = codes.shape, 8 // bits
    groups, steps, _ = codes_shape((n, k), bits)
    grid = jnp.pad(codes, ((0, groups * planes * _LANES - n), (0, 4 * steps - k)))
    grid = grid.reshape(groups, planes, _LANES, steps, 4) << (bits * jnp.arange(planes, dtype=jnp.uint8))[:, None, None, None]
    packed = lax.reduce(grid, np.uint8(0), lax.bitwise_or, (1,))
    return packed.transpose(0, 2, 1, 3).reshape(groups, steps, 4 * _LANES)


def matmul(
    x: Float[Array, "m k"] | Int8[Array, "m k"],
    weights: PackedTensor,
    x_scale: Float[Array, "..."] | None = None,
    bias: Float[Array, " n"] | None = None,
    *,
    activation: str = "",
    dtype: Any = jnp.float32,
    isa: str = "",
    threads: int = 0,
) -> Array:
    """The three steps of ``reference.py``; ``dtype`` int32 returns the sums as they are.

    Args:
      x, weights, x_scale, bias, activation, dtype: see :func:`xtc_jax.kernels.packed_matmul`.
      isa: one of :data:`ISAS` that the layout is for; the best, or that of ``XTC_CPU_ISA``, where there is none. Changes no bit
        of the result.
      threads: at most so many work; 0: as many as XLA has. Changes no bit of the result.

    Raises:
      ValueError: codes that are not those of a weight of this shape, or laid out for another instruction set.
      NotImplementedError: no library.
    """
    expected = codes_shape(weights.shape, weights.bits, weights.layout)
    if weights.codes.shape != expected or weights.codes.dtype != jnp.uint8:
        raise ValueError(
            f"codes {weights.codes.dtype}{weights.codes.shape} are not those of a weight {weights.shape}: {expected}"
        )
    if x_scale is None and weights.shape[1] == 0:
        x, x_scale = reference.quantize_tokens(x)
    options = call_options([weights], isa, threads) | {"bits": np.int64(weights.bits)}
    if x_scale is not None:
        sums = _integers(x, weights, options)
        return sums if dtype == jnp.int32 else reference.epilogue(sums, x_scale, weights.scale, bias, activation, dtype)
    if dtype == jnp.int32:
        return _floats(x.astype(jnp.float32), weights, options)[0]
    fused = activation if activation in FUSED_ACTIVATIONS else ""
    y = _linear(x.astype(jnp.float32), weights, bias, options | {"activation": np.int64(FUSED_ACTIVATIONS.index(fused))})
    return (y if fused == activation else reference.ACTIVATIONS[activation](y)).astype(dtype)


def call_options(weights: Sequence[PackedTensor], isa: str = "", threads: int = 0) -> dict[str, np.int64]:
    """What every call of the library is told.

    Raises:
      ValueError: weights that are laid out for another instruction set than ``isa``, or for two.
    """
    look_up = {each.layout == WORDS for each in weights if each.bits == 1}
    if len(look_up) > 1 or (isa and True in look_up and isa != LOOK_UP) or (isa == LOOK_UP and False in look_up):
        raise ValueError(
            f"weights are not laid out for {isa or 'one instruction set'}: prepare them for the one that multiplies"
        )
    fitting = isa or instruction_set()
    if True in look_up:
        fitting = LOOK_UP
    elif fitting == LOOK_UP:
        fitting = _BESIDE_LOOK_UP
    return {"isa": np.int64(ISAS.index(fitting)), "threads": np.int64(threads)}


def _floats(x: Array, weights: PackedTensor, options: dict[str, np.int64]) -> tuple[Array, Array]:
    """Sums ``(M, N)`` and scales ``(M, 1)`` of float tokens."""
    m, n = x.shape[0], weights.shape[0]
    results = jax.ShapeDtypeStruct((m, n), jnp.int32), jax.ShapeDtypeStruct((m, 1), jnp.float32)
    sums, scale = jax.ffi.ffi_call("xtc_native_floats", results, vmap_method="sequential")(x, weights.codes, **options)
    return sums, scale


def _integers(x: Array, weights: PackedTensor, options: dict[str, np.int64]) -> Array:
    """Sums ``(M, N)`` of int8 tokens."""
    results = jax.ShapeDtypeStruct((x.shape[0], weights.shape[0]), jnp.int32)
    return jax.ffi.ffi_call("xtc_native_integers", results, vmap_method="sequential")(x, weights.codes, **options)


def _linear(x: Array, weights: PackedTensor, bias: Array | None, options: dict[str, np.int64]) -> Array:
    """The finished product ``(M, N)`` of float tokens, float32."""
    m, n = x.shape[0], weights.shape[0]
    results = jax.ShapeDtypeStruct((m, n), jnp.float32), jax.ShapeDtypeStruct((m, 1), jnp.float32)
    added = jnp.zeros(0, jnp.float32) if bias is None else bias.astype(jnp.float32)
    call = jax.ffi.ffi_call("xtc_native_linear", results, vmap_method="sequential")
    return call(x, weights.codes, weights.scale.astype(jnp.float32), added, **options)[0]


def fresh_matmul(x: Int8[Array, "*batch k"], weight: Int8[Array, "n k"], bits: int, isa: str = "") -> Int32[Array, "*batch n"]:
    """``sum_k x[..., k] * weight[n, k]`` in int32, exact; the weight is packed in the call.

    Args:
      x: tokens.
      weight: -1 and 1 (1 bit), or -1 to 2 (2 bits); other values give other sums than their own.
      bits: 1 or 2.
      isa: one of :data:`ISAS`; the best, or that of ``XTC_CPU_ISA``, where there is none. Changes no bit of the result.

    Raises:
      ValueError: other bits, or a K of 2^17 or more.
      NotImplementedError: no library.
    """
    n, k = weight.shape
    if bits not in (1, 2) or k >= _LARGEST_K:
        raise ValueError(f"{bits} bits and K = {k}: there is a product of 1 or 2 bits and K below {_LARGEST_K}")
    best = instruction_set()  # before the call: it registers the library
    chosen = isa or best
    chosen = _BESIDE_LOOK_UP if chosen == LOOK_UP and bits > 1 else chosen
    rows = x.reshape(math.prod(x.shape[:-1]), k)
    call = jax.ffi.ffi_call("xtc_native_fresh", jax.ShapeDtypeStruct((rows.shape[0], n), jnp.int32), vmap_method="sequential")
    sums = call(rows, weight, bits=np.int64(bits), isa=np.int64(ISAS.index(chosen)), threads=np.int64(0))
    return sums.reshape(*x.shape[:-1], n)


def is_built() -> bool:
    """Whether there is a library that can be called."""
    return not isinstance(library(), str)


def is_fast() -> bool:
    """Whether there is one, with instructions of this processor that make it faster than XLA."""
    return is_built() and instruction_set() != ISAS[0]
