from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from xtc_jax.bert import apply
from xtc_jax.compress import ready
from xtc_jax.errors import UserError
from xtc_jax.formats import load_packed
from xtc_jax.inference.predictor import evaluate_packed, load_predictor, predict, text_logits

TEXTS = [("the lamp was bright and warm .",), ("a dull , dreary puppet",), ("an unknown zebra",)]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return toy.finished_run(tmp_path_factory.mktemp)


@pytest.fixture(scope="module")
def predictor(done):
    return load_predictor(done / "work" / "packed")


def test_probabilities_are_the_softmax_of_the_logits_and_the_label_is_the_likeliest(predictor):
    logits = text_logits(predictor, TEXTS).astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for answer, row in zip(predict(predictor, TEXTS), expected, strict=True):
        assert list(answer.probabilities) == ["negative", "positive"]
        np.testing.assert_allclose(list(answer.probabilities.values()), row, rtol=2.5e-6)
        assert answer.label == ("negative", "positive")[row.argmax()]
        assert answer.value == answer.probabilities[answer.label]


def test_the_logits_are_those_of_the_stored_params(predictor, done):
    model = load_packed(done / "work" / "packed")
    ids = jnp.array(predictor.tokenizer.encode(TEXTS[0][0]).ids, jnp.int32)[None]
    direct = jax.jit(lambda params: apply(model.config, params, ids, 0 * ids, 0 * ids + 1).logits)(ready(model.params))
    np.testing.assert_allclose(text_logits(predictor, TEXTS[:1]), direct, rtol=0, atol=3e-7)


def test_an_answer_does_not_depend_on_the_texts_beside_it(predictor):
    alone = np.concatenate([text_logits(predictor, [text]) for text in TEXTS])
    np.testing.assert_allclose(text_logits(predictor, TEXTS), alone, rtol=0, atol=1e-6)


def test_a_text_that_is_too_long_is_cut(predictor):
    long = " ".join(["bright"] * 40)
    cut = " ".join(["bright"] * (predictor.model.max_length - 2))
    np.testing.assert_array_equal(text_logits(predictor, [(long,)]), text_logits(predictor, [(cut,)]))


def test_no_texts_have_no_answers(predictor):
    assert predict(predictor, []) == []


def test_a_wrong_number_of_texts_is_refused_with_its_place(predictor):
    with pytest.raises(UserError, match=r"input 2 has 2 text\(s\); this model takes 1"):
        predict(predictor, [("one",), ("one", "two")])


def test_every_validation_split_of_the_task_is_measured_unless_one_is_named(predictor, tmp_path):
    """The packed sentiment model, as if its task had MNLI's splits."""
    task = replace(predictor.model.task, validation=("validation_matched", "validation_mismatched"))
    twofold = replace(predictor, model=replace(predictor.model, task=task))
    scores = {}
    for split, count in (("validation_matched", 6), ("validation_mismatched", 4)):
        texts, labels = map(list, zip(*toy.sentences(count, count), strict=True))
        toy.write_table(tmp_path / f"{split}.csv", {"sentence": texts, "label": labels})
        answers = [
            answer.label == task.labels[i] for answer, i in zip(predict(twofold, [(t,) for t in texts]), labels, strict=True)
        ]
        scores[split] = sum(answers) / count
    matched, mismatched = scores.values()
    both = {"accuracy": matched, "accuracy_mismatched": mismatched}
    assert evaluate_packed(twofold, str(tmp_path)) == (both, 10)
    assert evaluate_packed(twofold, str(tmp_path), "validation_mismatched") == ({"accuracy_mismatched": mismatched}, 4)
    assert evaluate_packed(twofold, str(tmp_path / "validation_matched.csv")) == ({"accuracy": matched}, 6)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_metrics_on_a_file_are_the_same_in_every_form(predictor, tmp_path, suffix):
    data = toy.write_sentiment(tmp_path, suffix)
    metrics, examples = evaluate_packed(predictor, str(data))
    rows = toy.sentences(30, len("validation"))
    answers = predict(predictor, [(text,) for text, _ in rows])
    right = sum(answer.label == ("negative", "positive")[label] for answer, (_, label) in zip(answers, rows, strict=True))
    assert (metrics, examples) == ({"accuracy": right / 30}, 30)
