"""Models and data of a recipe: what is found is logged, what cannot be right is refused before anything is trained."""

import json
import shutil

import pytest
import toy

from xtc_jax.errors import UserError
from xtc_jax.pipeline.inputs import load_inputs, serves_both
from xtc_jax.recipe.recipe import make_recipe


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return toy.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def config(model, tmp_path):
    return toy.recipe_config(model, toy.write_sentiment(tmp_path / "data", "csv"))


def load(config):
    """The setup, and the lines it logged."""
    lines = []
    return load_inputs(make_recipe(config), lines.append), lines


def many(path):
    """300 sentences of either class, no two alike."""
    texts = [f"the lamp was {word} and {i} ." for i in range(150) for word in ("bright", "dull")]
    return toy.write_table(path, {"sentence": texts, "label": [i % 2 for i in range(300)]})


def test_one_file_is_split_by_a_rule_that_the_log_names(config, tmp_path):
    config.data.path = str(many(tmp_path / "mine.csv"))
    setup, lines = load(config)
    train, validation = setup.train, setup.validation["validation"]
    assert f"{config.data.path} is one file: examples whose MD5 is a multiple of 10 validate, the others train" in lines
    assert len(train) + len(validation) == 300
    assert 15 <= len(validation) <= 50
    assert f"validation: {len(validation)} examples from {config.data.path}" in lines


@pytest.mark.parametrize("key", ["train", "validation"])
def test_a_file_beside_one_that_is_named_for_the_other_split_is_taken_whole(config, tmp_path, key):
    config.data.path, config.data[key] = str(many(tmp_path / "mine.csv")), str(many(tmp_path / "other.csv"))
    setup, lines = load(config)
    assert (len(setup.train), len(setup.validation["validation"])) == (300, 300)
    assert not any("is one file" in line for line in lines)


@pytest.mark.parametrize("keys", [("train", "validation"), ("train",), ("validation",)], ids=str)
def test_a_file_that_is_named_for_both_splits_is_refused(config, tmp_path, keys):
    config.data.path = str(many(tmp_path / "mine.csv"))
    config.data.update(dict.fromkeys(keys, str(tmp_path / "." / "mine.csv")))
    with pytest.raises(
        UserError, match=r"^config\.data: .*mine\.csv is the training data and the validation data; name another"
    ):
        load(config)


def test_a_directory_a_hub_and_two_files_serve_one_split_each(tmp_path):
    many(tmp_path / "a.csv")
    many(tmp_path / "b.csv")
    none = {"train": "", "validation": ""}
    assert not serves_both({"path": str(tmp_path), **none})
    assert not serves_both({"path": "", **none})
    assert not serves_both({"path": "", "train": str(tmp_path / "a.csv"), "validation": str(tmp_path / "b.csv")})
    assert serves_both({"path": str(tmp_path / "a.csv"), **none})


def test_rows_with_missing_values_are_refused_or_where_a_key_says_so_dropped_and_counted(config, tmp_path):
    with open(tmp_path / "data" / "train.csv", "a") as file:
        file.write('"",1\n"a lamp",\n')
    with pytest.raises(UserError, match=r"train\.csv: row 65, column 'sentence' is empty \(''\)"):
        load(config)
    config.data.missing = "drop"
    setup, lines = load(config)
    assert len(setup.train) == 64
    file = tmp_path / "data" / "train.csv"
    assert f"train: 64 examples from {file}; 2 rows dropped, a text or the label is missing" in lines


def test_a_model_whose_tokenizer_is_larger_than_its_table_is_refused(config, model, tmp_path):
    other = shutil.copytree(model, tmp_path / "other")
    tokenizer = toy.tokenizer()
    tokenizer.add_tokens(["brandnew"])
    tokenizer.save(str(other / "tokenizer.json"))
    config.model = str(other)
    with pytest.raises(UserError) as refused:
        load(config)
    assert str(refused.value).startswith(f"model {other}: its tokenizer has 1 word pieces beyond the vocab_size of ")
    assert "'brandnew'" in str(refused.value)


def test_a_multi_label_head_is_refused_where_it_would_be_used(config, model, tmp_path):
    other = shutil.copytree(model, tmp_path / "other")
    from xtc_jax.bert import with_head
    from xtc_jax.formats.huggingface import save_huggingface

    shape = with_head(toy.FULL_SIZE, ("negative", "positive"), regression=False)
    save_huggingface(other, shape, toy.params(shape))
    raw = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(raw | {"problem_type": "multi_label_classification"}))
    config.model, config.teacher.steps, config.teacher.epochs = str(other), 0, 0.0
    with pytest.raises(UserError, match="its head is a multi-label classification, the task's is not"):
        load(config)


@pytest.mark.parametrize("values", [{"labels": ("bad", "good")}, {"regression": True}], ids=str)
def test_labels_of_ones_own_for_a_task_of_glue_are_refused(config, values):
    config.task = "sst2"
    config.data.update({"labels": (), **values})
    with pytest.raises(UserError, match="task 'sst2' is GLUE's"):
        load(config)


def test_the_length_and_the_padded_lengths_come_from_the_data_where_the_config_leaves_them_to_it(config, tmp_path):
    rows = [("the lamp was bright .", 1), ("the lamp was dull and cold and dreary and timid , the violin was silly !", 0)]
    texts, labels = (list(each) * 100 for each in zip(*rows, strict=True))
    config.data.train = str(toy.write_table(tmp_path / "mine.csv", {"sentence": texts, "label": labels}))
    config.data.validation = str(toy.write_table(tmp_path / "other.csv", {"sentence": texts, "label": labels}))
    config.data.max_length, config.data.buckets = 0, ()
    found, lines = load(config)
    assert found.max_length == 24
    assert found.train.buckets == (8, 24)  # 7 and 18 tokens
    assert "lengths: 12 tokens in the median, cut to 24, padded to 8, 24" in lines
    config.data.buckets = (16, 32)
    assert load(config)[0].train.buckets == (16, 32)


@pytest.fixture
def pairs(model, tmp_path):
    """A recipe on 60 pairs of sentences."""
    config = toy.recipe_config(model, toy.write_inference(tmp_path / "pairs"))
    config.task, config.data.text, config.data.labels, config.data.max_length = "mnli", (), (), 32
    config.data.buckets = (32,)
    return config


def test_new_pairs_of_the_texts_stand_behind_the_training_data_as_often_as_asked(pairs):
    setup, lines = load(pairs)
    sets = setup.sets(None)
    assert sets.train_with_pairs(0) is sets.train_with_pairs(60) is sets.train
    more = sets.train_with_pairs(75)
    assert len(more) == 75
    assert lines[-1] == "train: 15 new pairs of its texts, 75 in all"
    assert sets.train_with_pairs(75) is more
    assert [list(ids) for ids in more.tokens.input_ids][:60] == [list(ids) for ids in sets.train.tokens.input_ids]


def test_single_texts_make_no_pairs(config):
    sets = load(config)[0].sets(None)
    assert sets.train_with_pairs(10**6) is sets.train
