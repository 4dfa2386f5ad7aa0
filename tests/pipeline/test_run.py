import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from xtc_jax import pipeline
from xtc_jax.bert import apply, permute_head
from xtc_jax.compress import float32_bytes
from xtc_jax.data import GLUE
from xtc_jax.errors import UserError
from xtc_jax.formats import copy_tokenizer, load_flax, load_packed, save_huggingface
from xtc_jax.inference.predictor import evaluate_packed, load_predictor
from xtc_jax.pipeline import stage as stage_module
from xtc_jax.pipeline.inputs import load_inputs
from xtc_jax.recipe.recipe import make_recipe
from xtc_jax.recipe.schema import base_config, stage_config


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    return toy.finished_run(tmp_path_factory.mktemp)


@pytest.fixture
def copied(done, tmp_path) -> Path:
    """A work directory of the same run, to do harm to."""
    return Path(shutil.copytree(done / "work", tmp_path / "work"))


@pytest.fixture
def config(done):
    return toy.recipe_config(done / "model", done / "data")


def run(config, workdir):
    return pipeline.run(make_recipe(config), workdir, lambda line: None)


def results_of(workdir):
    return json.loads((workdir / "results.json").read_text())


def trained_stages(monkeypatch, real=True):
    """The labels of the runs that ``train`` is called for from now on."""
    labels, train = [], stage_module.train

    def spy(work, *arguments):
        labels.append(work.label)
        assert real, f"{work.label} was trained"
        return train(work, *arguments)

    monkeypatch.setattr("xtc_jax.pipeline.stage.train", spy)
    return labels


def test_results_name_every_stage_and_the_packed_model_with_all_their_numbers(done):
    results = results_of(done / "work")
    common = {"metrics", "layers", "weight_bits", "steps", "seconds", "examples_per_second", "bytes", "word_pieces"}
    packed = common | {"path", "fp32_bytes", "ratio", "tokenizer_bytes", "max_logit_difference", "prediction_agreement"}
    assert {name: set(result) for name, result in results.items()} == {
        "teacher": common | {"learning_rate"},
        "reduced": common | {"learning_rate"},
        "quantized": common | {"learning_rate"},
        "packed": packed,
    }
    shapes = {name: (r["layers"], r["weight_bits"], r["steps"], list(r["metrics"])) for name, r in results.items()}
    assert shapes == {
        "teacher": (4, 32, 30, ["accuracy"]),
        "reduced": (2, 32, 20, ["accuracy"]),
        "quantized": (2, 1, 20, ["accuracy"]),
        "packed": (2, 1, 0, ["accuracy"]),
    }
    assert all(result["seconds"] > 0 and result["examples_per_second"] > 0 for result in results.values())


def test_the_packed_model_answers_as_the_fake_quantized_student_does(done):
    packed = results_of(done / "work")["packed"]
    assert packed["prediction_agreement"] == 1.0
    assert packed["max_logit_difference"] == 0.0  # four devices along data, each with whole weights
    assert packed["metrics"] == results_of(done / "work")["quantized"]["metrics"]


def test_what_a_stage_answered_in_training_is_what_its_stored_model_answers(config, copied, monkeypatch):
    """Written from the last evaluation, or computed again where that is gone: the same file and the same record."""
    trained_stages(monkeypatch, real=False)
    expected, measured = (copied / "predictions.json").read_bytes(), results_of(copied)["packed"]
    (copied / "predictions.json").unlink()
    shutil.rmtree(copied / "packed")
    run(config, copied)
    assert (copied / "predictions.json").read_bytes() == expected
    again = results_of(copied)["packed"]
    for key in ("metrics", "max_logit_difference", "prediction_agreement", "bytes"):
        assert again[key] == measured[key], key


def test_the_ratio_is_the_teachers_float32_bytes_over_the_bytes_of_the_file(done):
    packed = results_of(done / "work")["packed"]
    assert packed["bytes"] == (Path(packed["path"]) / "model.safetensors").stat().st_size
    assert packed["fp32_bytes"] == float32_bytes(load_flax(done / "work" / "teacher" / "model")[1])
    assert packed["ratio"] == packed["fp32_bytes"] / packed["bytes"]


