"""An ONNX graph under construction, with names that a person can read in a viewer of graphs."""

from typing import Any

import numpy as np

from xtc_jax.errors import UserError

OPSET = 20
"""The first with both LayerNormalization and Gelu."""
IR_VERSION = 10
"""What ONNX Runtime reads from 1.20 on."""


def require(*packages: str) -> None:
    """Check that the packages of the extra ``[deploy]`` are there.

    Raises:
      UserError: one of them is not installed; names the command that installs it.
    """
    import importlib.util

    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{' and '.join(missing)} not installed; run: pip install 'xtc_jax[deploy]'")


class Graph:
    """Nodes and initializers; methods that add something return the name of its result.

    Attributes:
      nodes: ``NodeProto`` in order of execution.
      initializers: ``TensorProto``.
      quantized: quantized activations by ``(tensor, kind)``: query, key and value of a layer share theirs.
    """

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self.quantized: dict[tuple[Any, ...], tuple[str, str]] = {}

    def constant(self, name: str, value: Any) -> str:
        """An initializer; made once for a name."""
        from onnx import numpy_helper

        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def floats(self, name: str, value: Any) -> str:
        """A float32 tensor, in the file as wide as it is given: what is float16 is cast, once, when the session is created."""
        array = np.asarray(value)
        if array.dtype == np.float32:
            return self.constant(name, array)
        return self.node("Cast", f"{name}.float32", self.constant(name, array), to=1)

    def scalar(self, value: float) -> str:
        """A float32 constant shared by all nodes."""
        return self.constant(f"constants/{value!r}", np.array(value, np.float32))

    def integers(self, *values: int) -> str:
        """An int64 vector (axes, a shape) shared by all nodes."""
        return self.constant(f"constants/[{','.join(map(str, values))}]", np.array(values, np.int64))

    def node(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        """A node and its one result, both called ``name``."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def model(self, inputs: dict[str, list[str | int]], outputs: dict[str, list[str | int]]) -> Any:
        """The ``onnx.ModelProto``: int64 inputs, float32 outputs, a string in a shape is any size."""
        from onnx import TensorProto, helper

        made = helper.make_graph(
            self.nodes,
            "xtc",
            [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            list(self.initializers.values()),
        )
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(made, opset_imports=opsets, ir_version=IR_VERSION, producer_name="xtc_jax")
