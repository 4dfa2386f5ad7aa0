"""The head of the masked language model: what it computes, and its way in and out of checkpoints."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from safetensors.numpy import load_file, save_file

from xtc_jax.bert import BertConfig, apply, complete, masked_lm_logits, masked_lm_shapes
from xtc_jax.errors import UserError
from xtc_jax.formats import convert, load_huggingface, load_model, save_huggingface
from xtc_jax.params import named_leaves

CONFIG = BertConfig(
    vocab_size=40,
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=20,
    max_position_embeddings=10,
)
DECODER = "cls.predictions.decoder.weight"
TABLE = "bert.embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def params():
    both = toy.params(CONFIG) | toy.masked_lm_head(CONFIG)
    return jax.tree.map(np.asarray, {name: leaf for name, leaf in both.items() if name not in ("pooler", "classifier")})


@pytest.fixture
def inputs(rng):
    mask = np.arange(8) < np.array([[8], [5], [3]])
    ids, types = np.where(mask, rng.integers(1, 40, (3, 8)), 0), np.where(mask, rng.integers(0, 2, (3, 8)), 0)
    return tuple(np.asarray(x, np.int32) for x in (ids, types, mask))


@pytest.fixture
def checkpoint(tmp_path, params):
    """A directory as :func:`save_huggingface` writes it, and its tensors."""
    save_huggingface(tmp_path / "source", CONFIG, params)
    return tmp_path / "source", load_file(tmp_path / "source" / "model.safetensors")


def rewrite(directory, tensors):
    save_file(tensors, directory / "model.safetensors")
    return directory


def assert_same(left, right):
    left, right = named_leaves(left), named_leaves(right)
    assert left.keys() == right.keys()
    for path, leaf in left.items():
        assert (leaf.dtype, np.asarray(leaf).tobytes()) == (right[path].dtype, np.asarray(right[path]).tobytes()), path


def test_the_logits_are_those_of_the_formula(params, inputs):
    """LayerNorm(gelu(h T^T + t)) E^T + b, in float64, on the hidden state that the classifier's encoder gives."""
    whole = toy.params(CONFIG)
    hidden = np.asarray(apply(CONFIG, whole, *map(jnp.asarray, inputs), intermediates=True).hidden_states[-1], np.float64)
    positions = np.array([7, 2, 0], np.int32)
    head = params["cls"]["predictions"]
    transform, norm = head["transform"]["dense"], head["transform"]["LayerNorm"]
    x = hidden[np.arange(3), positions] @ transform["weight"].T.astype(np.float64) + transform["bias"]
    x = x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-12) * norm["weight"] + norm["bias"]
    expected = x @ params["embeddings"]["word_embeddings"]["weight"].T.astype(np.float64) + head["bias"]
    logits = masked_lm_logits(CONFIG, params, *map(jnp.asarray, inputs), jnp.asarray(positions))
    assert (logits.shape, logits.dtype) == ((3, 40), jnp.float32)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5)


def test_other_heads_are_not_looked_at(params, inputs):
    positions = jnp.zeros(3, jnp.int32)
    alone = masked_lm_logits(CONFIG, params, *map(jnp.asarray, inputs), positions)
    beside = masked_lm_logits(CONFIG, toy.params(CONFIG) | params, *map(jnp.asarray, inputs), positions)
    np.testing.assert_array_equal(alone, beside)


def test_padding_does_not_change_the_logits_at_a_word(params, inputs):
    ids, types, mask = (x[1:2] for x in inputs)
    at = jnp.array([4])
    short = masked_lm_logits(CONFIG, params, ids[:, :5], types[:, :5], mask[:, :5], at)
    np.testing.assert_allclose(masked_lm_logits(CONFIG, params, ids, types, mask, at), short, rtol=0, atol=1e-5)


def test_the_shapes_are_those_of_the_leaves(params):
    head = {path: leaf for path, leaf in named_leaves(params).items() if path.startswith("cls/")}
    assert {path: leaf.shape for path, leaf in head.items()} == {p: leaf.shape for p, leaf in masked_lm_shapes(CONFIG).items()}


@pytest.mark.torch
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_transformers_loads_what_is_saved_and_computes_the_same(tmp_path, params, inputs, activation):
    import torch
    from transformers import AutoModelForMaskedLM

    config = BertConfig(**{**CONFIG.__dict__, "hidden_act": activation})
    save_huggingface(tmp_path, config, params)
    reference, report = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    names = ("input_ids", "token_type_ids", "attention_mask")
    with torch.no_grad():
        expected = reference.eval()(**{name: torch.tensor(x) for name, x in zip(names, inputs, strict=True)}).logits
    for position in range(3):
        at = jnp.full(3, position)
        logits = masked_lm_logits(config, params, *map(jnp.asarray, inputs), at)
        np.testing.assert_allclose(logits, expected[:, position], rtol=0, atol=2e-5)


