"""How a model directory is written: nothing beside it is touched, it is read back, and no path loses it."""

import functools
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
import toy

from xtc_jax.bert import BertConfig
from xtc_jax.compress import pack
from xtc_jax.data import GLUE, load_tokenizer
from xtc_jax.errors import UserError
from xtc_jax.formats import PackedModel, flax, load_flax, load_model, save_flax, save_huggingface, save_packed
from xtc_jax.formats.conversion import convert
from xtc_jax.quantize import named_rules

CONFIG = BertConfig(
    vocab_size=80,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=6,
    labels=GLUE["mrpc"].labels,
)


@functools.cache
def make_params():
    return jax.tree.map(np.asarray, toy.params(CONFIG))


@pytest.fixture
def source(tmp_path):
    save_huggingface(tmp_path / "source", CONFIG, make_params())
    toy.tokenizer().save(str(tmp_path / "source" / "tokenizer.json"))
    return tmp_path / "source"


def save_in_every_form(form, target, source):
    if form == "flax":
        save_flax(target, CONFIG, make_params(), source)
    elif form == "packed":
        save_packed(target, PackedModel(CONFIG, pack(make_params(), named_rules("deepspeed", 1)), GLUE["mrpc"], 5), source)
    else:
        convert(str(source), target, "huggingface")


@pytest.mark.parametrize("form", ["flax", "packed", "huggingface"])
def test_a_directory_beside_the_target_with_tmp_in_its_name_is_left_as_it_is(tmp_path, source, form):
    (tmp_path / "model.tmp").mkdir()
    (tmp_path / "model.tmp" / "thesis").write_text("mine")
    save_in_every_form(form, tmp_path / "model", source)
    assert (tmp_path / "model.tmp" / "thesis").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"source", "model.tmp", "model"}


@pytest.mark.parametrize("form", ["flax", "huggingface"])
def test_a_model_is_converted_into_the_current_directory_if_that_is_empty(tmp_path, source, form, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    convert(str(source), Path(), form)
    assert "config.json" in os.listdir()  # the directory itself stays: a shell that stands in it sees the files
    jax.tree.map(np.testing.assert_array_equal, load_model(".")[1], make_params())


@pytest.mark.parametrize("form", ["flax", "packed", "huggingface"])
def test_a_written_directory_has_the_permissions_of_any_new_directory(tmp_path, source, form):
    (tmp_path / "plain").mkdir()
    save_in_every_form(form, tmp_path / "model", source)
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("name", ["sst2[seed1]", "what?", "all*"])
def test_a_path_that_orbax_would_take_for_a_pattern_is_refused_before_anything_is_written(tmp_path, source, name):
    with pytest.raises(UserError, match="choose a path without") as refused:
        save_flax(tmp_path / name / "model", CONFIG, make_params(), source)
    assert str(tmp_path / name) in str(refused.value)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["sst2[seed1]", "what?", "all*"])
def test_models_of_other_forms_lie_under_any_path(tmp_path, source, name):
    save_in_every_form("huggingface", tmp_path / name, source)
    jax.tree.map(np.testing.assert_array_equal, load_model(str(tmp_path / name))[1], make_params())


def test_what_is_not_read_back_to_the_bit_is_no_written_model(tmp_path, source, monkeypatch):
    save_flax(tmp_path / "model", CONFIG, make_params(), source)
    save = flax.ocp.save

    def save_other_bits(path, params):
        params["pooler"]["dense"]["bias"] = params["pooler"]["dense"]["bias"] + 1
        save(path, params)

    monkeypatch.setattr("xtc_jax.formats.flax.ocp.save", save_other_bits)
    with pytest.raises(UserError, match=r"pooler/dense/bias was not read back as it was written"):
        save_flax(tmp_path / "model", CONFIG, make_params(), source)
    jax.tree.map(np.testing.assert_array_equal, load_flax(tmp_path / "model")[1], make_params())
    assert {path.name for path in tmp_path.iterdir()} == {"source", "model"}


def test_a_tokenizer_of_an_older_checkpoint_is_written_whole_with_its_added_tokens(tmp_path, source):
    (source / "tokenizer.json").unlink()
    (source / "vocab.txt").write_text("".join(f"{word}\n" for word in toy.VOCABULARY))
    (source / "added_tokens.json").write_text(json.dumps({"zebrafish": len(toy.VOCABULARY)}))
    before = load_tokenizer(source).encode("the zebrafish was bright").ids
    assert len(toy.VOCABULARY) in before
    for form in ("flax", "packed", "huggingface"):
        save_in_every_form(form, tmp_path / form, source)
        assert (tmp_path / form / "tokenizer.json").is_file()
        assert load_tokenizer(tmp_path / form).encode("the zebrafish was bright").ids == before, form
