"""The forward pass: against the goldens, against transformers, and for every kind of params."""

import functools
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from tiers import sweep

from xtc_jax.bert import BertConfig, apply, init, model
from xtc_jax.compress import pack, ready
from xtc_jax.formats import load_huggingface
from xtc_jax.params import named_leaves
from xtc_jax.quantize import fake_quantize, named_rules

CONFIG = BertConfig(
    vocab_size=60,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=40,
    max_position_embeddings=16,
    initializer_range=0.3,
    labels=("a", "b", "c"),
)
# Every matrix 24 x 24: a quarter of the shapes to compile.
SQUARE = replace(CONFIG, vocab_size=24, intermediate_size=24, max_position_embeddings=24, type_vocab_size=24)


def fast_key(seed):
    """A random key that compiles in a fraction of the default's time."""
    return jax.random.key(seed, impl="rbg")


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(lambda leaf: 3 * leaf, toy.params(CONFIG))


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(2)
    mask = np.arange(9) < np.array([[9], [4], [1]])
    ids = np.where(mask, rng.integers(1, 60, (3, 9)), 0)
    types = np.where(mask, rng.integers(0, 2, (3, 9)), 0)
    return tuple(jnp.asarray(x, jnp.int32) for x in (ids, types, mask))


@pytest.fixture(scope="module", params=["teacher", "student"])
def golden(request, shared, tmp_path_factory):
    name, directory = request.param, tmp_path_factory.mktemp(request.param)
    shutil.copy(shared / f"goldens/{name}.safetensors", directory / "model.safetensors")
    shutil.copy(shared / f"goldens/{name}.config.json", directory / "config.json")
    config, params = load_huggingface(directory)
    with np.load(shared / "goldens/tiny_bert.npz") as file:
        arrays = dict(file)
    names = ("input_ids", "token_type_ids", "attention_mask")
    output = apply(config, params, *(jnp.asarray(arrays[key], jnp.int32) for key in names), intermediates=True)
    return output, {key.removeprefix(f"{name}."): value for key, value in arrays.items()}


@pytest.mark.shared
def test_the_golden_logits_are_reproduced(golden):
    output, expected = golden
    np.testing.assert_allclose(output.logits, expected["logits"], rtol=0, atol=2e-5)


@pytest.mark.shared
def test_the_golden_hidden_states_are_reproduced_embedding_output_first(golden):
    output, expected = golden
    assert len(output.hidden_states) == len(output.attention_scores) + 1
    np.testing.assert_allclose(np.stack(output.hidden_states), expected["hidden"], rtol=0, atol=2e-5)


@pytest.mark.shared
def test_the_golden_attention_scores_are_reproduced_unmasked(golden):
    output, expected = golden
    assert np.abs(expected["scores"]).max() < 100  # the goldens hold no mask, so every position is compared
    np.testing.assert_allclose(np.stack(output.attention_scores), expected["scores"], rtol=0, atol=2e-5)


@pytest.mark.torch
@pytest.mark.parametrize(
    "shape",
    [
        {"hidden_size": 30, "num_attention_heads": 5, "num_labels": 1, "hidden_act": "gelu_new", "layer_norm_eps": 1e-5},
        {"hidden_size": 64, "num_attention_heads": 2, "num_labels": 4, "hidden_act": "gelu", "type_vocab_size": 3},
        {"hidden_size": 16, "num_attention_heads": 16, "num_labels": 2, "hidden_act": "relu"},
    ],
    ids=lambda shape: shape["hidden_act"],
)
def test_a_random_model_computes_what_transformers_computes(tmp_path, rng, shape):
    import torch
    from transformers import BertConfig as HFConfig
    from transformers import BertForSequenceClassification

    torch.manual_seed(0)
    sizes = {"vocab_size": 70, "num_hidden_layers": 3, "intermediate_size": 50, "max_position_embeddings": 20}
    reference = BertForSequenceClassification(HFConfig(**sizes, **shape, initializer_range=0.2, attn_implementation="eager"))
    reference.eval().save_pretrained(tmp_path)
    mask = np.arange(13) < rng.integers(1, 14, (4, 1))
    ids, types = rng.integers(0, 70, (4, 13)), rng.integers(0, shape.get("type_vocab_size", 2), (4, 13))
    with torch.no_grad():
        expected = reference(
            input_ids=torch.tensor(ids),
            token_type_ids=torch.tensor(types),
            attention_mask=torch.tensor(mask.astype(np.int64)),
            output_hidden_states=True,
            output_attentions=True,
        )
    config, params = load_huggingface(tmp_path)
    assert config.regression == (shape["num_labels"] == 1)
    output = apply(config, params, *(jnp.asarray(x, jnp.int32) for x in (ids, types, mask)), intermediates=True)
    np.testing.assert_allclose(output.logits, expected.logits, rtol=0, atol=2e-5)
    for ours, theirs in zip(output.hidden_states, expected.hidden_states, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)
    for scores, probabilities in zip(output.attention_scores, expected.attentions, strict=True):
        ours = jax.nn.softmax(jnp.where(mask[:, None, None], scores, -jnp.inf), axis=-1)
        np.testing.assert_allclose(ours, probabilities, rtol=0, atol=2e-5)


