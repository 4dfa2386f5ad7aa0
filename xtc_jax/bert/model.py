"""BERT for sequence classification and regression: post-LN encoder, pooler, head.

Devlin et al. 2018, with the names and the numerics of Hugging Face's ``BertForSequenceClassification``.
Module names follow its tensor names, ``encoder.layer.3`` written ``encoder/layer_3``.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from xtc_jax.bert.config import BertConfig
from xtc_jax.bert.fused import encode, fused_layers
from xtc_jax.bert.linear import Embedding, LayerNorm, Linear
from xtc_jax.params import Params
from xtc_jax.quantize import einsum

_MASKED = -1e9
"""Added to masked scores: finite, so that a row of padding gives a uniform softmax and not NaN."""


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["logits", "hidden_states", "attention_scores"], meta_fields=[]
)
@dataclass(frozen=True)
class BertOutput:
    """What a forward pass returns.

    Attributes:
      logits: ``(batch, labels)``.
      hidden_states: L + 1 arrays ``(batch, length, hidden)``, the embedding output first; empty unless
        asked for.
      attention_scores: L arrays ``(batch, heads, query, key)``, ``q k^T / sqrt(d)`` before mask, softmax
        and dropout; empty unless asked for.
    """

    logits: Array
    hidden_states: tuple[Array, ...] = ()
    attention_scores: tuple[Array, ...] = ()


class _SelfAttention(nn.Module):
    config: BertConfig

    @nn.compact
    def __call__(self, x: Array, mask: Array, deterministic: bool, scores: bool) -> tuple[Array, Array | None]:
        c = self.config

        def heads(name: str) -> Array:
            y = Linear(c.hidden_size, c.initializer_range, name=name)(x)
            return y.reshape(*y.shape[:-1], c.num_attention_heads, c.head_size).swapaxes(1, 2)

        query, key, value = heads("query"), heads("key"), heads("value")
        keys = mask[:, None, None, :] > 0
        if deterministic and not scores:
            context = jax.lax.platform_dependent(query, key, value, keys, cpu=_attention, default=_fused_attention)
            return context.swapaxes(1, 2).reshape(x.shape), None
        # Heads stand before positions in every operand: with positions first XLA:CPU transposes the keys.
        products = einsum("bhqd,bhkd->bhqk", query, key) / math.sqrt(c.head_size)
        weights = _softmax(products, keys, x.dtype)
        weights = nn.Dropout(c.attention_probs_dropout_prob)(weights, deterministic=deterministic)
        context = einsum("bhqk,bhkd->bhqd", weights, value).astype(x.dtype)
        return context.swapaxes(1, 2).reshape(x.shape), products


def _softmax(products: Array, keys: Array, dtype: Any) -> Array:
    """Attention probabilities of float32 scores ``(batch, heads, query, key)``, over the unmasked ``keys``."""
    return jax.nn.softmax(products + jnp.where(keys, 0.0, _MASKED), axis=-1).astype(dtype)


def _attention(query: Array, key: Array, value: Array, keys: Array) -> Array:
    """Attention as it is written, ``(batch, heads, length, head)``: on a CPU faster than JAX's own.

    The queries are scaled, and not the products: for these XLA:CPU would write out an array of equal divisors, and read it in
    every layer.
    """
    scaled = (query.astype(jnp.float32) / math.sqrt(query.shape[-1])).astype(query.dtype)
    weights = _softmax(einsum("bhqd,bhkd->bhqk", scaled, key), keys, query.dtype)
    return einsum("bhqk,bhkd->bhqd", weights, value).astype(query.dtype)


def _fused_attention(query: Array, key: Array, value: Array, keys: Array) -> Array:
    """The same by JAX's own function, which an accelerator may have a kernel for."""
    query, key, value = (each.swapaxes(1, 2) for each in (query, key, value))
    with jax.numpy_dtype_promotion("standard"):  # it adds its float32 mask to bfloat16 products
        return jax.nn.dot_product_attention(query, key, value, mask=keys).swapaxes(1, 2)


class _Output(nn.Module):
    """Linear, dropout, residual, LayerNorm: how both halves of a layer end."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: Array, residual: Array, deterministic: bool) -> Array:
        c = self.config
        y = Linear(c.hidden_size, c.initializer_range, name="dense")(x)
        y = nn.Dropout(c.hidden_dropout_prob)(y, deterministic=deterministic)
        return LayerNorm(c.layer_norm_eps, name="LayerNorm")(y + residual)


class _Attention(nn.Module):
    config: BertConfig

    @nn.compact
    def __call__(self, x: Array, mask: Array, deterministic: bool, scores: bool) -> tuple[Array, Array | None]:
        context, products = _SelfAttention(self.config, name="self")(x, mask, deterministic, scores)
        return _Output(self.config, name="output")(context, x, deterministic), products


class _Intermediate(nn.Module):
    config: BertConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c = self.config
        return Linear(c.intermediate_size, c.initializer_range, c.hidden_act, name="dense")(x)


class _Layer(nn.Module):
    config: BertConfig

    @nn.compact
    def __call__(self, x: Array, mask: Array, deterministic: bool, scores: bool) -> tuple[Array, Array | None]:
        x, products = _Attention(self.config, name="attention")(x, mask, deterministic, scores)
        inner = _Intermediate(self.config, name="intermediate")(x)
        return _Output(self.config, name="output")(inner, x, deterministic), products


class Encoder(nn.Module):
    """All layers of the BERT, one after another."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: Array, mask: Array, deterministic: bool, scores: bool) -> tuple[list[Array], list[Array]]:
        """L + 1 hidden states ``(batch, length, hidden)`` and L attention scores ``(batch, heads, query, key)``, or none:
        without them, and without dropout, attention is whatever fused form the backend has, or the whole encoder is one call;
        that has the last hidden state alone.
        """
        if deterministic and not scores and x.dtype == jnp.float32:
            layers = fused_layers(self.config, self.variables.get("params", {}))
            if layers:
                return [encode(self.config, layers, x, mask)], []
        hidden, products = [x], []
        for i in range(self.config.num_hidden_layers):
            x, layer_scores = _Layer(self.config, name=f"layer_{i}")(x, mask, deterministic, scores)
            hidden.append(x)
            products.append(layer_scores)
        return hidden, [each for each in products if each is not None]


