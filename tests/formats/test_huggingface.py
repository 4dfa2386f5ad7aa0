"""Checkpoints of Hugging Face, read, refused and written."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from xtc_jax.bert import BertConfig, apply, complete, config_to_dict, init, with_head
from xtc_jax.errors import UserError
from xtc_jax.formats import copy_tokenizer, load_huggingface, read_safetensors, resolve_model, save_huggingface
from xtc_jax.formats.huggingface import parameter_path, tensor_name
from xtc_jax.params import named_leaves, nest

CONFIG = BertConfig(
    vocab_size=40,
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=20,
    max_position_embeddings=10,
)
QUERY = "encoder.layer.1.attention.self.query.weight"
KEY = jax.random.key(9, impl="rbg")  # compiles faster than the default


@functools.cache
def make_params(config=CONFIG):
    return jax.tree.map(np.asarray, toy.params(config))


def make_tensors(config=CONFIG):
    """The tensors of a bare checkpoint: torch's names, no prefix."""
    return {tensor_name(path): np.asarray(leaf) for path, leaf in named_leaves(make_params(config)).items()}


def write(directory, tensors, config=CONFIG):
    directory.mkdir(exist_ok=True)
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config_to_dict(config, "BertModel")))
    return directory


def prefixed(tensors):
    return {name if name.startswith("classifier") else f"bert.{name}": value for name, value in tensors.items()}


def assert_same(left, right):
    left, right = named_leaves(left), named_leaves(right)
    assert left.keys() == right.keys()
    for path, leaf in left.items():
        assert leaf.dtype == right[path].dtype, path
        assert np.asarray(leaf).tobytes() == np.asarray(right[path]).tobytes(), path


@pytest.mark.parametrize("rename", [dict, prefixed], ids=["bare", "prefixed"])
def test_a_checkpoint_is_read_with_and_without_the_bert_prefix(tmp_path, rename):
    config, params = load_huggingface(write(tmp_path, rename(make_tensors())))
    assert config == CONFIG
    assert_same(params, make_params())


def test_gamma_and_beta_are_the_weight_and_bias_of_a_layer_norm(tmp_path):
    def old(name):
        return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    tensors = {old(name): value + np.float32(0.5) for name, value in make_tensors().items()}
    assert sum(name.endswith(("gamma", "beta")) for name in tensors) == 10
    _, params = load_huggingface(write(tmp_path, tensors))
    assert_same(params, jax.tree.map(lambda leaf: leaf + np.float32(0.5), make_params()))


@pytest.mark.parametrize("absent", [(), ("pooler",), ("classifier",), ("pooler", "classifier")], ids="+".join)
def test_the_pooler_and_the_head_may_be_absent(tmp_path, absent):
    tensors = {name: value for name, value in make_tensors().items() if name.split(".", maxsplit=1)[0] not in absent}
    _, params = load_huggingface(write(tmp_path, tensors))
    assert set(params) == {"embeddings", "encoder", "pooler", "classifier"} - set(absent)


def test_heads_of_other_tasks_are_left_out(tmp_path):
    extra = {name: np.zeros((2, 12), np.float32) for name in ("cls.seq_relationship.weight", "qa_outputs.weight")}
    _, params = load_huggingface(write(tmp_path, {**prefixed(make_tensors()), **extra}))
    assert_same(params, make_params())


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_a_checkpoint_keeps_its_dtype_to_the_bit(tmp_path, dtype):
    tensors = {name: value.astype(dtype) for name, value in make_tensors().items()}
    config, params = load_huggingface(write(tmp_path / "source", tensors))
    assert {leaf.dtype for leaf in named_leaves(params).values()} == {np.dtype(dtype)}
    save_huggingface(tmp_path / "target", config, params)
    written = load_file(tmp_path / "target" / "model.safetensors")
    expected = prefixed(tensors)
    assert written.keys() == expected.keys()
    assert all(written[name].tobytes() == expected[name].tobytes() for name in written)


def test_the_buffer_position_ids_survives_a_round_trip(tmp_path):
    tensors = {name: value for name, value in make_tensors().items() if not name.startswith("classifier")}
    tensors["embeddings.position_ids"] = np.arange(10)[None]
    config, params = load_huggingface(write(tmp_path / "source", tensors))
    assert config.has_position_ids
    assert "position_ids" not in params["embeddings"]
    save_huggingface(tmp_path / "target", config, params)
    written = load_file(tmp_path / "target" / "model.safetensors")
    assert {name: (value.dtype, value.tobytes()) for name, value in written.items()} == {
        name: (value.dtype, value.tobytes()) for name, value in tensors.items()
    }


def _write_shards(directory):
    tensors = prefixed(make_tensors())
    names = sorted(tensors)
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in names if files[name] == file}, directory / file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    (directory / "config.json").write_text(json.dumps(config_to_dict(CONFIG, "BertModel")))


def test_sharded_safetensors_are_read_together(tmp_path):
    _write_shards(tmp_path)
    assert_same(load_huggingface(tmp_path)[1], make_params())


