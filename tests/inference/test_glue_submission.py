"""The GLUE site's files: names, header, index and answers, and what is refused before anything is written."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import toy

from xtc_jax.bert import with_head
from xtc_jax.compress import pack
from xtc_jax.data import GLUE
from xtc_jax.errors import UserError
from xtc_jax.formats import PackedModel, save_packed
from xtc_jax.inference.glue_submission import FILES, predictions, write_submission
from xtc_jax.inference.predictor import Predictor, load_predictor, predict
from xtc_jax.quantize import named_rules


def a_predictor(root: Path, name: str) -> Predictor:
    """An untrained packed model of a GLUE task, read back from its directory."""
    task, rules = GLUE[name], named_rules("deepspeed", 1, None)
    config = with_head(toy.shape(), task.labels, task.regression)
    toy.tokenizer().save(str(root / "tokenizer.json"))
    save_packed(root / f"{name}_model", PackedModel(config, pack(toy.params(config, seed=4), rules), task, 16), root)
    return load_predictor(root / f"{name}_model")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return toy.write_inference(tmp_path_factory.mktemp("submission"))


@pytest.fixture(scope="module")
def mnli(root):
    return a_predictor(root, "mnli")


@pytest.fixture(scope="module")
def stsb(root):
    return a_predictor(root, "stsb")


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("mnli", ["contradiction", "entailment", "neutral"]),
        ("qnli", ["not_entailment", "entailment"]),
        ("rte", ["not_entailment", "entailment"]),
        ("wnli", ["1", "0"]),
        ("cola", ["1", "0"]),
        ("sst2", ["1", "0"]),
        ("mrpc", ["1", "0"]),
        ("qqp", ["1", "0"]),
    ],
)
def test_inference_is_answered_by_names_but_for_wnli_and_the_rest_by_class_ids(name, answers):
    classes = len(answers)
    logits = np.eye(classes, dtype=np.float32)[[classes - 1, *range(classes - 1)]]
    assert predictions(GLUE[name], logits) == answers


def test_similarity_is_answered_in_three_decimals_between_0_and_5():
    logits = np.array([[-0.2], [0.12345], [4.9996], [7.0]], np.float32)
    assert predictions(GLUE["stsb"], logits) == ["0.000", "0.123", "5.000", "5.000"]


def test_every_task_of_glue_has_a_file_for_each_of_its_test_splits():
    assert {name: len(task.test) for name, task in GLUE.items()} == {name: len(files) for name, files in FILES.items()}
    assert sorted(file for files in FILES.values() for file in files) == [
        *("CoLA.tsv", "MNLI-m.tsv", "MNLI-mm.tsv", "MRPC.tsv", "QNLI.tsv"),
        *("QQP.tsv", "RTE.tsv", "SST-2.tsv", "STS-B.tsv", "WNLI.tsv"),
    ]


def test_mnli_has_two_files_of_which_every_line_is_an_index_and_the_models_answer(mnli, root, tmp_path):
    out = tmp_path / "new" / "out"
    assert write_submission(mnli, str(root), out) == [(out / "MNLI-m.tsv", 5), (out / "MNLI-mm.tsv", 4)]
    # The matched split has no column idx: its rows are counted. The mismatched one starts at 100.
    for file, split, count, first in (("MNLI-m.tsv", "test_matched", 5, 0), ("MNLI-mm.tsv", "test_mismatched", 4, 100)):
        texts = [(premise, hypothesis) for premise, hypothesis, _ in toy.inferences(count, len(split))]
        answers = [answer.label for answer in predict(mnli, texts)]
        lines = [f"{first + row}\t{answer}" for row, answer in enumerate(answers)]
        assert (out / file).read_bytes().decode() == "\n".join(["index\tprediction", *lines]) + "\n"


def test_the_diagnostic_set_is_answered_by_the_mnli_model_where_it_lies_beside(mnli, root, tmp_path):
    data = Path(shutil.copytree(root, tmp_path / "data"))
    (data / "ax").mkdir()
    shutil.copyfile(root / "mnli" / "test_mismatched.parquet", data / "ax" / "test.parquet")
    written = write_submission(mnli, str(data), tmp_path / "out")
    assert [(file.name, count) for file, count in written] == [("MNLI-m.tsv", 5), ("MNLI-mm.tsv", 4), ("AX.tsv", 4)]
    assert (tmp_path / "out" / "AX.tsv").read_text() == (tmp_path / "out" / "MNLI-mm.tsv").read_text()


def test_one_split_may_be_named(mnli, root, tmp_path):
    assert write_submission(mnli, str(root), tmp_path, "test_mismatched") == [(tmp_path / "MNLI-mm.tsv", 4)]
    assert [path.name for path in tmp_path.iterdir()] == ["MNLI-mm.tsv"]


def test_a_file_of_data_is_the_first_test_split_unless_another_is_named(mnli, root, tmp_path):
    file = str(root / "mnli" / "test_mismatched.parquet")
    assert write_submission(mnli, file, tmp_path / "a") == [(tmp_path / "a" / "MNLI-m.tsv", 4)]
    assert write_submission(mnli, file, tmp_path / "b", "test_mismatched") == [(tmp_path / "b" / "MNLI-mm.tsv", 4)]


def test_a_regression_is_written_as_numbers(stsb, tmp_path):
    toy.write_table(tmp_path / "test.csv", {"sentence1": ["the lamp was dull"] * 2, "sentence2": ["a lamp", "the garden"]})
    write_submission(stsb, str(tmp_path), tmp_path / "out")
    header, *lines = (tmp_path / "out" / "STS-B.tsv").read_text().splitlines()
    assert header == "index\tprediction"
    values = [answer.value for answer in predict(stsb, [("the lamp was dull", "a lamp"), ("the lamp was dull", "the garden")])]
    assert lines == [f"{row}\t{min(max(value, 0), 5):.3f}" for row, value in enumerate(values)]


def refusal(predictor, data, directory, split=""):
    with pytest.raises(UserError) as refused:
        write_submission(predictor, str(data), directory, split)
    return str(refused.value)


def test_an_existing_file_is_never_written_over_nor_another_beside_it(mnli, root, tmp_path):
    (tmp_path / "MNLI-mm.tsv").write_text("mine")
    message = f"{tmp_path / 'MNLI-mm.tsv'}: exists already; choose another directory for --submission"
    assert refusal(mnli, root, tmp_path) == message
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"MNLI-mm.tsv": "mine"}


def test_a_missing_split_is_refused_and_the_other_is_not_written(mnli, root, tmp_path):
    (tmp_path / "mnli").mkdir()
    (tmp_path / "mnli" / "test_matched.parquet").write_bytes((root / "mnli" / "test_matched.parquet").read_bytes())
    assert f"{tmp_path}: no test_mismatched data; expected mnli/test_mismatched" in refusal(mnli, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("split", ["validation_matched", "test"])
def test_a_split_that_is_no_test_split_is_refused(mnli, root, tmp_path, split):
    expected = f"--submission: {split!r} is no test split of mnli; use test_matched or test_mismatched, or leave --split out"
    assert refusal(mnli, root, tmp_path / "out", split) == expected
    assert not (tmp_path / "out").exists()


def test_a_file_is_no_directory_for_submissions(mnli, root, tmp_path):
    (tmp_path / "out").write_text("mine")
    assert refusal(mnli, root, tmp_path / "out") == f"{tmp_path / 'out'}: is a file; --submission takes a directory"


def test_a_task_of_ones_own_has_no_submission(mnli, root, tmp_path):
    own = dataclasses.replace(mnli, model=dataclasses.replace(mnli.model, task=toy.SENTIMENT))
    assert refusal(own, root, tmp_path / "out").startswith(
        "--submission: the model's task 'custom' is not of GLUE; its tasks are"
    )