class Embeddings(nn.Module):
    """The sum of three tables, normalised: ``(batch, length, hidden)``."""

    config: BertConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, input_ids: Array, token_type_ids: Array, deterministic: bool) -> Array:
        """The sum of word, segment and position embeddings, normalised; float ``(batch, length, hidden)``."""
        c = self.config

        def table(name: str, rows: int) -> Embedding:
            return Embedding(rows, c.hidden_size, c.initializer_range, name=name)

        positions = jnp.arange(input_ids.shape[1])
        x = table("word_embeddings", c.vocab_size)(input_ids)
        x = x + table("token_type_embeddings", c.type_vocab_size)(token_type_ids)
        x = x + table("position_embeddings", c.max_position_embeddings)(positions)
        # Merged with how the rows were found, which is another way in a packed table, LayerNorm's sums have another order.
        x = jax.lax.optimization_barrier(x)
        x = LayerNorm(c.layer_norm_eps, name="LayerNorm")(x).astype(self.dtype)
        return nn.Dropout(c.hidden_dropout_prob)(x, deterministic=deterministic)


class _Pooler(nn.Module):
    config: BertConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        first = x[:, 0].astype(jnp.float32)  # one token of many: the head costs nothing in float32
        return jnp.tanh(Linear(self.config.hidden_size, self.config.initializer_range, name="dense")(first))


class BertClassifier(nn.Module):
    """The whole model; see :func:`apply` for the arguments."""

    config: BertConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        input_ids: Array,
        token_type_ids: Array,
        attention_mask: Array,
        deterministic: bool = True,
        intermediates: bool = False,
    ) -> BertOutput:
        """One forward pass; arguments and result are those of :func:`apply`."""
        c = self.config
        x = Embeddings(c, self.dtype, name="embeddings")(input_ids, token_type_ids, deterministic)
        hidden, scores = Encoder(c, name="encoder")(x, attention_mask, deterministic, intermediates)
        pooled = _Pooler(c, name="pooler")(hidden[-1])
        rate = c.hidden_dropout_prob if c.classifier_dropout is None else c.classifier_dropout
        pooled = nn.Dropout(rate)(pooled, deterministic=deterministic)
        logits = Linear(c.num_labels, c.initializer_range, name="classifier")(pooled)
        return BertOutput(logits, tuple(hidden), tuple(scores)) if intermediates else BertOutput(logits)


def init(config: BertConfig, key: Array) -> Params:
    """Fresh float32 params as a nested dict: normal(``initializer_range``), zero biases."""
    ids = jnp.zeros((1, 2), jnp.int32)
    params: Params = BertClassifier(config).init(key, ids, ids, ids)["params"]
    return params


def apply(
    config: BertConfig,
    params: Params,
    input_ids: Int[Array, "batch length"],
    token_type_ids: Int[Array, "batch length"],
    attention_mask: Int[Array, "batch length"],
    *,
    dropout_key: Array | None = None,
    intermediates: bool = False,
    dtype: Any = jnp.float32,
) -> BertOutput:
    """Run a BERT.

    Args:
      config: the shape of the BERT.
      params: nested dict; each weight a float array, a ``FakeQuantized`` or a ``PackedTensor``.
      input_ids: word pieces, ``(batch, length)``, length at most ``max_position_embeddings``.
      token_type_ids: 0 for the first segment, 1 for the second.
      attention_mask: 1 for tokens, 0 for padding. The outputs at tokens do not depend on the padding.
      dropout_key: a random key turns dropout on; None is deterministic.
      intermediates: also return hidden states and attention scores.
      dtype: float32 or bfloat16, of activations and of the numbers that are multiplied. Sums, softmax, LayerNorm's statistics,
        scales, attention scores and logits are float32 either way, and so are the params.

    Returns:
      A :class:`BertOutput`.
    """
    rngs: dict[str, Any] = {} if dropout_key is None else {"dropout": dropout_key}
    output: BertOutput = BertClassifier(config, dtype).apply(
        {"params": params}, input_ids, token_type_ids, attention_mask, dropout_key is None, intermediates, rngs=rngs
    )
    return output