def test_a_missing_shard_is_named(tmp_path):
    _write_shards(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-00002-of-00002\.safetensors: no such file"):
        load_huggingface(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"metadata": {}}', '{"weight_map": ["a"]}'])
def test_an_index_without_a_weight_map_is_refused(tmp_path, content):
    _write_shards(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json: not an index of shards"):
        load_huggingface(tmp_path)


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_pickled_checkpoint_is_read_to_the_bit(tmp_path, dtype):
    import torch

    write(tmp_path, make_tensors())
    (tmp_path / "model.safetensors").unlink()
    state = {name: torch.tensor(value).to(getattr(torch, dtype)) for name, value in prefixed(make_tensors()).items()}
    torch.save(state, tmp_path / "pytorch_model.bin")
    _, params = load_huggingface(tmp_path)
    assert_same(params, jax.tree.map(lambda leaf: np.asarray(leaf).astype(jnp.dtype(dtype)), make_params()))


@pytest.mark.torch
def test_a_damaged_pickle_is_refused(tmp_path):
    write(tmp_path, make_tensors())
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"not a pickle")
    with pytest.raises(UserError, match=r"pytorch_model\.bin: damaged, or not plain tensors"):
        load_huggingface(tmp_path)


def test_another_model_type_is_refused_by_file(tmp_path):
    write(tmp_path, make_tensors())
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**raw, "model_type": "distilbert"}))
    with pytest.raises(UserError, match=r"config\.json: model_type is 'distilbert'"):
        load_huggingface(tmp_path)


@pytest.mark.parametrize("name", [QUERY, "embeddings.word_embeddings.weight", "pooler.dense.bias", "classifier.bias"])
def test_a_missing_tensor_is_named(tmp_path, name):
    tensors = make_tensors()
    del tensors[name]
    with pytest.raises(UserError, match=rf"model\.safetensors: not a complete BERT; missing {name}$"):
        load_huggingface(write(tmp_path, tensors))


def test_of_many_missing_tensors_the_first_are_named_and_the_rest_counted(tmp_path):
    tensors = {name: value for name, value in make_tensors().items() if not name.startswith("encoder.layer.0.")}
    with pytest.raises(UserError, match=r"missing (encoder\.layer\.0\.\S+, ){3}encoder\.layer\.0\.\S+ and 12 more"):
        load_huggingface(write(tmp_path, tensors))


def test_a_tensor_of_another_shape_is_named_with_both_shapes(tmp_path):
    tensors = {**make_tensors(), QUERY: np.zeros((12, 11), np.float32)}
    with pytest.raises(UserError, match=rf"tensor {QUERY} has shape \(12, 11\), config.json asks for \(12, 12\)"):
        load_huggingface(write(tmp_path, tensors))


def test_an_integer_tensor_is_refused(tmp_path):
    with pytest.raises(UserError, match=rf"tensor {QUERY} has dtype int8, not a float"):
        load_huggingface(write(tmp_path, {**make_tensors(), QUERY: np.zeros((12, 12), np.int8)}))


@pytest.mark.parametrize("name", ["encoder.layer.2.output.dense.weight", "embeddings.extra.weight"])
def test_an_unknown_tensor_of_the_encoder_is_named(tmp_path, name):
    with pytest.raises(UserError, match=rf"does not fit its config.json; unknown {name}"):
        load_huggingface(write(tmp_path, {**make_tensors(), name: np.zeros(3, np.float32)}))


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_named(tmp_path, keep):
    file = write(tmp_path, make_tensors()) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"model\.safetensors: damaged or truncated"):
        load_huggingface(tmp_path)


