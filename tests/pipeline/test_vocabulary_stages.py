"""Stages whose vocabulary is reduced: what they train on, what they leave behind, and what goes on from it."""

import itertools
import json
import shutil
import string
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pyarrow.parquet as parquet
import pytest
import toy
from ml_collections import ConfigDict
from tokenizers import Tokenizer, models

from xtc_jax import pipeline
from xtc_jax.cli.main import main
from xtc_jax.errors import Preempted, UserError
from xtc_jax.formats import convert, load_flax, load_huggingface, load_packed, save_huggingface, tokenizer_bytes
from xtc_jax.inference.predictor import load_predictor, text_logits
from xtc_jax.parallel import make_mesh, put_sharded
from xtc_jax.pipeline.inputs import load_inputs
from xtc_jax.pipeline.plan import make_plans
from xtc_jax.pipeline.records import refuse_other_work
from xtc_jax.pipeline.stage import _teacher
from xtc_jax.recipe.recipe import make_recipe
from xtc_jax.report import write_report
from xtc_jax.train import make_eval_step, predict_logits

LETTERS = [*string.ascii_lowercase, *("##" + letter for letter in string.ascii_lowercase)]
ABSENT = ["zebra", "##zebra", "quartz", "##ing", "lamps"]
"""Pieces that no sentence has."""
PIECES = list(dict.fromkeys([*toy.VOCABULARY[:5], *LETTERS, *ABSENT, *toy.VOCABULARY[5:]]))
PUNCTUATION = 4  # of one character, so they stay
REQUIRED = 5 + len(LETTERS) + PUNCTUATION


def write_model(directory):
    """The toy model with letters in its vocabulary."""
    config = replace(toy.FULL_SIZE, vocab_size=len(PIECES))
    headless = toy.params(config, seed=7)
    del headless["classifier"]
    save_huggingface(directory, config, headless)
    made = toy.tokenizer()
    made.model = models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]")
    made.save(str(directory / "tokenizer.json"))
    (directory / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES))
    added = {str(i): {"content": piece, "special": True} for i, piece in enumerate(PIECES[:5])}
    (directory / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    return directory


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("vocabulary")
    write_model(root / "model")
    toy.write_sentiment(root / "data")
    return root


def make_config(root, **values) -> ConfigDict:
    """The toy recipe, its reduction with a reduced vocabulary, in few steps."""
    config = toy.recipe_config(root / "model", root / "data")
    for name in config.stages:
        config[name].steps = 4
    config.reduce.update(values or {"vocabulary_min_count": 1})
    return config


def plans_of(config, workdir):
    recipe = make_recipe(config)
    inputs = load_inputs(recipe, lambda line: None)
    return make_plans(recipe, inputs, workdir), inputs


@pytest.fixture(scope="module")
def finished(root):
    """The finished run, its results and the lines that it logged."""
    lines: list[str] = []
    recipe = make_recipe(make_config(root))
    results = pipeline.run(recipe, root / "work", lines.append)
    write_report(results, recipe, root / "work")
    return root / "work", results, lines


def words_of(directory) -> dict[str, int]:
    return Tokenizer.from_file(str(directory / "tokenizer.json")).get_vocab()


@pytest.mark.slow
def test_the_stage_and_those_that_go_on_from_it_have_the_pieces_of_the_training_data_and_the_required_ones(finished):
    work, results, lines = finished
    expected = len(PIECES) - len(ABSENT) - len(unused(work.parent))
    sizes = {name: load_flax(work / name / "model")[0].vocab_size for name in ("teacher", "reduce", "quantize")}
    assert sizes == {"teacher": len(PIECES), "reduce": expected, "quantize": expected}
    assert [results[name]["word_pieces"] for name in ("reduced", "quantized", "packed")] == [expected] * 3
    assert any(f"{expected} word pieces" in line for line in lines if line.startswith("reduce:"))


def unused(root) -> set[str]:
    """Words of the toy that its training sentences lack."""
    text = " ".join(parquet.read_table(root / "data" / "train.parquet")["sentence"].to_pylist())
    return {word for word in toy.VOCABULARY[5:] if len(word) > 1 and word not in text.split()}


@pytest.mark.slow
def test_the_model_has_the_rows_of_its_pieces(finished, root):
    work, *_ = finished
    params, reduced = load_flax(work / "teacher" / "model")[1], words_of(work / "reduce" / "model")
    plans, _ = plans_of(make_config(root), work)
    teacher = _teacher(plans[1], plans[0])["embeddings"]["word_embeddings"]["weight"]
    full = params["embeddings"]["word_embeddings"]["weight"]
    assert len(reduced) == len(teacher)
    for piece, new in reduced.items():
        assert teacher[new].tobytes() == full[PIECES.index(piece)].tobytes(), piece
    assert plans[1].objective.teacher.vocab_size == len(reduced)


@pytest.mark.slow
def test_the_packed_directory_has_the_reduced_tokenizer_and_no_second_copy_of_it(finished):
    work, results, _ = finished
    packed, config = work / "packed", json.loads((work / "packed" / "config.json").read_text())
    assert not (packed / "vocab.txt").exists()
    assert set(words_of(packed).values()) == set(range(config["vocab_size"]))
    assert not set(ABSENT) & words_of(packed).keys()
    assert results["packed"]["tokenizer_bytes"] == tokenizer_bytes(packed)
    assert tokenizer_bytes(packed) < tokenizer_bytes(work / "teacher" / "model")
    assert load_packed(packed).params["embeddings"]["word_embeddings"]["weight"].shape[0] == config["vocab_size"]


@pytest.mark.slow
def test_the_packed_model_answers_as_the_trained_one_and_splits_words_that_left(finished):
    work, results, _ = finished
    assert results["packed"]["max_logit_difference"] == 0.0
    predictor = load_predictor(work / "packed")
    assert predictor.tokenizer.encode("zebra").tokens == ["[CLS]", "z", "##e", "##b", "##r", "##a", "[SEP]"]
    logits = text_logits(predictor, [("the zebra was bright",), ("lamps and quartz",)])
    assert np.isfinite(logits).all()


@pytest.mark.slow
def test_a_stage_that_only_reduces_has_the_logits_of_its_teacher_to_the_bit(root, finished, tmp_path):
    corpus = tmp_path / "validation.txt"
    corpus.write_text("\n".join(parquet.read_table(root / "data" / "validation.parquet")["sentence"].to_pylist()))
    config = make_config(root, vocabulary_min_count=1, vocabulary_corpus=str(corpus), layers="", steps=0, epochs=0.0)
    config.stages = ("teacher", "reduce")
    work = tmp_path / "work"
    shutil.copytree(finished[0] / "teacher", work / "teacher")
    results = pipeline.run(make_recipe(config), work, lambda line: None)
    assert results["teacher"]["metrics"] == results["reduced"]["metrics"]
    plans, inputs = plans_of(config, work)
    assert plans[1].config.vocab_size < plans[0].config.vocab_size
    teacher, reduced = (logits_of(plan, inputs) for plan in plans)
    assert teacher.tobytes() == reduced.tobytes()


def logits_of(plan, inputs) -> np.ndarray:
    mesh = make_mesh((-1, 1, 1))
    params = put_sharded(load_flax(plan.directory / "model")[1], mesh)
    validation = inputs.sets(plan.vocabulary).validation["validation"]
    return predict_logits(make_eval_step(plan.config, None, mesh), params, validation, mesh)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_bytes(root, finished, tmp_path):
    work, *_ = finished
    shutil.copytree(work, tmp_path / "work")
    for name in ("quantize", "packed"):
        shutil.rmtree(tmp_path / "work" / name)
    pipeline.run(make_recipe(make_config(root)), tmp_path / "work", lambda line: None)
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "work" / "packed" / name).read_bytes() == (work / "packed" / name).read_bytes()