def test_what_stands_in_the_padding_changes_no_bit(params, inputs):
    ids, types, mask = inputs
    other = apply(CONFIG, params, jnp.where(mask > 0, ids, 59), jnp.where(mask > 0, types, 1), mask, intermediates=True)
    same = apply(CONFIG, params, ids, types, mask, intermediates=True)
    np.testing.assert_array_equal(other.logits, same.logits)
    valid = np.asarray(mask) > 0
    for left, right in zip(other.hidden_states, same.hidden_states, strict=True):
        np.testing.assert_array_equal(np.asarray(left)[valid], np.asarray(right)[valid])


def test_an_example_depends_neither_on_its_neighbours_nor_on_the_length_of_the_padding(params, inputs):
    alone = apply(CONFIG, params, *(jnp.pad(x[1:2], ((0, 0), (0, 7))) for x in inputs)).logits
    np.testing.assert_allclose(alone[0], apply(CONFIG, params, *inputs).logits[1], rtol=0, atol=5e-6)


def test_a_row_of_padding_alone_gives_finite_numbers(params, inputs):
    ids, types, mask = inputs
    output = apply(CONFIG, params, ids, types, jnp.zeros_like(mask), intermediates=True)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(output))


@pytest.mark.parametrize("attention", [model._attention, model._fused_attention], ids=["written out", "JAX's own"])
@pytest.mark.parametrize(("dtype", "precision"), [(jnp.float32, 2**-20), (jnp.bfloat16, 2**-6)])
def test_serving_attention_is_softmax_attention_over_the_unmasked_keys(attention, dtype, precision):
    query, key, value = (jax.random.normal(k, (2, 3, 5, 8), dtype) for k in jax.random.split(fast_key(0), 3))
    keys = np.arange(5) < np.array([[5], [2]])
    result = attention(query, key, value, jnp.asarray(keys)[:, None, None, :])
    q, k, v = (np.asarray(x, np.float64) for x in (query, key, value))
    weights = np.exp(q @ k.swapaxes(2, 3) / np.sqrt(8)) * keys[:, None, None, :]
    assert result.dtype == dtype
    expected = weights / weights.sum(-1, keepdims=True) @ v
    np.testing.assert_allclose(np.asarray(result, np.float64), expected, rtol=0, atol=precision * np.abs(v).max())


def test_intermediates_come_only_when_asked_for(params, inputs):
    bare, full = apply(CONFIG, params, *inputs), apply(CONFIG, params, *inputs, intermediates=True)
    assert (bare.hidden_states, bare.attention_scores) == ((), ())
    assert [x.shape for x in full.hidden_states] == [(3, 9, 24)] * 3
    assert [x.shape for x in full.attention_scores] == [(3, 3, 9, 9)] * 2
    np.testing.assert_allclose(bare.logits, full.logits, rtol=0, atol=1e-5)  # the attention of serving, and that of training