def test_every_stage_leaves_its_model_its_metrics_and_no_checkpoints(done):
    names = {"DONE", "config.json", "metrics.jsonl", "model", "tensorboard"}
    for stage in ("teacher", "reduce", "quantize"):
        assert {path.name for path in (done / "work" / stage).iterdir()} == names


def test_the_report_shows_table_picture_and_config(done):
    text = (done / "work" / "report.md").read_text()
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")] == [
        *("stage", "---", "teacher", "reduced", "quantized", "packed"),
        *("baseline", "---", "the majority class", "TF-IDF with logistic regression"),
    ]
    assert (done / "work" / "report.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads(text.split("```json\n")[1].split("```")[0])["quantize"]["rules"] == "paper-50x"


def test_a_second_run_trains_nothing_and_writes_the_same_results(config, copied, monkeypatch):
    trained_stages(monkeypatch, real=False)
    before = results_of(copied)
    assert run(config, copied) == before
    assert results_of(copied) == before


def test_another_mesh_and_accumulation_are_no_other_config(config, copied, monkeypatch):
    trained_stages(monkeypatch, real=False)
    before = results_of(copied)
    config.mesh, config.reduce.accumulate = (1, 2, 2), 2
    assert run(config, copied) == before


def test_only_a_stage_that_is_not_done_is_run_again_and_to_the_same_end(config, copied, monkeypatch):
    before, model = results_of(copied), load_flax(copied / "reduce" / "model")[1]
    (copied / "reduce" / "DONE").unlink()
    labels = trained_stages(monkeypatch)
    after = run(config, copied)
    assert labels == ["reduce"]
    assert after["reduced"]["metrics"] == before["reduced"]["metrics"]
    jax.tree.map(np.testing.assert_array_equal, load_flax(copied / "reduce" / "model")[1], model)


def test_a_packed_model_that_is_not_done_is_packed_again(config, copied, monkeypatch):
    trained_stages(monkeypatch, real=False)
    weights = (copied / "packed" / "model.safetensors").read_bytes()
    (copied / "packed" / "DONE").unlink()
    run(config, copied)
    assert (copied / "packed" / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c.quantize.update(weight_bits=2), "stage 'quantize' was made with another config (quantize.weight_bits: 1"),
        (lambda c: c.reduce.update(learning_rate=1.0), "stage 'reduce' was made with another config (reduce.learning_rate"),
        (lambda c: c.update(seed=1), "stage 'teacher' was made with another config (seed: 42 then, 1 now)"),
    ],
    ids=["bits", "rate", "seed"],
)
def test_a_workdir_of_another_config_is_refused_and_left_as_it_is(config, copied, monkeypatch, change, named):
    trained_stages(monkeypatch, real=False)
    change(config)
    before = toy.contents(copied)
    with pytest.raises(UserError) as error:
        run(config, copied)
    assert named in str(error.value)
    assert toy.contents(copied) == before


