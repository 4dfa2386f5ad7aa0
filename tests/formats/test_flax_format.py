"""This package's model directories: written at once, read back equal, refused when damaged."""

import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import toy

from xtc_jax.bert import BertConfig
from xtc_jax.errors import UserError
from xtc_jax.formats import load_flax, save_flax
from xtc_jax.formats.flax import is_flax
from xtc_jax.formats.scratch import clear_unfinished, make_scratch
from xtc_jax.params import named_leaves
from xtc_jax.quantize import ActivationSpec, named_rules, split, with_input_ranges

CONFIG = BertConfig(
    vocab_size=30,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=6,
    labels=("no", "yes", "maybe"),
    has_position_ids=True,
)


def make_params(seed, dtype=np.float32):
    return jax.tree.map(lambda leaf: np.asarray(leaf).astype(dtype), toy.params(CONFIG, seed))


def assert_same(left, right):
    left, right = named_leaves(left), named_leaves(right)
    assert left.keys() == right.keys()
    for path, leaf in left.items():
        assert leaf.dtype == right[path].dtype, path
        assert np.asarray(leaf).tobytes() == np.asarray(right[path]).tobytes(), path


@pytest.fixture
def tokenizer(tmp_path):
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    toy.tokenizer().save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
def test_a_saved_model_is_read_back_to_the_bit(tmp_path, tokenizer, dtype):
    save_flax(tmp_path / "model", CONFIG, make_params(0, dtype), tokenizer)
    config, params = load_flax(tmp_path / "model")
    assert config == CONFIG
    assert_same(params, make_params(0, dtype))


def test_jax_arrays_are_saved_like_those_of_numpy(tmp_path, tokenizer):
    save_flax(tmp_path / "model", CONFIG, jax.tree.map(jnp.asarray, make_params(0)), tokenizer)
    assert_same(load_flax(tmp_path / "model")[1], make_params(0))


def test_a_model_without_a_head_is_read_back_without_one(tmp_path, tokenizer):
    encoder = {name: leaf for name, leaf in make_params(0).items() if name in ("embeddings", "encoder")}
    save_flax(tmp_path / "model", CONFIG, encoder, tokenizer)
    assert_same(load_flax(tmp_path / "model")[1], encoder)


def _split_and_ranged():
    """Every ternary weight in halves, and a range beside every Linear of the layer."""
    static = named_rules("deepspeed", 1, ActivationSpec(8, "static"))
    made = with_input_ranges(split(make_params(0), named_rules("deepspeed", 2)), static)
    return jax.tree.map(np.asarray, made)


def test_split_weights_and_input_ranges_are_read_back_to_the_bit(tmp_path, tokenizer):
    params = _split_and_ranged()
    save_flax(tmp_path / "model", CONFIG, params, tokenizer)
    found = load_flax(tmp_path / "model")[1]
    assert_same(found, params)
    query = found["encoder"]["layer_0"]["attention"]["self"]["query"]
    assert query["input_range"].shape == (2,)
    assert {half: leaf.shape for half, leaf in query["weight"].items()} == {"first": (8, 8), "second": (8, 8)}


def test_the_directory_holds_config_params_and_tokenizer_and_nothing_is_left_beside_it(tmp_path, tokenizer):
    save_flax(tmp_path / "deep" / "model", CONFIG, make_params(0), tokenizer)
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"model"}
    assert {path.name for path in (tmp_path / "deep" / "model").iterdir()} == {"config.json", "params", "tokenizer.json"}


def test_saving_replaces_the_directory_whole(tmp_path, tokenizer):
    model = tmp_path / "model"
    save_flax(model, CONFIG, make_params(0), tokenizer)
    (model / "stale").touch()
    save_flax(model, CONFIG, make_params(1), tokenizer)
    assert_same(load_flax(model)[1], make_params(1))
    assert {path.name for path in model.iterdir()} == {"config.json", "params", "tokenizer.json"}


def test_what_a_killed_process_left_beside_a_model_is_cleared_and_nothing_else(tmp_path):
    scratch = make_scratch(tmp_path / "model")
    (scratch / "half").touch()
    other = make_scratch(tmp_path / "another")
    (tmp_path / "model.tmp").mkdir()
    clear_unfinished(tmp_path / "model")
    assert set(tmp_path.iterdir()) == {other.parent, tmp_path / "model.tmp"}


