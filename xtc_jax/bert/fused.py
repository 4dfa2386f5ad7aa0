"""The encoder as one call, where a backend has such a call for the leaves in ``params``: today ``native_cpu`` alone."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array

from xtc_jax.bert.config import BertConfig
from xtc_jax.kernels import FusedLayer, FusedLinear, PackedTensor, fused_encoder, serves_encoder
from xtc_jax.quantize import ActivationSpec

_LINEARS = ("attention/self/query", "attention/self/key", "attention/self/value", "attention/output/dense",
            "intermediate/dense", "output/dense")  # fmt: skip


def fused_layers(config: BertConfig, params: Mapping[str, Any]) -> list[FusedLayer]:
    """The layers for :func:`encode`; none where a leaf is not what it multiplies: then the modules run one by one.

    Args:
      config: of the BERT.
      params: of the encoder, ``layer_0``, ``layer_1``, …; empty while a model is being initialised.
    """
    names = [f"layer_{i}" for i in range(config.num_hidden_layers)]
    if not all(name in params and _suits(params[name]) for name in names):
        return []
    layers = [_layer(params[name]) for name in names]
    return layers if serves_encoder(layers, config.num_attention_heads, config.hidden_act) else []


def encode(config: BertConfig, layers: list[FusedLayer], x: Array, mask: Array, threads: int = 0) -> Array:
    """The last hidden state ``(batch, length, hidden)``, as the modules compute it without dropout.

    Args:
      config: of the BERT.
      layers: of :func:`fused_layers`, not none.
      x: float32 ``(batch, length, hidden)``, what the embeddings give.
      mask: ``(batch, length)``, 1 for tokens and 0 for padding.
      threads: at most so many work; 0: as many as XLA has.
    """
    heads, eps = config.num_attention_heads, config.layer_norm_eps
    return fused_encoder(x, mask, layers, heads=heads, eps=eps, activation=config.hidden_act, threads=threads)


def _at(layer: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    for name in path.split("/"):
        layer = layer[name]
    return layer


def _suits(layer: Mapping[str, Any]) -> bool:
    """Whether every Linear of a layer multiplies packed integers by tokens quantized one by one, to 8 bits."""
    weights = [_at(layer, path)["weight"] for path in _LINEARS]
    return all(isinstance(each, PackedTensor) and _by_token(each.activation) for each in weights)


def _by_token(spec: Any) -> bool:
    return isinstance(spec, ActivationSpec) and spec.symmetric and (spec.bits, spec.range) == (8, "token")


def _layer(layer: Mapping[str, Any]) -> FusedLayer:
    linears = tuple(FusedLinear(**{name: _at(layer, path)[name] for name in ("weight", "bias")}) for path in _LINEARS)
    first, second = (_at(layer, path)["LayerNorm"] for path in ("attention/output", "output"))
    return FusedLayer(linears, ((first["weight"], first["bias"]), (second["weight"], second["bias"])))
