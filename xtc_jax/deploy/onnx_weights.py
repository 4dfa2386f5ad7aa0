"""Packed weights in an ONNX graph: codes as initializers, looked up in a table that has one row per byte.

A runtime that folds constants unpacks a Linear's weight once, when it creates the session. Rows of an embedding are unpacked
when they are looked up. Codes lie consecutively, several to a byte: ``8 / bits`` of them, or five ternary ones in base 3.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from xtc_jax.deploy.onnx_graph import Graph
from xtc_jax.errors import UserError
from xtc_jax.kernels import BASE3, PLANES256, STORED_LAYOUTS, PackedTensor
from xtc_jax.kernels.layout import offset, stored_bits
from xtc_jax.quantize import ActivationSpec

FLOAT, INT32 = 1, 6
"""Element types of ``onnx.TensorProto``, whose module is optional."""
_TRITS = 5
_TINY = 1e-30


def weight_codes(weight: PackedTensor, name: str) -> np.ndarray:
    """Unsigned codes, uint8 ``(n, k)``.

    Raises:
      UserError: the weight is laid out for one device.
    """
    if weight.layout not in STORED_LAYOUTS:
        raise UserError(f"tensor {name}: layout {weight.layout} is that of one device's kernel; export a packed directory")
    return np.asarray(weight._unpacked_codes(weight.codes))


def byte_table(weight: PackedTensor, layout: str) -> np.ndarray:
    """Levels of each byte, float32 ``(256, codes per byte)``: ``code + zero`` is the level where the grid is asymmetric."""
    byte, bits = np.arange(256)[:, None], stored_bits(weight.bits)
    if _in_base3(weight, layout):
        codes = byte // 3 ** np.arange(_TRITS) % 3
    else:
        codes = byte >> bits * np.arange(8 // bits) & 2**bits - 1
    if weight.zero is not None:
        return codes.astype(np.float32)
    return (2 * codes - 1 if weight.bits == 1 else codes - offset(weight.bits)).astype(np.float32)


def pack_consecutive(codes: np.ndarray, weight: PackedTensor, layout: str) -> np.ndarray:
    """Rows of codes as bytes, the first code lowest; codes that fill the last byte of a row are 0."""
    bits, base3 = stored_bits(weight.bits), _in_base3(weight, layout)
    each = _TRITS if base3 else 8 // bits
    padded = np.pad(codes, ((0, 0), (0, -codes.shape[1] % each))).reshape(len(codes), -1, each).astype(np.int64)
    place = 3 ** np.arange(_TRITS) if base3 else 1 << bits * np.arange(each)
    return (padded * place).sum(axis=2).astype(np.uint8)


def _in_base3(weight: PackedTensor, layout: str) -> bool:
    return layout == BASE3 and weight.bits == 2


def _unpacked(graph: Graph, name: str, table: np.ndarray, packed: str, dims: tuple[int, ...], width: int) -> str:
    """Bytes to levels: ``(..., bytes)`` to ``(*dims, width)``, in the type of the table."""
    each, kind = table.shape[1], table.dtype.name
    rows = graph.constant(f"constants/levels_of_bytes_{hash_of(table)}_{kind}", table)
    looked = graph.node("Gather", f"{name}.levels", rows, graph.node("Cast", f"{name}.bytes", packed, to=INT32), axis=0)
    flat = graph.node("Reshape", f"{name}.unpacked", looked, graph.integers(*dims, -1))
    if width % each == 0:
        return flat
    axis = graph.integers(len(dims))
    return graph.node("Slice", f"{name}.cut", flat, graph.integers(0), graph.integers(width), axis)


def hash_of(table: np.ndarray) -> str:
    """A name for a table: its width and the levels that it has."""
    return f"{table.shape[1]}_from_{table.min():g}_to_{table.max():g}"


def linear(graph: Graph, name: str, x: str, params: Mapping[str, Any], layout: str = PLANES256) -> str:
    """``x W^T + b``, the input quantized as the weight says; a weight in halves is the sum of two products."""
    weight, static = params["weight"], params.get("input_range")
    if isinstance(weight, Mapping):
        halves = [_product(graph, f"{name}/{half}", x, weight[half], static, layout) for half in ("first", "second")]
        product = graph.node("Add", f"{name}/halves", *halves)
    else:
        product = _product(graph, name, x, weight, static, layout)
    return graph.node("Add", f"{name}/Add", product, graph.floats(f"{name}/bias", params["bias"]))


def _product(graph: Graph, name: str, x: str, weight: Any, static: Any, layout: str) -> str:
    if not isinstance(weight, PackedTensor):
        transposed = graph.floats(f"{name}/weight", np.asarray(weight).T)
        return graph.node("MatMul", f"{name}/MatMul", x, transposed)
    spec = weight.activation
    if not (weight.is_integer and isinstance(spec, ActivationSpec) and spec.symmetric):
        return _float_product(graph, name, x, weight, static, layout)
    codes, scale = quantized_input(graph, x, spec, static)
    matrix = _integer_matrix(graph, name, weight, layout)
    zeros = (
        graph.constant("constants/zero_point", np.array(128, np.uint8)),
        graph.constant("constants/zero", np.array(0, np.int8)),
    )
    sums = graph.node("MatMulInteger", f"{name}/MatMulInteger", codes, matrix, *zeros)
    wide = graph.node("Cast", f"{name}/Cast", sums, to=FLOAT)
    # Two multiplications, and never one by the product of the scales: ONNX Runtime makes that into MatMulIntegerToFloat, whose
    # scale of the activations is documented as a scalar. See test_the_runtime_keeps_the_integer_products_as_they_are.
    by_token = graph.node("Mul", f"{name}/Mul_token_scale", wide, scale)
    return graph.node("Mul", f"{name}/Mul_weight_scale", by_token, graph.constant(f"{name}/weight.scale", weight.scale))


def _integer_matrix(graph: Graph, name: str, weight: PackedTensor, layout: str) -> str:
    """The weight as int8 ``(k, n)``, unpacked from rows of n codes."""
    codes, (n, k) = weight_codes(weight, name).T, weight.shape
    if stored_bits(weight.bits) == 8:
        return graph.constant(f"{name}/weight.codes", (codes.astype(np.int16) - offset(weight.bits)).astype(np.int8))
    packed = graph.constant(f"{name}/weight.codes", pack_consecutive(codes, weight, layout))
    return _unpacked(graph, f"{name}/weight", byte_table(weight, layout).astype(np.int8), packed, (k,), n)


def _float_product(graph: Graph, name: str, x: str, weight: PackedTensor, static: Any, layout: str) -> str:
    """The product of floats, as xtc_jax computes it: zero points, groups inside a row, or an input that is no integer."""
    if isinstance(weight.activation, ActivationSpec):
        x = fake_quantized_input(graph, name, x, weight.activation, static)
    matrix = graph.node("Transpose", f"{name}/weight.transposed", float_matrix(graph, name, weight, layout), perm=(1, 0))
    return graph.node("MatMul", f"{name}/MatMul", x, matrix)


def float_matrix(graph: Graph, name: str, weight: PackedTensor, layout: str) -> str:
    """The weight as float32 ``(n, k)``: any groups, with or without zero points."""
    (n, k), groups = weight.shape, weight.scale.shape[0]
    packed = graph.constant(f"{name}/weight.codes", pack_consecutive(weight_codes(weight, name), weight, layout))
    levels = _unpacked(graph, f"{name}/weight", byte_table(weight, layout), packed, (n,), k)
    grouped = graph.node("Reshape", f"{name}/weight.groups", levels, graph.integers(groups, -1))
    if weight.zero is not None:
        zero = graph.constant(f"{name}/weight.zero", np.asarray(weight.zero)[:, None])
        grouped = graph.node("Add", f"{name}/weight.shifted", grouped, zero)
    scale = graph.constant(f"{name}/weight.scale", np.asarray(weight.scale)[:, None])
    scaled = graph.node("Mul", f"{name}/weight.scaled", grouped, scale)
    return graph.node("Reshape", f"{name}/weight.float32", scaled, graph.integers(n, k))


def quantized_input(graph: Graph, x: str, spec: ActivationSpec, static: Any) -> tuple[str, str]:
    """uint8 codes with zero point 128, and their float32 scale; shared by the Linears that ask for the same."""
    key = (x, spec.bits, spec.range, None if spec.range != "static" else np.asarray(static).tobytes())
    if key not in graph.quantized:
        name = f"{x}/quantized_{spec.range}_{spec.bits}" + (f"_{len(graph.quantized)}" if spec.range == "static" else "")
        graph.quantized[key] = _quantized_input(graph, name, x, spec, static)
    return graph.quantized[key]


def _quantized_input(graph: Graph, name: str, x: str, spec: ActivationSpec, static: Any) -> tuple[str, str]:
    half = 2 ** (spec.bits - 1)
    scale = _symmetric_scale(graph, name, x, spec, static)
    steps = graph.node("Div", f"{name}.steps", x, graph.node("Max", f"{name}.divisor", scale, graph.scalar(_TINY)))
    if spec.bits < 8:  # eight bits saturate by themselves
        steps = graph.node("Clip", f"{name}.clipped", steps, graph.scalar(-half), graph.scalar(half - 1))
    if spec.range == "static" and not np.any(np.asarray(static)):
        steps = graph.node("Mul", f"{name}.untouched", steps, graph.scalar(0))
    # One operator for Round, Add, Clip and Cast; it rounds half to even, as JAX does.
    point = graph.constant("constants/zero_point", np.array(128, np.uint8))
    return graph.node("QuantizeLinear", f"{name}.codes", steps, graph.scalar(1), point), scale


def _symmetric_scale(graph: Graph, name: str, x: str, spec: ActivationSpec, static: Any) -> str:
    half = 2 ** (spec.bits - 1)
    if spec.range == "static":
        bound = np.abs(np.asarray(static, np.float32)).max()
        return graph.constant(f"{name}.scale", np.array(bound / np.float32(half), np.float32))
    size = graph.node("Abs", f"{name}.abs", x)
    return graph.node("Div", f"{name}.scale", _reduced(graph, "ReduceMax", f"{name}.max", size, spec), graph.scalar(half))


def _reduced(graph: Graph, kind: str, name: str, x: str, spec: ActivationSpec) -> str:
    return graph.node(kind, name, x, *([graph.integers(-1)] if spec.range == "token" else []), keepdims=1)


def fake_quantized_input(graph: Graph, name: str, x: str, spec: ActivationSpec, static: Any) -> str:
    """``x`` on its grid, as floats."""
    name = f"{name}/input"
    if spec.symmetric:
        codes, scale = quantized_input(graph, x, spec, static)
        wide = graph.node("Cast", f"{name}.unsigned", codes, to=FLOAT)
        return graph.node("Mul", f"{name}.float32", graph.node("Sub", f"{name}.signed", wide, graph.scalar(128)), scale)
    if spec.range == "static":
        bounds = np.asarray(static, np.float32)
        low, high = (graph.constant(f"{name}.{end}", bounds[i]) for i, end in enumerate(("low", "high")))
    else:
        low, high = (_reduced(graph, f"Reduce{end}", f"{name}.{end.lower()}", x, spec) for end in ("Min", "Max"))
    return _asymmetric(graph, name, x, low, high, spec.bits)


def _asymmetric(graph: Graph, name: str, x: str, low: str, high: str, bits: int) -> str:
    """The grid from ``low`` to ``high``; where they are equal its one level is exact."""
    span = graph.node("Div", f"{name}.span", graph.node("Sub", f"{name}.range", high, low), graph.scalar(2**bits))
    one = graph.node("Abs", f"{name}.level", low)
    scale = graph.node("Where", f"{name}.scale", graph.node("Greater", f"{name}.wide", span, graph.scalar(0)), span, one)
    safe = graph.node("Max", f"{name}.divisor", scale, graph.scalar(_TINY))
    zero = graph.node("Round", f"{name}.zero", graph.node("Div", f"{name}.offset", low, safe))
    shifted = graph.node("Sub", f"{name}.shifted", x, graph.node("Mul", f"{name}.lowest", zero, scale))
    rounded = graph.node("Round", f"{name}.rounded", graph.node("Div", f"{name}.steps", shifted, safe))
    codes = graph.node("Clip", f"{name}.codes", rounded, graph.scalar(0), graph.scalar(2**bits - 1))
    return graph.node("Mul", f"{name}.float32", graph.node("Add", f"{name}.levels", codes, zero), scale)


def embedding(graph: Graph, name: str, ids: str, table: Any, rank: int, layout: str = PLANES256) -> str:
    """Rows ``ids`` (``rank`` axes) of a table; packed rows are unpacked when looked up."""
    if isinstance(table, Mapping):
        halves = [embedding(graph, f"{name}/{half}", ids, table[half], rank, layout) for half in ("first", "second")]
        return graph.node("Add", f"{name}/halves", *halves)
    if not isinstance(table, PackedTensor):
        return graph.node("Gather", f"{name}/Gather", graph.floats(f"{name}/weight", table), ids, axis=0)
    if not table.is_integer:
        return graph.node("Gather", f"{name}/Gather", float_matrix(graph, name, table, layout), ids, axis=0)
    packed = graph.constant(f"{name}/weight.codes", pack_consecutive(weight_codes(table, name), table, layout))
    rows = graph.node("Gather", f"{name}/Gather", packed, ids, axis=0)
    levels = _unpacked(graph, f"{name}/rows", byte_table(table, layout), rows, (0,) * rank, table.shape[1])
    if table.scale.shape[0] == 1:
        scale = graph.constant(f"{name}/weight.scale", table.scale)
    else:
        column = graph.constant(f"{name}/weight.scale", np.asarray(table.scale)[:, None])
        scale = graph.node("Gather", f"{name}/Gather_scale", column, ids, axis=0)
    return graph.node("Mul", f"{name}/Mul_scale", levels, scale)
