"""The directory of ``xtc export --to=onnx``, read by others: optimum, and transformers.js in Node."""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import packed_models
import pytest
import toy

from xtc_jax.data import tokenize
from xtc_jax.deploy.onnx_directory import export_onnx
from xtc_jax.deploy.verify import compare, packed_logits
from xtc_jax.formats import PackedModel, load_packed, save_packed

TEXTS = [(text,) for text, _ in toy.sentences(64, seed=11)]
PAIRS = [(one, other) for one, other, _ in toy.inferences(32, seed=12)]
ROWS = {"one text": TEXTS, "1 bit": PAIRS}
PACKAGES = Path(__file__).with_name("transformers_js")
pytestmark = [pytest.mark.slow, pytest.mark.onnx]
every_kind = pytest.mark.parametrize("kind", ROWS)

_OPTIMUM = """
import json, sys
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer
model, tokenizer = (each.from_pretrained(sys.argv[1]) for each in (ORTModelForSequenceClassification, AutoTokenizer))
logits, labels = [], []
for texts in json.load(sys.stdin):
    found = model(**tokenizer(*texts, truncation=True, return_tensors="np")).logits[0]
    logits.append(found.tolist())
    labels.append(model.config.id2label[int(found.argmax())])
print(json.dumps({"logits": logits, "labels": labels}))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """``(name of a maker) -> packed directory, ONNX directory``; each is made once."""
    known = {}

    def made(kind):
        if kind not in known:
            base = tmp_path_factory.mktemp("onnx")
            toy.tokenizer().save(str(base / "tokenizer.json"))
            save_packed(base / "packed", decided(packed_models.MAKERS[kind](), ROWS[kind]), base)
            export_onnx(base / "packed", base / "exported", "", lambda line: None)
            known[kind] = base / "packed", base / "exported"
        return known[kind]

    return made


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory) -> Path:
    """What the lock file pins, installed by npm; no script of a package is run."""
    folder = tmp_path_factory.mktemp("node")
    for path in PACKAGES.iterdir():
        shutil.copy(path, folder)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run(command, cwd=folder, check=True)
    return folder


def logits_of(model: PackedModel, rows: list[tuple[str, ...]]) -> np.ndarray:
    tokens, batches = tokenize(toy.tokenizer(), rows, model.max_length), []
    for ids, types in zip(tokens.input_ids, tokens.token_type_ids, strict=True):
        batches.append({"input_ids": ids[None], "token_type_ids": types[None], "attention_mask": np.ones_like(ids)[None]})
    return packed_logits(model, batches)


def decided(model: PackedModel, rows: list[tuple[str, ...]]) -> PackedModel:
    """The model with another bias: rows of both labels, and none near the boundary, which lies in the widest gap."""
    margins = np.sort(np.diff(logits_of(model, rows))[:, 0])[len(rows) // 4 : -len(rows) // 4]
    widest = np.diff(margins).argmax()
    head = model.params["classifier"]
    bias = head["bias"] + np.array([margins[widest : widest + 2].mean(), 0], head["bias"].dtype)
    return replace(model, params={**model.params, "classifier": {**head, "bias": bias}})


def assert_reads_alike(answer: str, packed: Path, rows: list[tuple[str, ...]]) -> None:
    """The same labels, by name too."""
    model, found = load_packed(packed), json.loads(answer)
    ours, labels = logits_of(model, rows), model.config.labels
    theirs, winners = np.array(found["logits"]), ours.argmax(axis=1)
    agreement = compare(ours, theirs)
    print(f"{np.bincount(winners)} of each label, {agreement}")
    assert theirs.argmax(axis=1).tolist() == winners.tolist()
    assert agreement.median <= 1e-6
    assert agreement.maximum <= 1e-6  # 4.5e-8 measured: no activation rounds apart
    assert np.bincount(winners).min() >= len(rows) // 4
    assert found["labels"] in ([], [labels[winner] for winner in winners])


@every_kind
@pytest.mark.optimum
def test_optimum_opens_the_directory_and_gives_every_label(exported, kind):
    packed, folder = exported(kind)
    command = [os.environ.get("XTC_OPTIMUM_PYTHON", ""), "-c", _OPTIMUM, str(folder)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, input=json.dumps(ROWS[kind]), stdout=-1, text=True, check=True)
    assert_reads_alike(done.stdout, packed, ROWS[kind])


@every_kind
@pytest.mark.transformers_js
def test_transformers_js_opens_the_directory_and_gives_every_label(exported, node_modules, kind):
    packed, folder = exported(kind)
    command = ["node", "classify.js", str(folder.parent), folder.name]
    done = subprocess.run(command, cwd=node_modules, input=json.dumps(ROWS[kind]), stdout=-1, text=True, check=True)
    assert_reads_alike(done.stdout, packed, ROWS[kind])
