"""A directory for transformers: every kind of packed model in PyTorch, and what must not load it."""

import json
from pathlib import Path

import numpy as np
import packed_models
import pytest
import toy
from tiers import sweep

from xtc_jax.deploy.huggingface import torch_logits, write_files
from xtc_jax.deploy.verify import compare, packed_logits, sample_inputs
from xtc_jax.formats import load_packed, read_safetensors, save_packed
from xtc_jax.kernels import BASE3, PLANES256

pytestmark = pytest.mark.torch


def written(directory: Path, kind: str, layout: str = PLANES256) -> tuple[Path, Path]:
    """A packed directory, and the one for transformers."""
    packed, target = directory / "packed", directory / f"for_{len(kind)}_{kind.split(maxsplit=1)[0]}"
    tokenizer = directory / "tokenizer"
    tokenizer.mkdir()
    toy.tokenizer().save(str(tokenizer / "tokenizer.json"))
    save_packed(packed, packed_models.MAKERS[kind](), tokenizer, layout)
    target.mkdir()
    write_files(packed, load_packed(packed), target)
    return packed, target


def assert_agrees(packed: Path, target: Path) -> None:
    model = load_packed(packed)
    batches = sample_inputs(model)
    found = compare(packed_logits(model, batches), torch_logits(target, batches))
    assert found.rows == 17
    assert found.median <= 1e-6  # 7.1e-8 measured
    assert found.maximum <= 1e-3  # 7.4e-5: an activation that rounds apart
    assert found.other_labels == 0


@pytest.mark.parametrize("kind", sweep(packed_models.MAKERS, fast=2))
def test_every_kind_of_packed_model_has_the_same_logits_in_pytorch(tmp_path, kind):
    assert_agrees(*written(tmp_path, kind))


@pytest.mark.parametrize("kind", ["2 bits", pytest.param("2 bits, row scales", marks=pytest.mark.slow)])
def test_ternary_codes_in_base_3_stay_so_and_have_the_same_logits(tmp_path, kind):
    packed, target = written(tmp_path, kind, BASE3)
    assert_agrees(packed, target)
    name = "bert.encoder.layer.0.attention.self.query.weight"
    assert read_safetensors(target / "model.safetensors")[name].shape == (12, 3)  # 12 codes, five to a byte


def test_the_file_holds_the_codes_as_they_were_packed(tmp_path):
    packed, target = written(tmp_path, "1 bit")
    ours, theirs = (read_safetensors(path / "model.safetensors") for path in (packed, target))
    assert len(ours) == len(theirs)
    codes = theirs["bert.encoder.layer.1.intermediate.dense.weight"]
    assert codes.dtype == np.uint8
    assert (codes == ours["encoder/layer_1/intermediate/dense/weight.codes"]).all()
    assert sum(value.nbytes for value in theirs.values()) == sum(value.nbytes for value in ours.values())


def test_what_save_pretrained_writes_is_packed_and_loads_again_with_the_same_logits_to_the_bit(tmp_path):
    from transformers import AutoModelForSequenceClassification

    packed, target = written(tmp_path, "split")
    batches = sample_inputs(load_packed(packed))
    first = torch_logits(target, batches)
    again = tmp_path / "again"
    AutoModelForSequenceClassification.from_pretrained(target, trust_remote_code=True).save_pretrained(again)
    assert (torch_logits(again, batches) == first).all()
    ours, theirs = (read_safetensors(path / "model.safetensors") for path in (target, again))
    assert ours.keys() == theirs.keys()
    assert {name for name, value in theirs.items() if value.dtype == np.uint8} == {
        name for name, value in ours.items() if value.dtype == np.uint8
    }
    assert {"modeling_xtc.py", "configuration_xtc.py"} <= {path.name for path in again.iterdir()}
    raw = [json.loads((path / "config.json").read_text()) for path in (target, again)]
    assert raw[0]["xtc"] == raw[1]["xtc"]
    assert raw[0]["quantization_config"] == raw[1]["quantization_config"]


@pytest.mark.parametrize("trusted", [None, False])
def test_without_trust_in_its_code_the_automatic_class_raises(tmp_path, trusted, monkeypatch):
    from transformers import AutoModelForSequenceClassification

    monkeypatch.setattr("builtins.input", lambda _: "n")  # transformers asks
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        AutoModelForSequenceClassification.from_pretrained(written(tmp_path, "8 bits")[1], trust_remote_code=trusted)


def test_the_bert_of_transformers_refuses_it(tmp_path):
    from transformers import BertForSequenceClassification

    with pytest.raises(ValueError, match="quant_method"):
        BertForSequenceClassification.from_pretrained(written(tmp_path, "8 bits")[1])


def test_a_move_to_another_type_unpacks_anew(tmp_path):
    import torch
    from transformers import AutoModelForSequenceClassification

    packed, target = written(tmp_path, "1 bit")
    model = AutoModelForSequenceClassification.from_pretrained(target, trust_remote_code=True)
    inputs = {name: torch.from_numpy(value) for name, value in sample_inputs(load_packed(packed))[0].items()}
    query = model.bert.encoder.layer[0].attention.self.query
    before = model(**inputs).logits
    assert query._unpacked is not None
    model.to(torch.float64)
    assert query._unpacked is None
    assert torch.allclose(model(**inputs).logits.float(), before, rtol=0, atol=3e-7)
    assert query.weight.dtype == torch.uint8


def test_a_pipeline_reads_the_directory_and_cuts_long_texts_at_the_length_of_the_task(tmp_path):
    from transformers import pipeline

    target = written(tmp_path, "one text")[1]
    classify = pipeline("text-classification", model=str(target), trust_remote_code=True, device="cpu")
    short, long = classify(["the lamp was bright", "the lamp was bright and " * 40], truncation=True)
    assert short["label"] in ("negative", "positive")
    assert long["label"] in ("negative", "positive")
    assert classify.tokenizer.model_max_length == 16
