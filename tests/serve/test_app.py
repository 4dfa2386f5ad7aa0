"""The HTTP interface of a packed model and of its ONNX export: every status, and answers that are the predictor's."""

import json
from dataclasses import replace

import numpy as np
import packed_models
import pytest
import toy

from xtc_jax.errors import UserError
from xtc_jax.inference.predictor import load_predictor, predict
from xtc_jax.serve.app import make_app
from xtc_jax.serve.requests import Limits
from xtc_jax.serve.runners import onnx_runner, packed_runner

pytestmark = pytest.mark.serve
LIMITS = Limits(inputs=4, characters=100, waiting=8)
TEXTS = ["the lamp was bright and warm .", "a dull , dreary puppet", "an unknown zebra"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return toy.finished_run(tmp_path_factory.mktemp) / "work" / "packed"


@pytest.fixture(scope="module")
def runner(packed):
    return packed_runner(packed)


def client_of(runner, limits=LIMITS):
    from fastapi.testclient import TestClient

    return TestClient(make_app(runner, limits, 4))


@pytest.fixture
def client(runner):
    with client_of(runner) as made:
        yield made


def test_a_list_of_texts_gets_the_answers_of_the_predictor(client, packed):
    expected = predict(load_predictor(packed), [(text,) for text in TEXTS])
    answer = client.post("/predict", json={"inputs": TEXTS})
    assert answer.status_code == 200
    assert [each["label"] for each in answer.json()["predictions"]] == [each.label for each in expected]
    for found, wanted in zip(answer.json()["predictions"], expected, strict=True):
        assert found["probabilities"] == pytest.approx(wanted.probabilities, abs=1e-6)
        assert found["value"] == pytest.approx(wanted.value, abs=1e-6)


def test_one_text_gets_one_answer(client):
    (found,) = client.post("/predict", json={"inputs": TEXTS[0]}).json()["predictions"]
    (same,) = client.post("/predict", json={"inputs": TEXTS[:1]}).json()["predictions"]
    assert found == same
    assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"", 400, "The body is empty"),
        (b'{"inputs": "\xff"}', 400, "not UTF-8"),
        (b"{", 400, "not JSON"),
        (b'{"inputs": []}', 422, "no input"),
        (json.dumps({"inputs": ["a"] * 5}).encode(), 413, "a request may have 4"),
        (json.dumps({"inputs": "a" * 101}).encode(), 413, "a text may have 100"),
        (b" " * 100_000, 413, "larger than"),
    ],
)
def test_what_cannot_be_answered_gets_a_status_and_a_sentence(client, body, status, sentence):
    answer = client.post("/predict", content=body)
    assert answer.status_code == status
    assert sentence in answer.json()["detail"]


def test_other_paths_and_methods_are_refused(client):
    assert client.get("/predict").status_code == 405
    assert client.get("/nothing").status_code == 404


def test_it_tells_its_health_its_interface_and_its_metrics(client):
    client.post("/predict", json={"inputs": TEXTS})
    client.post("/predict", content=b"{")
    assert client.get("/healthz").json()["status"] == "ok"
    described = client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    assert {"200", "400", "413", "422", "503"} <= described["responses"].keys()
    assert described["requestBody"]["content"]["application/json"]["schema"]["required"] == ["inputs"]
    metrics = client.get("/metrics").text
    assert 'xtc_requests_total{status="200"} 1.0' in metrics
    assert 'xtc_requests_total{status="400"} 1.0' in metrics
    assert "xtc_batch_inputs_sum 3.0" in metrics
    assert "xtc_waiting_inputs 0.0" in metrics


def test_a_model_for_pairs_takes_pairs_and_a_regression_gives_a_number(runner):
    rating = replace(runner, texts=2, regression=True, labels=("score",), logits=lambda texts: np.full((len(texts), 1), 2.5))
    with client_of(rating) as client:
        answer = client.post("/predict", json={"inputs": [["one", "two"]]}).json()
        assert answer == {"predictions": [{"label": None, "value": 2.5, "probabilities": {}}]}
        assert client.post("/predict", json={"inputs": ["one", "two"]}).status_code == 422
        schema = client.get("/openapi.json").json()["paths"]["/predict"]["post"]["requestBody"]
        assert schema["content"]["application/json"]["schema"]["example"] == {"inputs": [["first", "second"]]}


def test_a_failure_of_the_model_is_a_500_and_the_server_goes_on(runner):
    def failing(texts):
        if texts[0] == ("now",):
            raise RuntimeError("secret")
        return np.zeros((len(texts), 2))

    with client_of(replace(runner, logits=failing)) as client:
        answer = client.post("/predict", json={"inputs": "now"})
        assert (answer.status_code, answer.json()["detail"]) == (500, "The model failed (RuntimeError).")
        assert client.post("/predict", json={"inputs": "later"}).status_code == 200


def test_after_the_warm_up_no_request_compiles(packed):
    predictor = load_predictor(packed)
    from xtc_jax.inference.predictor import text_logits, warm_up

    assert warm_up(predictor, 4) == 3  # 1, 2 and 4 inputs of 16 tokens
    for size in range(1, 5):
        text_logits(predictor, [("a lamp",)] * size)
    assert predictor.forward._cache_size() == 3


def test_a_model_whose_ranges_are_those_of_the_batch_is_not_given_several_requests_at_once():
    assert packed_models.MAKERS["tensor range"]().mixes_inputs
    assert not packed_models.MAKERS["1 bit"]().mixes_inputs
    assert not packed_models.MAKERS["static range"]().mixes_inputs


@pytest.mark.onnx
def test_the_onnx_export_gives_the_same_answers(packed, runner, tmp_path):
    from xtc_jax.deploy.onnx_directory import export_onnx

    export_onnx(packed, tmp_path / "out", "", lambda line: None)
    exported = onnx_runner(tmp_path / "out")
    assert (exported.labels, exported.texts, exported.max_length) == (runner.labels, runner.texts, runner.max_length)
    assert exported.warm_up(32) == 1
    texts = [(text,) for text in TEXTS]
    np.testing.assert_allclose(exported.logits(texts), runner.logits(texts), atol=2e-3)
    with client_of(exported) as client:
        found = client.post("/predict", json={"inputs": TEXTS}).json()["predictions"]
        assert [each["label"] for each in found] == [each.label for each in predict(load_predictor(packed), texts)]
        assert client.get("/healthz").json()["runtime"] == "onnx"


def test_a_packed_directory_is_no_onnx_export(packed):
    pytest.importorskip("onnxruntime")
    with pytest.raises(UserError, match="not an ONNX export; 'xtc export PACKED"):
        onnx_runner(packed)