def test_a_save_that_fails_leaves_the_old_directory_untouched(tmp_path, tokenizer, monkeypatch):
    model = tmp_path / "model"
    save_flax(model, CONFIG, make_params(0), tokenizer)
    with monkeypatch.context() as patch:
        patch.setattr("xtc_jax.formats.flax.ocp.save", _full_disk)
        with pytest.raises(OSError, match="disk full"):
            save_flax(model, CONFIG, make_params(1), tokenizer)
    assert_same(load_flax(model)[1], make_params(0))


def _full_disk(*_):
    raise OSError("disk full")


def test_a_model_saved_from_many_devices_is_read_without_them(tmp_path, tokenizer):
    everywhere = jax.NamedSharding(jax.make_mesh((len(jax.devices()),), ("x",)), jax.P())
    save_flax(tmp_path / "model", CONFIG, jax.device_put(make_params(0), everywhere), tokenizer)
    assert {type(leaf) for leaf in jax.tree.leaves(load_flax(tmp_path / "model")[1])} == {np.ndarray}


def test_a_flax_directory_is_told_from_others_by_its_params(tmp_path, tokenizer):
    save_flax(tmp_path / "model", CONFIG, make_params(0), tokenizer)
    assert is_flax(tmp_path / "model")
    assert not is_flax(tokenizer)


def _lose_metadata(params):
    (params / "_CHECKPOINT_METADATA").unlink(missing_ok=True)
    shutil.rmtree(params / "pytree", ignore_errors=True)


def _truncate_arrays(params):
    for file in params.rglob("*"):
        if file.is_file() and file.stat().st_size > 500:
            file.write_bytes(file.read_bytes()[:100])


@pytest.mark.parametrize("damage", [shutil.rmtree, _lose_metadata, _truncate_arrays])
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, tokenizer, damage):
    save_flax(tmp_path / "model", CONFIG, make_params(0), tokenizer)
    damage(tmp_path / "model" / "params")
    with pytest.raises(UserError, match="not a readable checkpoint") as refused:
        load_flax(tmp_path / "model")
    assert str(refused.value).startswith(f"{tmp_path / 'model' / 'params'}: ")


def test_a_directory_without_a_config_is_refused_by_name(tmp_path, tokenizer):
    save_flax(tmp_path / "model", CONFIG, make_params(0), tokenizer)
    (tmp_path / "model" / "config.json").unlink()
    with pytest.raises(UserError, match=r"model/config\.json: no such file"):
        load_flax(tmp_path / "model")


def _with_a_decoder(params):
    return {**params, "decoder": {"weight": np.zeros(2, np.float32)}}


def _with_another_head(params):
    return {**params, "classifier": {"weight": np.zeros((2, 8), np.float32), "bias": np.zeros(2, np.float32)}}


def _with_a_half_of_another_shape(params):
    pooler = {
        **params["pooler"]["dense"],
        "weight": {"first": np.zeros((8, 8), np.float32), "second": np.zeros((8, 7), np.float32)},
    }
    return {**params, "pooler": {"dense": pooler}}


def _with_one_half(params):
    halved = {"first": np.zeros((8, 8), np.float32)}
    return {**params, "pooler": {"dense": {**params["pooler"]["dense"], "weight": halved}}}


def _without_the_encoder(params):
    return {name: leaf for name, leaf in params.items() if name != "encoder"}


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (_with_a_half_of_another_shape, "pooler.dense.weight"),
        (_with_one_half, "missing pooler.dense.weight.second"),
        (_with_a_decoder, "unknown decoder"),
        (_with_another_head, "classifier.bias"),
        (_without_the_encoder, "encoder.layer.0"),
    ],
)
def test_params_that_do_not_fit_the_config_are_refused(tmp_path, tokenizer, change, culprit):
    save_flax(tmp_path / "model", CONFIG, change(make_params(0)), tokenizer)
    with pytest.raises(UserError, match=culprit) as refused:
        load_flax(tmp_path / "model")
    assert str(refused.value).startswith(f"{tmp_path / 'model' / 'params'}: ")