@pytest.mark.slow
def test_a_stage_that_is_interrupted_goes_on_from_its_checkpoint_to_the_same_bytes(root, finished, tmp_path, monkeypatch):
    work = tmp_path / "work"
    shutil.copytree(finished[0], work)
    for name in ("reduce", "quantize", "packed"):
        shutil.rmtree(work / name)
    asked = itertools.count(1)
    with monkeypatch.context() as patched:
        patched.setattr("xtc_jax.train.loop.preemption_notice", lambda: nullcontext(lambda: next(asked) == 2))
        with pytest.raises(Preempted, match="reduce: stopped by SIGTERM at step 2; checkpoint saved"):
            pipeline.run(make_recipe(make_config(root)), work, lambda line: None)
    pipeline.run(make_recipe(make_config(root)), work, lambda line: None)
    for name in ("model.safetensors", "tokenizer.json"):
        assert (work / "packed" / name).read_bytes() == (finished[0] / "packed" / name).read_bytes()


def compared(config, work):
    plans, inputs = plans_of(config, work)
    refuse_other_work(make_recipe(config), inputs, plans)


@pytest.mark.slow
def test_another_vocabulary_in_the_same_work_directory_is_refused(root, finished):
    work, *_ = finished
    with pytest.raises(UserError, match=r"stage 'reduce' was made with another config \(reduce\.vocabulary"):
        compared(make_config(root, vocabulary=REQUIRED + 10), work)