def test_a_packed_model_of_another_last_stage_is_refused(config, copied, monkeypatch):
    trained_stages(monkeypatch, real=False)
    config.stages = (*config.stages, "more")
    config.more = stage_config(**{**config.quantize.to_dict(), "init": "quantize", "result": "more", "steps": 1})
    before = toy.contents(copied)
    with pytest.raises(UserError, match="packed"):
        run(config, copied)
    assert toy.contents(copied) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.reduce.update(layers="1,4"), "config.reduce.layers=(1, 4): the teacher has layers 0 to 3, not 4"),
        (lambda c: c.reduce.update(layers="3,1"), "config.reduce.layers=(3, 1): the indices must increase"),
        (lambda c: c.quantize.update(layers="0,3"), "config.quantize.layers=(0, 3): the teacher has layers 0 to 1, not 3"),
        (lambda c: c.quantize.update(extra_rules=("no_such=1",)), "config.quantize: quantization rule 'no_such' matches no"),
        (lambda c: c.data.update(max_length=64, buckets=()), "config.data.max_length=64 is more than the 32 of model"),
        (lambda c: c.data.update(buckets=(8,)), "config.data.buckets="),
        (lambda c: c.teacher.update(batch_size=6), "config.teacher.batch_size=6 is not a multiple of the 4 devices"),
        (lambda c: c.quantize.update(batch_size=6), "config.quantize.batch_size=6 is not a multiple of the 4 devices"),
        (lambda c: c.data.update(eval_batch_size=6), "config.data.eval_batch_size=6 is not a multiple of the 4 devices"),
        (lambda c: c.update(mesh=(3, 1, 1)), "config.mesh=(3, 1, 1) does not multiply to the 4 devices there are"),
        (lambda c: c.reduce.update(accumulate=4), "config.reduce.batch_size=8 is not a multiple of the 4 devices times"),
        (lambda c: c.quantize.update(init="teacher", teacher="reduce"), "config.quantize.teacher='reduce': "),
        (lambda c: c.quantize.update(match="1,2,3"), "config.quantize.teacher='teacher': match='1,2,3' has 3 layers"),
        (lambda c: c.quantize.update(match="2,5"), "config.quantize.teacher='teacher': layers=(2, 5): the teacher"),
        (lambda c: c.reduce.update(layers="evenly(9)"), "config.reduce.layers='evenly(9)': that keeps 9 of 4 layers"),
        (lambda c: c.quantize.update(freeze=3), "config.quantize.freeze=3: the model has 2 layers"),
        (lambda c: c.quantize.update(freeze=0, lazy_embeddings=True), "config.quantize.lazy_embeddings: no row trains with fr"),
        (
            lambda c: c.quantize.update(extra_rules=("word_embeddings=1,tensor",), lazy_embeddings=True),
            "config.quantize.lazy_embeddings: embeddings/word_embeddings/weight has scales or means that its rows share",
        ),
        (lambda c: c.quantize.update(granularity="48"), "config.quantize: encoder/layer_0/attention/output/dense"),
        (lambda c: c.quantize.update(bit_schedule="8@0>1@20"), "config.quantize: its schedule changes at step 20"),
    ],
    ids=["layer", "order", "later stage", "rule", "length", "buckets", "batch", "later batch", "evaluation", "mesh", "parts",
         "short teacher", "length of match", "match", "evenly", "freeze", "nothing lazy", "shared scale", "group", "schedule"],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_anything_is_trained_or_written(config, tmp_path, monkeypatch, change, message):
    trained_stages(monkeypatch, real=False)
    change(config)
    with pytest.raises(UserError) as error:
        run(config, tmp_path / "work")
    assert str(error.value).startswith(message)
    assert not (tmp_path / "work").exists()


def one_stage(config, **values):
    """A single quantizing stage from the checkpoint, without a teacher, over in moments."""
    config.stages = ("quantize",)
    config.quantize = stage_config(
        **{"weight_bits": 2, "layers": (0,), "batch_size": 8, "steps": 4, "warmup_steps": 1, "dropout": 0.0, **values}
    )
    return config


def test_a_regression_runs_end_to_end(config, tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "validation"):
        rows = toy.sentences(24, 5)
        scores = [float(label + rng.uniform(-0.3, 0.3)) for _, label in rows]
        toy.write_table(tmp_path / f"{split}.csv", {"sentence": [text for text, _ in rows], "score": scores})
    config.data.update(path=str(tmp_path), label="score", labels=(), regression=True)
    results = run(one_stage(config), tmp_path / "work")
    assert list(results["packed"]["metrics"]) == ["pearson", "spearman"]
    assert results["packed"]["prediction_agreement"] == 1.0
    packed = load_packed(tmp_path / "work" / "packed")
    assert (packed.task.regression, packed.task.label, packed.config.num_labels) == (True, "score", 1)


