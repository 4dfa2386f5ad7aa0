"""``xtc convert``: there and back, to the bit."""

import functools
import json

import jax
import ml_dtypes
import numpy as np
import pytest
import toy
from safetensors.numpy import load_file, save_file

from xtc_jax.bert import BertConfig, config_to_dict
from xtc_jax.data import pinned_directory
from xtc_jax.errors import UserError
from xtc_jax.formats import convert, load_model, save_huggingface
from xtc_jax.params import named_leaves

CONFIG = BertConfig(
    vocab_size=30,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=6,
    labels=("no", "yes", "maybe"),
)
MINILM = "pinned:all-MiniLM-L6-v2"


@functools.cache
def make_params(dtype=np.float32):
    return jax.tree.map(lambda leaf: np.asarray(leaf).astype(dtype), toy.params(CONFIG))


@pytest.fixture
def source(tmp_path):
    save_huggingface(tmp_path / "source", CONFIG, make_params())
    toy.tokenizer().save(str(tmp_path / "source" / "tokenizer.json"))
    return tmp_path / "source"


def tensors(directory):
    return {name: (x.dtype.name, x.shape, x.tobytes()) for name, x in load_file(directory / "model.safetensors").items()}


def there_and_back(source, tmp_path):
    convert(str(source), tmp_path / "flax", "flax")
    convert(str(tmp_path / "flax"), tmp_path / "back", "huggingface")
    return tmp_path / "back"


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
def test_through_flax_and_back_no_bit_changes(tmp_path, dtype):
    save_huggingface(tmp_path / "source", CONFIG, make_params(dtype))
    back = there_and_back(tmp_path / "source", tmp_path)
    assert tensors(back) == tensors(tmp_path / "source")
    assert json.loads((back / "config.json").read_text()) == json.loads((tmp_path / "source" / "config.json").read_text())


def test_a_multi_label_model_stays_one(source, tmp_path):
    raw = json.loads((source / "config.json").read_text()) | {"problem_type": "multi_label_classification"}
    (source / "config.json").write_text(json.dumps(raw))
    back = there_and_back(source, tmp_path)
    assert json.loads((back / "config.json").read_text()) == raw


def test_a_bare_encoder_with_position_ids_comes_back_with_them(tmp_path):
    (tmp_path / "source").mkdir()
    save_huggingface(tmp_path / "whole", CONFIG, make_params())
    bare = {name.removeprefix("bert."): x for name, x in load_file(tmp_path / "whole" / "model.safetensors").items()}
    bare = {name: x for name, x in bare.items() if not name.startswith(("pooler", "classifier"))}
    save_file({**bare, "embeddings.position_ids": np.arange(6)[None]}, tmp_path / "source" / "model.safetensors")
    (tmp_path / "source" / "config.json").write_text(json.dumps(config_to_dict(CONFIG, "BertModel")))
    assert tensors(there_and_back(tmp_path / "source", tmp_path)) == tensors(tmp_path / "source")


def test_the_tokenizer_goes_along(tmp_path, source):
    assert (there_and_back(source, tmp_path) / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()


def test_converting_answers_with_the_config_and_the_number_of_tensors(tmp_path, source):
    config, count = convert(str(source), tmp_path / "target", "flax")
    assert config == CONFIG
    assert count == len(named_leaves(make_params())) == 41


@pytest.mark.parametrize("form", ["flax", "huggingface"])
def test_a_model_of_either_form_is_loaded_with_its_directory(tmp_path, source, form):
    convert(str(source), tmp_path / "target", form)
    config, params, directory = load_model(str(tmp_path / "target"))
    assert (config, directory) == (CONFIG, tmp_path / "target")
    jax.tree.map(np.testing.assert_array_equal, params, make_params())


@pytest.mark.parametrize("form", ["flax", "huggingface"])
def test_a_target_that_holds_something_is_refused_and_untouched(tmp_path, source, form):
    target = tmp_path / "target"
    target.mkdir()
    (target / "precious").write_text("mine")
    with pytest.raises(UserError, match=r"target: exists already; choose a new directory"):
        convert(str(source), target, form)
    assert [(path.name, path.read_text()) for path in target.iterdir()] == [("precious", "mine")]


@pytest.mark.parametrize("form", ["flax", "huggingface"])
def test_a_target_that_is_a_file_is_refused_and_untouched(tmp_path, source, form):
    (tmp_path / "target").write_text("mine")
    with pytest.raises(UserError, match=r"target: exists already"):
        convert(str(source), tmp_path / "target", form)
    assert (tmp_path / "target").read_text() == "mine"


@pytest.mark.parametrize("form", ["flax", "huggingface"])
def test_an_empty_target_and_one_in_a_new_folder_are_filled(tmp_path, source, form):
    (tmp_path / "empty").mkdir()
    for target in (tmp_path / "empty", tmp_path / "new" / "target"):
        convert(str(source), target, form)
        assert load_model(str(target))[0] == CONFIG
    assert {path.name for path in tmp_path.iterdir()} == {"source", "empty", "new"}


@pytest.mark.parametrize("form", ["flax", "huggingface"])
def test_a_source_that_cannot_be_read_makes_no_target(tmp_path, source, form):
    (source / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"source/model\.safetensors: damaged or truncated"):
        convert(str(source), tmp_path / "target", form)
    assert {path.name for path in tmp_path.iterdir()} == {"source"}


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    return there_and_back(MINILM, tmp_path_factory.mktemp("minilm"))


@pytest.mark.pinned
def test_every_tensor_of_the_quick_start_model_comes_back_to_the_bit(minilm):
    source = tensors(pinned_directory(MINILM))
    assert len(source) == 104
    assert "embeddings.position_ids" in source
    assert tensors(minilm) == source


@pytest.mark.pinned
def test_the_quick_start_model_keeps_its_tokenizer_and_config(minilm):
    source = pinned_directory(MINILM)
    assert (minilm / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    old, new = (json.loads((directory / "config.json").read_text()) for directory in (source, minilm))
    unused = {"_name_or_path", "gradient_checkpointing", "transformers_version", "use_cache"}
    assert {key: new.get(key) for key in old.keys() - unused} == {key: old[key] for key in old.keys() - unused}


@pytest.mark.pinned
@pytest.mark.torch
def test_transformers_loads_the_converted_quick_start_model(minilm):
    import torch
    from transformers import AutoModel

    ids = torch.tensor([[101, 7592, 2088, 102]])
    states = []
    for directory in (pinned_directory(MINILM), minilm):
        model, report = AutoModel.from_pretrained(directory, output_loading_info=True)
        assert not report["missing_keys"]
        with torch.no_grad():
            states.append(model.eval()(ids).last_hidden_state.numpy())
    np.testing.assert_array_equal(*states)
