"""The head that guesses masked words: transform, LayerNorm and a decoder tied to the word embeddings.

Devlin et al. 2018, section 3.1, with the names and the numerics of Hugging Face's ``BertForMaskedLM``. The head is
optional in ``params``, under ``cls/predictions``; nothing of the compression sees it.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from xtc_jax.bert.config import BertConfig
from xtc_jax.bert.linear import LayerNorm, linear
from xtc_jax.bert.model import Embeddings, Encoder
from xtc_jax.params import Params

MASKED_LM = "cls"
"""The key of the head in ``params``."""


class _Trunk(nn.Module):
    """What a BERT is without pooler and classifier, which a masked language model may lack."""

    config: BertConfig

    @nn.compact
    def __call__(self, input_ids: Array, token_type_ids: Array, attention_mask: Array) -> Array:
        x = Embeddings(self.config, name="embeddings")(input_ids, token_type_ids, True)
        hidden, _ = Encoder(self.config, name="encoder")(x, attention_mask, True, scores=False)
        return hidden[-1]


def masked_lm_shapes(config: BertConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Path, shape and dtype (float32) of every leaf of the head; the decoder's weight is the table of the words."""
    hidden, transform = config.hidden_size, f"{MASKED_LM}/predictions/transform"
    shapes = {
        f"{transform}/dense/weight": (hidden, hidden),
        f"{transform}/dense/bias": (hidden,),
        f"{transform}/LayerNorm/weight": (hidden,),
        f"{transform}/LayerNorm/bias": (hidden,),
        f"{MASKED_LM}/predictions/bias": (config.vocab_size,),
    }
    return {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes.items()}


def masked_lm_logits(
    config: BertConfig,
    params: Params,
    input_ids: Int[Array, "batch length"],
    token_type_ids: Int[Array, "batch length"],
    attention_mask: Int[Array, "batch length"],
    positions: Int[Array, " batch"],
) -> Float[Array, "batch vocab"]:
    """Scores of every word piece at one position of each row.

    With ``h`` the last hidden state at the position: ``LayerNorm(act(h T^T + t)) E^T + b``, where ``E`` is
    ``embeddings/word_embeddings/weight``. Only the positions asked for pass through the head: its product with
    the whole vocabulary would otherwise cost more than the encoder.

    Args:
      config: shape of the model.
      params: float arrays; ``embeddings``, ``encoder`` and ``cls``. Others are not looked at.
      input_ids, token_type_ids, attention_mask: as in :func:`xtc_jax.bert.apply`.
      positions: one per row, each smaller than ``length``.

    Returns:
      Logits before the softmax, deterministic: there is no dropout.
    """
    trunk = {name: params[name] for name in ("embeddings", "encoder")}
    hidden: Array = _Trunk(config).apply({"params": trunk}, input_ids, token_type_ids, attention_mask)
    at = jnp.take_along_axis(hidden, positions[:, None, None], axis=1)[:, 0]
    head = params[MASKED_LM]["predictions"]
    x = linear(at, **head["transform"]["dense"], activation=config.hidden_act)
    x = LayerNorm(config.layer_norm_eps).apply({"params": head["transform"]["LayerNorm"]}, x)
    return linear(x, params["embeddings"]["word_embeddings"]["weight"], head["bias"])
