"""A packed classifier as an ONNX model: standard operators, packed codes as initializers, any batch and length.

The form was chosen by measuring: table lookup is folded once at session creation, unsigned activations with zero point 128 take
the fast integer product. The library ``onnx`` builds it: its helper is all that is needed, and nothing else depends on it.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from xtc_jax.bert import BertConfig, sums_integers
from xtc_jax.deploy.onnx_graph import Graph, require
from xtc_jax.deploy.onnx_weights import embedding, linear
from xtc_jax.errors import UserError
from xtc_jax.formats import PackedModel
from xtc_jax.kernels import PLANES256, PackedTensor
from xtc_jax.params import named_leaves

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_BOOL = 9
_MASKED = -1e9
_NAMES: Mapping[str, str] = {"gelu": "none", "gelu_new": "tanh"}


def onnx_model(model: PackedModel, layout: str = PLANES256) -> Any:
    """The ``onnx.ModelProto`` of a packed model.

    Args:
      model: with leaves in the layouts of files.
      layout: ``base3.v1`` puts five ternary codes into a byte, as in such a file.

    Returns:
      Inputs :data:`INPUTS`, int64 ``(batch, length)``; output ``logits``, float32 ``(batch, labels)``.

    Raises:
      UserError: the library is missing, or something cannot be expressed; the tensor or key is named.
    """
    require("onnx")
    config, params = model.config, model.params
    if config.hidden_act not in (*_NAMES, "relu"):
        raise UserError(f"hidden_act {config.hidden_act!r} cannot be exported; gelu, gelu_new and relu can")
    graph = Graph()
    x = _embeddings(graph, config, params["embeddings"], layout)
    mask = _mask(graph)
    for i in range(config.num_hidden_layers):
        x = _layer(graph, config, params["encoder"][f"layer_{i}"], x, mask, f"layer.{i}", layout)
    first = graph.node("Gather", "pooler/first_token", x, graph.constant("constants/first", np.array(0, np.int64)), axis=1)
    pooled = graph.node("Tanh", "pooler/Tanh", linear(graph, "pooler", first, params["pooler"]["dense"], layout))
    graph.node("Identity", "logits", linear(graph, "classifier", pooled, params["classifier"], layout))
    return graph.model({name: ["batch", "length"] for name in INPUTS}, {"logits": ["batch", config.num_labels]})


def saturating(model: PackedModel) -> list[str]:
    """Paths of the weights whose products may be wrong in ONNX Runtime on an x86 processor without VNNI.

    There it adds two products of a uint8 and an int8 in int16: up to 2 * 255 * 127, beyond 32,767. Up to 7 bits nothing is.
    """
    leaves = named_leaves(model.params, whole=PackedTensor)
    return [path for path, leaf in leaves.items() if sums_integers(leaf) and leaf.bits == 8]


def _mask(graph: Graph) -> str:
    """What is added to scores ``(batch, heads, query, key)``: 0 for tokens, a huge negative number for padding."""
    keys = graph.node("Unsqueeze", "mask/keys", "attention_mask", graph.integers(1, 2))
    kept = graph.node("Cast", "mask/kept", keys, to=_BOOL)
    return graph.node("Where", "mask/added", kept, graph.scalar(0), graph.scalar(_MASKED))


def _embeddings(graph: Graph, config: BertConfig, params: Mapping[str, Any], layout: str) -> str:
    zero, one = (graph.constant(f"constants/index_{i}", np.array(i, np.int64)) for i in (0, 1))
    length = graph.node("Gather", "embeddings/length", graph.node("Shape", "embeddings/shape", "input_ids"), one)
    positions = graph.node("Range", "embeddings/positions", zero, length, one)
    inputs = (("word", "input_ids", 2), ("token_type", "token_type_ids", 2), ("position", positions, 1))
    words, types, places = (
        embedding(graph, f"embeddings/{name}", ids, params[f"{name}_embeddings"]["weight"], rank, layout)
        for name, ids, rank in inputs
    )
    total = graph.node("Add", "embeddings/Add_token_type", words, types)
    total = graph.node("Add", "embeddings/Add_position", total, places)
    return _layer_norm(graph, "embeddings/LayerNorm", total, params["LayerNorm"], config)


def _layer_norm(graph: Graph, name: str, x: str, params: Mapping[str, Any], config: BertConfig) -> str:
    weight, bias = (graph.floats(f"{name}.{part}", params[part]) for part in ("weight", "bias"))
    return graph.node("LayerNormalization", name, x, weight, bias, axis=-1, epsilon=config.layer_norm_eps)


def _layer(graph: Graph, config: BertConfig, params: Mapping[str, Any], x: str, mask: str, name: str, layout: str) -> str:
    attention = params["attention"]
    context = _attention(graph, config, attention["self"], x, mask, f"{name}/attention", layout)
    attended = linear(graph, f"{name}/attention.output", context, attention["output"]["dense"], layout)
    summed = graph.node("Add", f"{name}/attention.residual", attended, x)
    x = _layer_norm(graph, f"{name}/attention.LayerNorm", summed, attention["output"]["LayerNorm"], config)
    inner = linear(graph, f"{name}/intermediate", x, params["intermediate"]["dense"], layout)
    inner = _activation(graph, f"{name}/intermediate", inner, config.hidden_act)
    outer = linear(graph, f"{name}/output", inner, params["output"]["dense"], layout)
    summed = graph.node("Add", f"{name}/residual", outer, x)
    return _layer_norm(graph, f"{name}/LayerNorm", summed, params["output"]["LayerNorm"], config)


def _activation(graph: Graph, name: str, x: str, kind: str) -> str:
    if kind == "relu":
        return graph.node("Relu", f"{name}/Relu", x)
    return graph.node("Gelu", f"{name}/Gelu", x, approximate=_NAMES[kind])


def _attention(graph: Graph, config: BertConfig, params: Mapping[str, Any], x: str, mask: str, name: str, layout: str) -> str:
    split = graph.integers(0, 0, config.num_attention_heads, config.head_size)

    def heads(part: str, order: tuple[int, ...]) -> str:
        made = linear(graph, f"{name}.{part}", x, params[part], layout)
        parted = graph.node("Reshape", f"{name}.{part}/heads", made, split)
        return graph.node("Transpose", f"{name}.{part}/Transpose", parted, perm=order)

    query, key, value = heads("query", (0, 2, 1, 3)), heads("key", (0, 2, 3, 1)), heads("value", (0, 2, 1, 3))
    scaled = graph.node("Div", f"{name}/scaled_query", query, graph.scalar(math.sqrt(config.head_size)))
    scores = graph.node("Add", f"{name}/masked", graph.node("MatMul", f"{name}/scores", scaled, key), mask)
    weights = graph.node("Softmax", f"{name}/Softmax", scores, axis=-1)
    context = graph.node("MatMul", f"{name}/context", weights, value)
    context = graph.node("Transpose", f"{name}/context.Transpose", context, perm=(0, 2, 1, 3))
    return graph.node("Reshape", f"{name}/context.joined", context, graph.integers(0, 0, config.hidden_size))
