"""The shapes of a BERT's parameters, without tracing the model: reading a checkpoint compares with them."""

import jax
import jax.numpy as jnp

from xtc_jax.bert.config import BertConfig


def parameter_shapes(config: BertConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Path, shape and dtype (float32) of every leaf that :func:`xtc_jax.bert.init` makes."""
    hidden, inner = config.hidden_size, config.intermediate_size
    tables = {
        "word": config.vocab_size,
        "position": config.max_position_embeddings,
        "token_type": config.type_vocab_size,
    }
    shapes: dict[str, tuple[int, ...]] = {}
    shapes |= {f"embeddings/{name}_embeddings/weight": (rows, hidden) for name, rows in tables.items()}
    shapes |= _layer_norm("embeddings", hidden)
    for number in range(config.num_hidden_layers):
        layer = f"encoder/layer_{number}"
        for name in ("self/query", "self/key", "self/value", "output/dense"):
            shapes |= _linear(f"{layer}/attention/{name}", hidden, hidden)
        shapes |= _layer_norm(f"{layer}/attention/output", hidden)
        shapes |= _linear(f"{layer}/intermediate/dense", inner, hidden)
        shapes |= _linear(f"{layer}/output/dense", hidden, inner)
        shapes |= _layer_norm(f"{layer}/output", hidden)
    shapes |= _linear("pooler/dense", hidden, hidden) | _linear("classifier", config.num_labels, hidden)
    return {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes.items()}


def _linear(path: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{path}/weight": (rows, columns), f"{path}/bias": (rows,)}


def _layer_norm(path: str, size: int) -> dict[str, tuple[int, ...]]:
    return {f"{path}/LayerNorm/{name}": (size,) for name in ("weight", "bias")}