@pytest.mark.slow
def test_a_corpus_that_gives_other_pieces_in_the_same_work_directory_is_refused(root, tmp_path):
    corpus = tmp_path / "mine.txt"
    corpus.write_text("lamps and quartz\n")
    config = make_config(root, vocabulary_min_count=1, vocabulary_corpus=str(corpus))
    config.stages = ("teacher", "reduce")
    pipeline.run(make_recipe(config), tmp_path / "work", lambda line: None)
    assert {"lamps", "quartz"} <= words_of(tmp_path / "work" / "reduce" / "model").keys()
    corpus.write_text("lamps\n")
    with pytest.raises(UserError, match=r"made with another config \(vocabulary_digest"):
        compared(config, tmp_path / "work")


@pytest.mark.slow
def test_the_reduced_model_is_converted_to_hugging_face_with_its_tokenizer(finished, tmp_path):
    work, *_ = finished
    convert(str(work / "reduce" / "model"), tmp_path / "hf", "huggingface")
    config, params = load_huggingface(tmp_path / "hf")
    assert params["embeddings"]["word_embeddings"]["weight"].shape[0] == config.vocab_size == len(words_of(tmp_path / "hf"))
    added = json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert {token["content"]: int(i) for i, token in added.items()} == {
        piece: words_of(tmp_path / "hf")[piece] for piece in PIECES[:5]
    }


def test_a_size_is_kept_to_the_piece_and_a_later_stage_may_reduce_further(root, tmp_path):
    config = make_config(root, vocabulary=REQUIRED + 20)
    config.quantize.vocabulary = REQUIRED + 10
    plans, inputs = plans_of(config, tmp_path)
    teacher, reduce, quantize = plans
    assert [plan.config.vocab_size for plan in plans] == [len(PIECES), REQUIRED + 20, REQUIRED + 10]
    assert set(quantize.vocabulary.keep) < set(reduce.vocabulary.keep)
    ids = inputs.sets(quantize.vocabulary).train.tokens.input_ids
    assert max(map(max, ids)) < REQUIRED + 10
    assert teacher.vocabulary is None


def test_a_teacher_that_lacks_the_student_s_pieces_is_refused(root, tmp_path):
    config = make_config(root)
    config.teacher.vocabulary = REQUIRED
    config.reduce.update({"init": "", "vocabulary_min_count": 1})
    with pytest.raises(UserError, match=r"config\.reduce\.teacher='teacher': the teacher's vocabulary lacks word pieces"):
        plans_of(config, tmp_path)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"vocabulary": 4}, rf"config\.reduce\.vocabulary=4: {REQUIRED} word pieces must stay, 5 special tokens"),
        ({"vocabulary": 9999}, rf"config\.reduce\.vocabulary=9999: the tokenizer has {len(PIECES)} word pieces"),
        ({"vocabulary": -1}, r"config\.reduce\.vocabulary=-1 must be at least 0"),
        ({"vocabulary_min_count": -1}, r"config\.reduce\.vocabulary_min_count=-1 must be at least 0"),
        ({"vocabulary_corpus": "mine.txt"}, r"config\.reduce\.vocabulary_corpus is set, but neither"),
        ({"vocabulary": 90, "vocabulary_corpus": "no.txt"}, r"config\.reduce\.vocabulary_corpus='no\.txt' cannot be read"),
    ],
)
def test_a_vocabulary_that_cannot_be_is_refused_in_a_line_that_names_the_key(root, tmp_path, values, problem):
    with pytest.raises(UserError, match=problem) as refused:
        plans_of(make_config(root, **values), tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("content", "problem"), [(b"\n  \n", "has no text in it"), (b"\xff\xfe", "is not UTF-8")])
def test_a_corpus_without_text_is_refused(root, tmp_path, content, problem):
    (tmp_path / "mine.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"config\.reduce\.vocabulary_corpus=.*mine\.txt' {problem}"):
        plans_of(make_config(root, vocabulary=REQUIRED, vocabulary_corpus=str(tmp_path / "mine.txt")), tmp_path)


def test_a_stage_without_these_keys_has_the_fingerprint_of_before_they_existed(root):
    recipe = make_recipe(make_config(root))
    assert not any(key.startswith("vocabulary") for key in recipe.stages[0].raw)
    assert recipe.stages[1].raw["vocabulary_min_count"] == 1


@pytest.mark.slow
def test_inspect_and_report_count_the_pieces_and_the_bytes_of_the_tokenizer(finished, capsys):
    work, results, _ = finished
    size = tokenizer_bytes(work / "packed")
    pieces = results["packed"]["word_pieces"]
    assert main(["inspect", str(work / "packed")]) == 0
    assert f"beside it: a tokenizer of {pieces} word pieces, {size:,} bytes" in capsys.readouterr().out
    assert main(["inspect", "--json", str(work / "packed")]) == 0
    assert json.loads(capsys.readouterr().out)["tokenizer_bytes"] == size
    assert f"Its tokenizer of {pieces} word pieces takes {size:,} bytes more." in (work / "report.md").read_text()