def test_a_directory_without_weights_is_named(tmp_path):
    (write(tmp_path, make_tensors()) / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no model.safetensors, no .*index.json and no pytorch_model.bin") as refused:
        load_huggingface(tmp_path)
    assert str(tmp_path) in str(refused.value)


def test_a_safetensors_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.safetensors: no such file"):
        read_safetensors(tmp_path / "absent.safetensors")


@pytest.mark.torch
@pytest.mark.parametrize("labels", [("no", "yes", "maybe"), ("score",)], ids=len)
def test_transformers_loads_what_is_saved_and_computes_the_same(tmp_path, rng, labels):
    import torch
    from transformers import AutoModelForSequenceClassification

    config = with_head(CONFIG, labels, regression=len(labels) == 1)
    params = make_params(config)
    save_huggingface(tmp_path, config, params)
    reference, report = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert tuple(reference.config.id2label[i] for i in range(len(labels))) == labels
    ids = rng.integers(0, 40, (3, 8))
    with torch.no_grad():
        expected = reference.eval()(input_ids=torch.tensor(ids)).logits
    ones = jnp.ones((3, 8), jnp.int32)
    output = apply(config, params, jnp.asarray(ids, jnp.int32), jnp.zeros_like(ones), ones)
    np.testing.assert_allclose(output.logits, expected, rtol=0, atol=5e-7)


def test_a_saved_model_is_read_back_to_the_bit(tmp_path):
    save_huggingface(tmp_path, CONFIG, make_params())
    config, params = load_huggingface(tmp_path)
    assert config == CONFIG
    assert_same(params, make_params())


def test_a_directory_is_its_own_model(tmp_path):
    assert resolve_model(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/at/all", "a/b/c", "~/nowhere-at-all"])
def test_a_path_that_is_no_directory_is_refused_without_asking_the_hub(source):
    with pytest.raises(UserError, match=f"{source}: no such model directory"):
        resolve_model(source)


def test_a_file_is_no_model_directory(tmp_path):
    (tmp_path / "model.bin").touch()
    with pytest.raises(UserError, match=r"model\.bin: no such model directory"):
        resolve_model(str(tmp_path / "model.bin"))


def test_an_unknown_pinned_model_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"pinned:bert: unknown; use one of pinned:all-MiniLM-L6-v2"):
        resolve_model("pinned:bert")


def test_a_hub_id_is_asked_of_the_hub(monkeypatch, tmp_path):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda source, **_: asked.append(source) or str(tmp_path))
    assert resolve_model("someone/bert-tiny") == tmp_path
    assert asked == ["someone/bert-tiny"]


def test_a_hub_that_does_not_deliver_is_one_line(monkeypatch):
    import huggingface_hub

    def offline(source, **_):
        raise ConnectionError("a long story")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(UserError, match=r"^someone/bert-tiny: no such directory, and the hub .* \(ConnectionError\)$"):
        resolve_model("someone/bert-tiny")


def test_only_the_files_of_the_tokenizer_are_copied(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    for name in ("vocab.txt", "tokenizer.json", "config.json"):
        (source / name).write_text(name)
    copy_tokenizer(source, target)
    assert {path.name: path.read_text() for path in target.iterdir()} == {
        "vocab.txt": "vocab.txt",
        "tokenizer.json": "tokenizer.json",
    }


def test_completing_keeps_what_is_there_and_makes_what_is_not():
    params = make_params()
    partial = {name: params[name] for name in ("embeddings", "encoder")}
    full, new = complete(CONFIG, partial, KEY)
    assert set(new) == {"pooler", "classifier"}
    assert_same({name: full[name] for name in partial}, partial)
    fresh = named_leaves(init(CONFIG, KEY))
    for name, leaf in named_leaves({name: full[name] for name in new}).items():
        # Drawn by another program: an erfinv that a processor has in vectors rounds otherwise (seen with JAX 0.10.2).
        np.testing.assert_array_max_ulp(np.asarray(leaf), np.asarray(fresh[name]), maxulp=4)


def test_completing_a_complete_model_changes_nothing():
    full, fresh = complete(CONFIG, make_params(), KEY)
    assert fresh == ()
    assert_same(full, make_params())


def test_completing_replaces_a_head_of_another_width_alone():
    full, fresh = complete(with_head(CONFIG, ("a", "b", "c"), False), make_params(), KEY)
    assert fresh == ("classifier",)
    assert full["classifier"]["weight"].shape == (3, 12)
    assert_same(full["pooler"], make_params()["pooler"])


def test_completing_widens_to_float32():
    half = jax.tree.map(lambda leaf: np.asarray(leaf).astype(ml_dtypes.bfloat16), make_params())
    full, _ = complete(CONFIG, half, KEY)
    assert_same(full, jax.tree.map(lambda leaf: leaf.astype(np.float32), half))


def test_completing_leaves_its_argument_alone():
    params = make_params()
    complete(with_head(CONFIG, ("a", "b", "c"), False), params, KEY)
    assert params["classifier"]["weight"].shape == (2, 12)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("bert.embeddings.LayerNorm.gamma", "embeddings/LayerNorm/weight"),
        ("embeddings.LayerNorm.beta", "embeddings/LayerNorm/bias"),
        ("encoder.layer.11.attention.self.key.bias", "encoder/layer_11/attention/self/key/bias"),
        ("classifier.weight", "classifier/weight"),
    ],
)
def test_a_tensor_has_its_path(name, path):
    assert parameter_path(name) == path


@settings(deadline=None, max_examples=25)
@given(layer=st.integers(0, 99), path=st.sampled_from(sorted(named_leaves(make_params()))))
def test_names_and_paths_are_inverse(layer, path):
    path = path.replace("layer_1", f"layer_{layer}")
    assert parameter_path(tensor_name(path)) == path
    assert parameter_path(f"bert.{tensor_name(path)}") == path


def test_nesting_is_the_inverse_of_naming():
    assert_same(nest(named_leaves(make_params())), make_params())


def test_the_source_directory_is_not_needed_once_loaded(tmp_path):
    directory = write(tmp_path / "source", make_tensors())
    _, params = load_huggingface(directory)
    shutil.rmtree(directory)
    assert_same(params, make_params())