def test_dropout_is_on_with_a_key_alone(params, inputs):
    plain = apply(CONFIG, params, *inputs).logits
    np.testing.assert_array_equal(plain, apply(CONFIG, params, *inputs).logits)
    first, again, other = (apply(CONFIG, params, *inputs, dropout_key=fast_key(i)).logits for i in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - plain).min() > 0
    assert np.abs(first - other).min() > 0


@pytest.mark.parametrize("rate", ["hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"])
def test_each_dropout_rate_acts_by_itself(params, inputs, rate):
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0, rate: 0.5}
    config = replace(CONFIG, **rates)
    dropped = apply(config, params, *inputs, dropout_key=fast_key(0), intermediates=True)
    plain = apply(config, params, *inputs, intermediates=True)
    assert not np.array_equal(dropped.logits, plain.logits)
    changed = [not np.array_equal(a, b) for a, b in zip(dropped.hidden_states, plain.hidden_states, strict=True)]
    expected = {"hidden_dropout_prob": [True] * 3, "attention_probs_dropout_prob": [False, True, True]}
    assert changed == expected.get(rate, [False] * 3)


def test_without_a_rate_of_its_own_the_head_drops_like_the_hidden_layers(params, inputs):
    def logits(classifier):
        config = replace(CONFIG, attention_probs_dropout_prob=0.0, classifier_dropout=classifier)
        return apply(config, params, *inputs, dropout_key=fast_key(3)).logits

    np.testing.assert_array_equal(logits(None), logits(CONFIG.hidden_dropout_prob))


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("rules", sweep(["paper-50x", "deepspeed"], fast=1))
def test_packed_params_give_the_logits_of_the_fake_quantized_ones(inputs, bits, rules):
    ids, types, mask = inputs
    inputs, params, chosen = (ids % 24, types, mask), toy.params(SQUARE), named_rules(rules, bits)
    fake = apply(SQUARE, fake_quantize(params, chosen), *inputs).logits
    packed = pack(params, chosen)
    widened = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.float16 else x, packed)
    np.testing.assert_array_equal(apply(SQUARE, widened, *inputs).logits, fake)
    np.testing.assert_array_equal(apply(SQUARE, ready(packed, backend="xla"), *inputs).logits, fake)
    assert np.abs(fake - apply(SQUARE, params, *inputs).logits).max() > 0.01  # quantization did something


def test_a_gradient_reaches_every_parameter(inputs):
    ids, types, mask = inputs
    gradient = jax.grad(lambda p: jnp.sum(apply(SQUARE, p, ids % 24, types, mask).logits ** 2))(toy.params(SQUARE))
    assert [path for path, leaf in named_leaves(gradient).items() if not np.any(leaf)] == []


def test_a_fresh_model_has_the_tensors_of_a_bert_in_torch_order():
    config = replace(CONFIG, num_hidden_layers=1)
    layer = {
        **{f"attention/self/{name}/{leaf}": shape for name in ("query", "key", "value") for leaf, shape in _square(24)},
        **{f"attention/output/dense/{leaf}": shape for leaf, shape in _square(24)},
        "intermediate/dense/weight": (40, 24),
        "intermediate/dense/bias": (40,),
        "output/dense/weight": (24, 40),
        "output/dense/bias": (24,),
        **{f"{part}/LayerNorm/{leaf}": (24,) for part in ("attention/output", "output") for leaf in ("weight", "bias")},
    }
    expected = {
        "embeddings/word_embeddings/weight": (60, 24),
        "embeddings/position_embeddings/weight": (16, 24),
        "embeddings/token_type_embeddings/weight": (2, 24),
        "embeddings/LayerNorm/weight": (24,),
        "embeddings/LayerNorm/bias": (24,),
        **{f"encoder/layer_0/{path}": shape for path, shape in layer.items()},
        **{f"pooler/dense/{leaf}": shape for leaf, shape in _square(24)},
        "classifier/weight": (3, 24),
        "classifier/bias": (3,),
    }
    fresh = named_leaves(jax.eval_shape(functools.partial(init, config), jax.random.key(0)))
    assert {path: leaf.shape for path, leaf in fresh.items()} == expected
    assert {leaf.dtype for leaf in fresh.values()} == {jnp.dtype("float32")}


def _square(size):
    return (("weight", (size, size)), ("bias", (size,)))


