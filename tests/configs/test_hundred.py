"""The recipe of a hundred times."""

import jax
import pytest
import toy

from xtc_jax.bert import BertConfig, init
from xtc_jax.compress import float32_bytes, pack
from xtc_jax.formats import PackedModel, save_packed
from xtc_jax.recipe import make_recipe, read_config_file

MINILM = BertConfig(vocab_size=30522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)


def test_two_layers_6900_pieces_and_1_bit_are_more_than_a_hundred_times_smaller(tmp_path):
    teacher, quantize = make_recipe(read_config_file("hundred", ())).stages
    assert (quantize.vocabulary, quantize.layers, quantize.weight_bits) == (6900, "2,5", 1)
    assert (quantize.init, quantize.teacher) == (teacher.name, teacher.name)
    shape = BertConfig(**{**MINILM.__dict__, "num_hidden_layers": 2, "vocab_size": 6900})
    toy.write_model(tmp_path / "tokenizer")
    packed = PackedModel(shape, pack(init(shape, jax.random.key(0)), quantize.rules), toy.SENTIMENT, 48)
    save_packed(tmp_path / "packed", packed, tmp_path / "tokenizer")
    size = (tmp_path / "packed" / "model.safetensors").stat().st_size
    whole = float32_bytes(init(MINILM, jax.random.key(0)))
    assert whole / size == pytest.approx(100.4, abs=0.1)


def test_all_steps_are_multiplied_by_scale():
    plain, longer = (make_recipe(read_config_file(f"hundred{more}", ())) for more in ("", ":scale=2"))
    assert [stage.steps for stage in longer.stages] == [2 * stage.steps for stage in plain.stages]
