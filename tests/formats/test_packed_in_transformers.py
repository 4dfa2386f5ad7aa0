"""A packed directory must never load as a BERT with random weights."""

import pytest
import toy


@pytest.mark.torch
@pytest.mark.parametrize("name", ["AutoModelForSequenceClassification", "BertForSequenceClassification", "AutoModel"])
def test_transformers_refuses_a_packed_directory(tmp_path_factory, name):
    import transformers

    packed = toy.finished_run(tmp_path_factory.mktemp) / "work" / "packed"
    with pytest.raises(ValueError, match="quant"):
        getattr(transformers, name).from_pretrained(packed)