@pytest.mark.slow
def test_a_task_over_pairs_with_named_classes_runs_end_to_end(config, tmp_path):
    first, second = toy.sentences(24, 6), toy.sentences(24, 7)[::-1]
    columns = {
        "left": [text.split(",")[0] for text, _ in first],
        "right": [text.split(",")[0] for text, _ in second],
        "verdict": ["alike" if a == b else "unlike" for (_, a), (_, b) in zip(first, second[1:] + second[:1], strict=True)],
    }
    columns["verdict"][0] = "unlike"
    for split in ("train", "validation"):
        toy.write_table(tmp_path / f"{split}.jsonl", columns)
    config.data.update(path=str(tmp_path), text=("left", "right"), label="verdict", labels=(), max_length=24, buckets=(24,))
    run(one_stage(config), tmp_path / "work")
    packed = load_packed(tmp_path / "work" / "packed")
    assert (packed.task.text, packed.config.labels, packed.max_length) == (("left", "right"), ("alike", "unlike"), 24)
    ids = jnp.full((1, 4), 5, jnp.int32)
    assert apply(packed.config, packed.params, ids, ids * 0, ids * 0 + 1).logits.shape == (1, 2)


def test_a_limit_takes_examples_evenly_spread_over_the_file(config, tmp_path, monkeypatch):
    taken = []

    def train(work, *_):
        taken.append(len(work.train_set))
        taken.append(work.train_set.labels.tolist())
        raise KeyboardInterrupt

    monkeypatch.setattr("xtc_jax.pipeline.stage.train", train)
    config.data.limit_train = 5
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "work")
    labels = [label for _, label in toy.sentences(64, len("train"))]
    assert taken == [5, [labels[i] for i in (0, 12, 25, 38, 51)]]


# An MNLI-shaped task: three classes, two validation splits, and checkpoints that have the classes in another order.

INFERENCE = GLUE["mnli"].labels
SHIFTED = (2, 0, 1)  # row i of the checkpoint's head answers class SHIFTED[i]


def inference_config(model, data, **teacher):
    """A teacher of one layer and its two-bit student."""
    config = base_config(model=str(model), task="mnli", stages=("teacher", "quantize"))
    config.data.update(path=str(data), max_length=24, buckets=(24,), eval_batch_size=16)
    few = {"batch_size": 8, "warmup_steps": 2, "eval_every": 30, "learning_rate": 5e-3, "dropout": 0.0}
    config.teacher = stage_config(**{**few, "layers": (0,), "steps": 60, **teacher})
    config.quantize = stage_config(**few, result="quantized", init="teacher", teacher="teacher", weight_bits=2, steps=8)
    return config


@pytest.fixture(scope="module")
def inference(done, tmp_path_factory) -> Path:
    """A directory with ``data`` and ``work``, the finished run of :func:`inference_config`."""
    root = tmp_path_factory.mktemp("inference")
    run(inference_config(done / "model", toy.write_inference(root / "data")), root / "work")
    return root


def shifted_checkpoint(inference, directory, labels) -> Path:
    """The teacher of that run as a Hugging Face checkpoint with its classes in another order, under these names."""
    config, params = load_flax(inference / "work" / "teacher" / "model")
    save_huggingface(directory, replace(config, labels=labels), permute_head(params, SHIFTED))
    copy_tokenizer(inference / "work" / "teacher" / "model", directory)
    return directory


def measured(inference, model, stages=("teacher", "quantize")):
    """The recipe whose teacher is taken from ``model`` as it is."""
    config = inference_config(model, inference / "data", layers=(), steps=0, epochs=0.0)
    config.stages = stages
    return config


@pytest.mark.slow
def test_mnli_is_measured_on_both_validation_splits_from_the_teacher_to_the_packed_model(inference):
    results = results_of(inference / "work")
    assert [(name, *result["metrics"]) for name, result in results.items()] == [
        (name, "accuracy", "accuracy_mismatched") for name in ("teacher", "quantized", "packed")
    ]
    assert results["teacher"]["metrics"]["accuracy"] >= 0.9
    packed = results["packed"]
    assert (packed["metrics"], packed["prediction_agreement"]) == (results["quantized"]["metrics"], 1.0)
    predictor = load_predictor(inference / "work" / "packed")
    assert evaluate_packed(predictor, str(inference / "data")) == (packed["metrics"], 48 + 27)


