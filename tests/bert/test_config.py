"""``config.json`` to ``BertConfig`` and back."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtc_jax.bert import BertConfig, config_from_dict, config_to_dict, with_head
from xtc_jax.errors import UserError
from xtc_jax.formats import read_config

SMALLEST = {
    "model_type": "bert",
    "vocab_size": 11,
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 24,
}


def test_the_defaults_are_those_of_bert_base():
    config = BertConfig()
    assert (config.num_hidden_layers, config.hidden_size, config.head_size, config.intermediate_size) == (12, 768, 64, 3072)
    assert (config.num_labels, config.regression, config.layer_norm_eps) == (2, False, 1e-12)


def test_what_a_config_leaves_out_takes_the_default():
    config = config_from_dict(SMALLEST, "here")
    assert (config.vocab_size, config.head_size, config.max_position_embeddings) == (11, 4, 512)
    assert config.labels == ("LABEL_0", "LABEL_1")


def test_keys_this_package_does_not_use_are_ignored():
    assert config_from_dict({**SMALLEST, "use_cache": True, "torch_dtype": "float32"}, "here") == config_from_dict(SMALLEST, "")


def test_labels_are_ordered_by_their_number_not_as_text():
    names = {str(i): f"class {i}" for i in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)}
    assert config_from_dict({**SMALLEST, "id2label": names}, "here").labels == tuple(f"class {i}" for i in range(11))


def test_num_labels_names_the_classes_where_id2label_does_not():
    assert config_from_dict({**SMALLEST, "num_labels": 3}, "here").labels == ("LABEL_0", "LABEL_1", "LABEL_2")


@pytest.mark.parametrize("keys", [{"num_labels": 1}, {"problem_type": "regression"}, {"id2label": {"0": "score"}}])
def test_one_label_or_the_problem_type_makes_it_a_regression(keys):
    assert config_from_dict({**SMALLEST, **keys}, "here").regression


@settings(deadline=None, max_examples=25)
@given(
    heads=st.integers(1, 4),
    head_size=st.integers(1, 8),
    layers=st.integers(1, 5),
    activation=st.sampled_from(["gelu", "gelu_new", "relu"]),
    dropout=st.none() | st.floats(0, 0.9),
    labels=st.lists(st.text(min_size=1), min_size=2, max_size=12, unique=True),
    position_ids=st.booleans(),
)
def test_a_config_survives_being_written_and_read(heads, head_size, layers, activation, dropout, labels, position_ids):
    config = BertConfig(
        hidden_size=heads * head_size,
        num_attention_heads=heads,
        num_hidden_layers=layers,
        hidden_act=activation,
        classifier_dropout=dropout,
        labels=tuple(labels),
        has_position_ids=position_ids,
    )
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config, "BertModel"))), "here") == config


def test_a_regression_survives_being_written_and_read():
    config = with_head(BertConfig(), ("score",), regression=True)
    raw = config_to_dict(config, "BertForSequenceClassification")
    assert (raw["problem_type"], raw["id2label"], raw["label2id"]) == ("regression", {"0": "score"}, {"score": 0})
    assert raw["architectures"] == ["BertForSequenceClassification"]
    assert config_from_dict(raw, "here") == config


def test_a_multi_label_checkpoint_stays_one_until_it_gets_another_head():
    config = config_from_dict({**SMALLEST, "problem_type": "multi_label_classification", "num_labels": 3}, "here")
    assert (config.multi_label, config.regression) == (True, False)
    raw = config_to_dict(config, "BertForSequenceClassification")
    assert raw["problem_type"] == "multi_label_classification"
    assert config_from_dict(raw, "here") == config
    assert not with_head(config, config.labels, regression=False).multi_label


def test_an_unknown_problem_type_is_refused():
    with pytest.raises(
        UserError, match=r"^here: problem_type 'ranking' is not known; use one of single_label_classification, "
    ):
        config_from_dict({**SMALLEST, "problem_type": "ranking"}, "here")


def test_another_head_changes_the_labels_and_nothing_else():
    config = BertConfig(hidden_size=24, num_attention_heads=2)
    changed = with_head(config, ("a", "b", "c"), regression=False)
    assert changed.num_labels == 3
    assert with_head(changed, config.labels, config.regression) == config


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta'"),
        ({"model_type": None}, "model_type is None"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"is_decoder": True}, "decoder"),
        ({"add_cross_attention": True}, "decoder"),
        ({"hidden_act": "silu"}, "hidden_act 'silu'"),
        ({"hidden_size": 13}, "hidden_size 13 is not a multiple of num_attention_heads 3"),
        ({"vocab_size": "11"}, "'vocab_size' must be a positive integer, found '11'"),
        ({"num_hidden_layers": 0}, "'num_hidden_layers' must be a positive integer, found 0"),
        ({"intermediate_size": True}, "'intermediate_size' must be a positive integer, found True"),
        ({"max_position_embeddings": 0}, "max_position_embeddings"),
        ({"type_vocab_size": "2"}, "type_vocab_size"),
        ({"num_labels": 0}, "num_labels"),
        ({"num_labels": "3"}, "num_labels"),
        ({"id2label": ["bad", "good"]}, "id2label"),
        ({"id2label": {"zero": "bad", "one": "good"}}, "id2label"),
    ],
)
def test_a_config_that_cannot_be_run_is_refused_by_file_and_key(keys, complaint):
    with pytest.raises(UserError) as refused:
        config_from_dict({**SMALLEST, **keys}, "dir/config.json")
    assert str(refused.value).startswith("dir/config.json: ")
    assert complaint in str(refused.value)


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"])
def test_a_missing_required_key_is_named(key):
    with pytest.raises(UserError, match=f"'{key}' must be a positive integer, found None"):
        config_from_dict({name: value for name, value in SMALLEST.items() if name != key}, "config.json")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"{", "not a JSON file"), (b"\xff\xfe{}", "not a JSON file"), (b"[1, 2]", "not a model configuration")],
)
def test_a_file_that_is_no_config_is_refused(tmp_path, content, complaint):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=complaint) as refused:
        read_config(tmp_path / "config.json")
    assert str(tmp_path / "config.json") in str(refused.value)


def test_a_config_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="no such file") as refused:
        read_config(tmp_path / "config.json")
    assert str(tmp_path / "config.json") in str(refused.value)