@pytest.mark.torch
@pytest.mark.parametrize("name", ["BertForMaskedLM", "BertForPreTraining"])
def test_what_transformers_saves_is_read(tmp_path, inputs, name):
    import torch
    import transformers

    shape = {key: value for key, value in CONFIG.__dict__.items() if key not in ("labels", "regression", "has_position_ids")}
    reference = getattr(transformers, name)(transformers.BertConfig(**shape)).eval()
    torch.nn.init.normal_(reference.cls.predictions.bias)
    reference.save_pretrained(tmp_path)
    config, params = load_huggingface(tmp_path)
    assert set(params) - {"pooler"} == {"embeddings", "encoder", "cls"}
    ids, types, mask = (torch.tensor(x) for x in inputs)
    with torch.no_grad():
        expected = reference(input_ids=ids, token_type_ids=types, attention_mask=mask)[0]
    logits = masked_lm_logits(config, params, *map(jnp.asarray, inputs), jnp.array([1, 1, 1]))
    np.testing.assert_allclose(logits, expected[:, 1], rtol=0, atol=5e-6)


def test_a_checkpoint_with_the_head_keeps_it(checkpoint, params):
    directory, tensors = checkpoint
    assert json.loads((directory / "config.json").read_text())["architectures"] == ["BertForMaskedLM"]
    assert {name for name in tensors if not name.startswith("bert.")} == {
        "cls.predictions.bias",
        "cls.predictions.transform.dense.weight",
        "cls.predictions.transform.dense.bias",
        "cls.predictions.transform.LayerNorm.weight",
        "cls.predictions.transform.LayerNorm.bias",
    }
    assert_same(load_huggingface(directory)[1], params)


def test_converting_there_and_back_returns_every_tensor_to_the_bit(checkpoint, tmp_path):
    directory, tensors = checkpoint
    convert(str(directory), tmp_path / "flax", "flax")
    assert "cls" in load_model(str(tmp_path / "flax"))[1]
    convert(str(tmp_path / "flax"), tmp_path / "back", "huggingface")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert {name: (x.dtype, x.tobytes()) for name, x in back.items()} == {n: (x.dtype, x.tobytes()) for n, x in tensors.items()}
    assert (tmp_path / "back" / "config.json").read_text() == (directory / "config.json").read_text()


def test_a_model_with_both_heads_keeps_both_and_is_a_classifier(tmp_path, params):
    both = jax.tree.map(np.asarray, toy.params(CONFIG) | params)
    save_huggingface(tmp_path, CONFIG, both)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["BertForSequenceClassification"]
    assert_same(load_huggingface(tmp_path)[1], both)


@pytest.mark.parametrize("copies", [(DECODER,), ("cls.predictions.decoder.bias",), (DECODER, "cls.predictions.decoder.bias")])
def test_second_copies_of_what_is_tied_are_accepted(checkpoint, params, copies):
    directory, tensors = checkpoint
    origins = {DECODER: tensors[TABLE], "cls.predictions.decoder.bias": tensors["cls.predictions.bias"]}
    rewrite(directory, {**tensors, **{name: origins[name].copy() for name in copies}})
    assert_same(load_huggingface(directory)[1], params)


def test_a_bias_under_the_name_of_the_decoder_alone_is_the_bias(checkpoint, params):
    directory, tensors = checkpoint
    tensors["cls.predictions.decoder.bias"] = tensors.pop("cls.predictions.bias")
    assert_same(load_huggingface(rewrite(directory, tensors))[1], params)


@pytest.mark.parametrize("other", [np.zeros((40, 12), np.float32), np.zeros((41, 12), np.float32)], ids=["values", "shape"])
def test_a_decoder_of_its_own_is_refused(checkpoint, other):
    directory, tensors = checkpoint
    rewrite(directory, {**tensors, DECODER: other})
    with pytest.raises(
        UserError, match=rf"model\.safetensors: tensor {DECODER} differs from embeddings\.word_embeddings\.weight"
    ):
        load_huggingface(directory)


@pytest.mark.parametrize("path", sorted(masked_lm_shapes(CONFIG)))
def test_half_a_head_is_refused(checkpoint, path):
    directory, tensors = checkpoint
    name = path.replace("/", ".")
    with pytest.raises(UserError, match=rf"not a complete BERT; missing {name}$"):
        load_huggingface(rewrite(directory, {other: x for other, x in tensors.items() if other != name}))


def test_a_head_for_another_vocabulary_is_refused(checkpoint):
    directory, tensors = checkpoint
    rewrite(directory, {**tensors, "cls.predictions.bias": np.zeros(41, np.float32)})
    with pytest.raises(UserError, match=r"tensor cls\.predictions\.bias has shape \(41,\), config.json asks for \(40,\)"):
        load_huggingface(directory)


def test_completing_a_classifier_drops_the_head(params):
    full, fresh = complete(CONFIG, params, jax.random.key(0, impl="rbg"))
    assert set(full) == {"embeddings", "encoder", "pooler", "classifier"}
    assert set(fresh) == {"pooler", "classifier"}