def test_fresh_weights_are_normal_biases_zero_and_layer_norms_one():
    for path, leaf in named_leaves(init(replace(SQUARE, vocab_size=600), fast_key(1))).items():
        if path.endswith("bias"):
            np.testing.assert_array_equal(leaf, np.zeros(leaf.shape), path)
        elif "LayerNorm" in path:
            np.testing.assert_array_equal(leaf, np.ones(leaf.shape), path)
        elif leaf.size > 500:  # five standard errors of the smallest
            np.testing.assert_allclose([np.mean(leaf), np.std(leaf)], [0, 0.3], atol=0.063, err_msg=path)


def test_bert_base_with_two_classes_has_the_known_number_of_parameters():
    shapes = jax.eval_shape(lambda: init(BertConfig(), jax.random.key(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 109_483_778


@pytest.fixture(scope="module")
def both_dtypes(params, inputs):
    """The same forward pass computed in float32 and in bfloat16."""
    run = functools.partial(jax.jit(apply, static_argnums=0, static_argnames=("intermediates", "dtype")), CONFIG)
    return [run(params, *inputs, intermediates=True, dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16)]


def test_in_bfloat16_hidden_states_are_bfloat16_and_scores_and_logits_float32(both_dtypes):
    wide, narrow = both_dtypes
    assert {leaf.dtype for leaf in jax.tree.leaves(wide)} == {jnp.dtype("float32")}
    assert {state.dtype for state in narrow.hidden_states} == {jnp.dtype("bfloat16")}
    assert {x.dtype for x in (*narrow.attention_scores, narrow.logits)} == {jnp.dtype("float32")}
    assert jax.tree.map(jnp.shape, narrow) == jax.tree.map(jnp.shape, wide)


def test_bfloat16_differs_from_float32_by_its_rounding_and_no_more(both_dtypes, inputs):
    wide, narrow = both_dtypes
    valid = np.asarray(inputs[2]) > 0
    for w, n in zip(wide.hidden_states, narrow.hidden_states, strict=True):
        error = np.abs(np.asarray(n, np.float32) - np.asarray(w))[valid]
        # LayerNorm's outputs are of size 1: bfloat16's last digit is 2^-8 of that, and layer adds to layer.
        assert 0 < np.sqrt(np.mean(error**2)) < 2**-4
    # The embedding output is summed and normalised in float32, and rounded once.
    np.testing.assert_array_equal(wide.hidden_states[0].astype(jnp.bfloat16), narrow.hidden_states[0])
    np.testing.assert_allclose(narrow.logits, wide.logits, rtol=0, atol=0.1 * float(jnp.max(jnp.abs(wide.logits))))


@pytest.mark.parametrize("kind", ["fake-quantized", "packed"])
def test_a_small_models_integers_are_exact_in_bfloat16_too(inputs, kind):
    """Codes up to 128 are bfloat16 numbers: quantized and packed weights give what float32 gives, but for the activations."""
    ids, types, mask = inputs
    params, rules = toy.params(SQUARE), named_rules("deepspeed", 2, 8)
    small = fake_quantize(params, rules) if kind == "fake-quantized" else ready(pack(params, rules), backend="xla")
    run = functools.partial(jax.jit(apply, static_argnums=0, static_argnames="dtype"), SQUARE, small)
    wide, narrow = (run(ids % 24, types, mask, dtype=dtype).logits for dtype in (jnp.float32, jnp.bfloat16))
    assert narrow.dtype == jnp.float32
    np.testing.assert_allclose(narrow, wide, rtol=0, atol=0.05 * float(jnp.max(jnp.abs(wide))))


def test_gradients_of_bfloat16_are_float32_and_reach_every_parameter(inputs):
    ids, types, mask = inputs

    @jax.jit
    @jax.grad
    def gradient(params):
        options = {"dtype": jnp.bfloat16, "intermediates": True}  # as in distillation
        return jnp.sum(apply(SQUARE, params, ids % 24, types, mask, **options).logits ** 2)

    for path, leaf in named_leaves(gradient(toy.params(SQUARE))).items():
        assert leaf.dtype == jnp.float32, path
        assert np.any(leaf), path
