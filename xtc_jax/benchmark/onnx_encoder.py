"""The same BERT for ONNX Runtime: float32, and its own dynamic int8. Both packages are optional."""

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from xtc_jax.bert import BertConfig
from xtc_jax.params import Params

OPSET = 20
"""The first with both LayerNormalization and Gelu."""
Logits = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


class _Graph:
    """Nodes and initializers under construction; every method returns the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def constant(self, value: Any, name: str = "") -> str:
        from onnx import numpy_helper

        name = name or f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def linear(self, x: str, params: Params, path: str) -> str:
        """``x W^T + b``; ONNX multiplies ``(K, N)``."""
        product = self.op("MatMul", x, self.constant(np.asarray(params["weight"]).T.copy(), f"{path}/weight"))
        return self.op("Add", product, self.constant(params["bias"]))

    def layer_norm(self, x: str, params: Params, eps: float) -> str:
        weight, bias = self.constant(params["weight"]), self.constant(params["bias"])
        return self.op("LayerNormalization", x, weight, bias, axis=-1, epsilon=eps)


def onnx_model(config: BertConfig, params: Params) -> Any:
    """An ``onnx.ModelProto`` of the classifier, any batch and length.

    Args:
      config: of the BERT; ``hidden_act`` is ``gelu``, ``gelu_new`` or ``relu``.
      params: float leaves, torch order.

    Returns:
      Inputs ``input_ids``, ``token_type_ids`` and ``attention_mask``, int64 ``(batch, length)``; output ``logits``.
    """
    from onnx import TensorProto, helper

    graph, names = _Graph(), ("input_ids", "token_type_ids", "attention_mask")
    x = _embeddings(graph, config, params["embeddings"])
    mask = graph.op("Cast", graph.op("Unsqueeze", names[2], graph.constant([1, 2])), to=TensorProto.FLOAT)
    bias = graph.op("Mul", graph.op("Sub", graph.constant(np.float32(1)), mask), graph.constant(np.float32(-1e9)))
    for i in range(config.num_hidden_layers):
        x = _layer(graph, config, params["encoder"][f"layer_{i}"], x, bias, f"layer_{i}")
    first = graph.op("Gather", x, graph.constant(0), axis=1)
    pooled = graph.op("Tanh", graph.linear(first, params["pooler"]["dense"], "pooler"))
    logits = graph.linear(pooled, params["classifier"], "classifier")
    made = helper.make_graph(
        [*graph.nodes, helper.make_node("Identity", [logits], ["logits"])],
        "bert",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"]) for name in names],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", config.num_labels])],
        graph.initializers,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def _embeddings(graph: _Graph, config: BertConfig, params: Params) -> str:
    def table(name: str) -> str:
        return graph.constant(params[name]["weight"], name)

    length = graph.op("Gather", graph.op("Shape", "input_ids"), graph.constant(1))
    positions = graph.op("Range", graph.constant(0), length, graph.constant(1))
    x = graph.op("Gather", table("word_embeddings"), "input_ids")
    x = graph.op("Add", x, graph.op("Gather", table("token_type_embeddings"), "token_type_ids"))
    x = graph.op("Add", x, graph.op("Gather", table("position_embeddings"), positions))
    return graph.layer_norm(x, params["LayerNorm"], config.layer_norm_eps)


def _layer(graph: _Graph, config: BertConfig, params: Params, x: str, bias: str, path: str) -> str:
    attended = _attention(graph, config, params["attention"]["self"], x, bias, path)
    attended = graph.linear(attended, params["attention"]["output"]["dense"], f"{path}/attention_output")
    x = graph.layer_norm(graph.op("Add", attended, x), params["attention"]["output"]["LayerNorm"], config.layer_norm_eps)
    inner = graph.linear(x, params["intermediate"]["dense"], f"{path}/intermediate")
    if config.hidden_act == "relu":
        inner = graph.op("Relu", inner)
    else:
        inner = graph.op("Gelu", inner, approximate="tanh" if config.hidden_act == "gelu_new" else "none")
    inner = graph.linear(inner, params["output"]["dense"], f"{path}/output")
    return graph.layer_norm(graph.op("Add", inner, x), params["output"]["LayerNorm"], config.layer_norm_eps)


def _attention(graph: _Graph, config: BertConfig, params: Params, x: str, bias: str, path: str) -> str:
    split = graph.constant([0, 0, config.num_attention_heads, config.head_size])

    def heads(name: str, order: tuple[int, ...]) -> str:
        return graph.op("Transpose", graph.op("Reshape", graph.linear(x, params[name], f"{path}/{name}"), split), perm=order)

    query, key, value = heads("query", (0, 2, 1, 3)), heads("key", (0, 2, 3, 1)), heads("value", (0, 2, 1, 3))
    scores = graph.op("Div", graph.op("MatMul", query, key), graph.constant(np.float32(math.sqrt(config.head_size))))
    weights = graph.op("Softmax", graph.op("Add", scores, bias), axis=-1)
    context = graph.op("Transpose", graph.op("MatMul", weights, value), perm=(0, 2, 1, 3))
    return graph.op("Reshape", context, graph.constant([0, 0, config.hidden_size]))


def dynamic_int8(model: Any) -> Any:
    """``model`` as ONNX Runtime quantizes it: int8 weights, one scale each; uint8 activations, one scale per call."""
    from onnx import load
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "int8.onnx"
        quantize_dynamic(model, target, weight_type=QuantType.QInt8)
        return load(target)


def session(model: Any) -> Logits:
    """``(input_ids, token_type_ids, attention_mask) -> logits`` by ONNX Runtime on the CPU, all its optimisations on.

    Its threads stop spinning when a call ends: left alone they would take the cores from whoever is timed next.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.force_spinning_stop", "1")
    made = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def logits(ids: np.ndarray, types: np.ndarray, mask: np.ndarray) -> np.ndarray:
        feeds = {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}
        return made.run(None, {name: value.astype(np.int64) for name, value in feeds.items()})[0]

    return logits