def test_a_validation_file_is_the_matched_split_alone(inference, tmp_path, monkeypatch):
    taken = []

    def train(work, *_):
        taken.append({split: len(dataset) for split, dataset in work.eval_sets.items()})
        raise KeyboardInterrupt

    monkeypatch.setattr("xtc_jax.pipeline.stage.train", train)
    config = inference_config(inference / "work" / "teacher" / "model", inference / "data", layers=())
    config.data.validation = str(inference / "data" / "mnli" / "validation_mismatched.parquet")
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "work")
    assert taken == [{"validation_matched": 27}]


def test_a_checkpoint_with_its_labels_in_another_order_scores_as_it_did_and_is_not_trained(inference, tmp_path):
    model = shifted_checkpoint(inference, tmp_path / "model", tuple(INFERENCE[i].upper() for i in SHIFTED))
    notes = []
    results = pipeline.run(make_recipe(measured(inference, model, ("teacher",))), tmp_path / "work", notes.append)
    before = results_of(inference / "work")["teacher"]
    assert (results["teacher"]["metrics"], results["teacher"]["steps"]) == (before["metrics"], 0)
    assert any("head reordered from (CONTRADICTION, ENTAILMENT, NEUTRAL) to (entailment, " in note for note in notes)
    models = [load_flax(root / "work" / "teacher" / "model") for root in (inference, tmp_path)]
    assert models[0][0].labels == models[1][0].labels == INFERENCE
    jax.tree.map(np.testing.assert_array_equal, models[1][1], models[0][1])


def test_a_teacher_far_below_chance_is_refused_before_anything_learns_from_it(inference, tmp_path, monkeypatch):
    model = shifted_checkpoint(inference, tmp_path / "model", ("LABEL_0", "LABEL_1", "LABEL_2"))
    labels = trained_stages(monkeypatch)
    with pytest.raises(UserError) as error:
        run(measured(inference, model), tmp_path / "work")
    message = str(error.value)
    number = float(message.removeprefix("config.teacher: this teacher has accuracy ").split(",")[0])
    assert number < 1 / 6
    assert "where guessing has 0.3333; most likely its head has the labels in another order than the task" in message
    assert f"correct id2label in {model / 'config.json'}, which has (LABEL_0, LABEL_1, LABEL_2)" in message
    assert labels == ["teacher"]
    assert not (tmp_path / "work" / "teacher" / "DONE").exists()


def test_names_that_cannot_be_matched_are_refused_where_nothing_trains_and_replaced_where_something_does(
    inference, tmp_path, monkeypatch
):
    model = shifted_checkpoint(inference, tmp_path / "model", ("one", "two", "three"))
    with pytest.raises(UserError) as error:
        run(measured(inference, model), tmp_path / "work")
    assert str(error.value).startswith(
        f"{model / 'config.json'}: its labels (one, two, three) are not the task's (entailment, neutral, contradiction), and"
    )
    assert not (tmp_path / "work").exists()
    notes, recipe = [], make_recipe(inference_config(model, inference / "data", layers=()))
    given = load_flax(inference / "work" / "teacher" / "model")[1]
    fresh = load_inputs(recipe, notes.append).checkpoints[recipe.config["model"]].params
    assert any(note.endswith("; head of (one, two, three) left out; new: classifier") for note in notes)
    assert not np.array_equal(np.asarray(fresh["classifier"]["weight"])[list(SHIFTED)], given["classifier"]["weight"])
    np.testing.assert_array_equal(fresh["pooler"]["dense"]["weight"], given["pooler"]["dense"]["weight"])


def test_a_stage_that_does_not_train_needs_a_classifier(done, inference, tmp_path):
    with pytest.raises(UserError, match="a model without a classifier"):
        run(measured(inference, done / "model"), tmp_path / "work")
    assert not (tmp_path / "work").exists()
