"""``report.html``: what stands on it, that it needs nothing but itself, and that a browser shows it."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import toy

from xtc_jax import pipeline
from xtc_jax.cli.main import main
from xtc_jax.data import Task
from xtc_jax.params import SizeEntry
from xtc_jax.pipeline.predictions import prediction_record
from xtc_jax.recipe.recipe import make_recipe
from xtc_jax.report import write_page
from xtc_jax.report.history import byte_groups, read_predictions, stage_history, weight_summaries

HEADINGS = [
    "Every stage",
    "Simpler models on the same data",
    "Answers on the validation data (validation, 30 examples)",
    "Training",
    "Where the time went",
    "Where the bytes are",
    "Scales and signs of the packed weights",
]


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """The finished run of three stages."""
    return toy.finished_run(tmp_path_factory.mktemp) / "work"


@pytest.fixture(scope="module")
def page(work, tmp_path_factory) -> str:
    """Its page."""
    file = tmp_path_factory.mktemp("page") / "report.html"
    write_page([work], file)
    return file.read_text()


def headings(page: str) -> list[str]:
    return re.findall(r"<h3>(.*?)</h3>", page)


def test_a_run_of_three_stages_has_every_section_and_a_curve_for_each(page):
    assert [heading for heading in headings(page) if not heading.startswith("Where teacher")] == HEADINGS
    assert page.count('alt="learning curves of ') == 3
    assert page.count("<img ") == 3 + 4
    assert page.count("<table class=confusion>") == 2
    assert len(page) < 2_000_000


def test_the_page_needs_no_network_and_no_script(page):
    assert "<script" not in page
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert "@import" not in page


def test_the_words_say_what_the_numbers_are(page, work):
    summary = re.search(r"<p class=summary>(.*?)</p>", page)[1]
    results = json.loads((work / "results.json").read_text())
    assert f"has accuracy {100 * results['teacher']['metrics']['accuracy']:.2f} on the validation data" in summary
    assert f"{results['packed']['bytes']:,} bytes: {results['packed']['ratio']:.1f} times fewer" in summary
    assert html.escape("its logits equal the trained student's to the last bit") in summary


@pytest.mark.slow
def test_several_runs_stand_on_one_page_with_a_joint_table(work, tmp_path, capsys):
    shutil.copytree(work, tmp_path / "again")
    assert main(["report", str(work), str(tmp_path / "again"), f"--html={tmp_path / 'both.html'}"]) == 0
    page = (tmp_path / "both.html").read_text()
    assert page.count("<h2 class=run>") == 2
    assert "again: packed" in page
    assert "again: packed" in capsys.readouterr().out


def test_examples_are_left_out_on_request(page, work, tmp_path, capsys):
    assert ("<table class=examples>" in page) == bool(read_predictions(work)["examples"])
    main(["report", str(work), f"--html={tmp_path / 'without.html'}", "--no-examples"])
    assert "<table class=examples>" not in (tmp_path / "without.html").read_text()


TASK = Task("custom", ("a", "b"), ("no", "yes"))
TEXTS = [("one", "1"), ("two", "2"), ("three", "3")]


def test_kept_examples_are_those_with_another_class_the_largest_difference_first():
    teacher = np.array([[0.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    student = np.array([[0.1, 0.0], [0.0, 9.0], [0.0, 0.5]])
    found = prediction_record(TASK, TEXTS, np.array([1, 0, 1]), {"teacher": teacher, "packed": student})
    assert found["answers"] == {"teacher": [1, 0, 1], "packed": [0, 1, 1]}
    assert [example["texts"] for example in found["examples"]] == [["two", "2"], ["one", "1"]]
    assert found["examples"][0]["teacher"] == [0, 0.9526]


def test_of_a_regression_the_numbers_are_kept_and_the_most_different_come_first():
    task = Task("custom", ("a", "b"), (), regression=True)
    one, two = np.array([[1.0], [2.0], [3.0]]), np.array([[1.5], [2.1], [1.0]])
    found = prediction_record(task, TEXTS, np.array([1.0, 2.5, 3.0]), {"teacher": one, "student": two})
    assert (found["classes"], found["answers"]["student"]) == ([], [1.5, 2.1, 1.0])
    assert [example["texts"][0] for example in found["examples"]] == ["three", "one", "two"]


def test_records_become_curves_and_the_time_to_compile_is_what_the_first_steps_take_too_long():
    records = [{"step": 10 * i, "loss": 1.0 / i, "seconds/step": 9.0 if i == 1 else 1.0} for i in range(1, 5)]
    records += [{"step": 40, "eval/accuracy": 0.75, "seconds/eval": 2.0}]
    found = stage_history("teacher", records)
    assert found.losses["loss"][-1] == (40, 0.25)
    assert found.metrics == {"accuracy": [(40, 0.75)]}
    assert found.seconds == {"compile": 8.0, "step": 4.0, "eval": 2.0}


def test_groups_of_bytes_add_up_to_the_file():
    names = [
        "embeddings/word_embeddings/weight",
        "encoder/layer_0/attention/self/key/weight",
        "encoder/layer_0/output/dense/bias",
    ]
    entries = [SizeEntry(name, (8, 8), 1, 100 * (i + 1), 10) for i, name in enumerate(names)]
    groups = byte_groups(entries, 7)
    assert groups == {"biases": (300, 10), "attention": (200, 10), "word embeddings": (100, 10), "header of the file": (7, 0)}


def test_weights_are_summed_up_by_layer_and_matrix(work):
    found = weight_summaries(work / "packed")
    inner = [weight for weight in found if weight.layer >= 0]
    parts = {"query", "key", "value", "attention output", "intermediate", "output"}
    assert {(weight.layer, weight.part) for weight in inner} == {(layer, part) for layer in (0, 1) for part in parts}
    assert all(0 < weight.positive < 1 and weight.zero == 0 and weight.scale[0] > 0 for weight in inner)


def run(root: Path, config) -> Path:
    """Run a recipe and write its page; returns the work directory."""
    pipeline.run(make_recipe(config), root / "work", lambda line: None)
    write_page([root / "work"], root / "work" / "report.html")
    return root / "work"


@pytest.fixture(scope="module")
def one_stage(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("one")
    config = toy.recipe_config(toy.write_model(root / "model"), toy.write_sentiment(root / "data"))
    config.stages = ("teacher",)
    config.teacher.steps = 10
    return run(root, config)


@pytest.fixture(scope="module")
def regression_of_pairs(tmp_path_factory) -> Path:
    """Three stages on pairs of texts whose labels are numbers."""
    root = tmp_path_factory.mktemp("pairs")
    config = toy.recipe_config(toy.write_model(root / "model"), root / "data")
    (root / "data").mkdir()
    for split, count in (("train", 48), ("validation", 24)):
        premise, hypothesis, label = map(list, zip(*toy.inferences(count, len(split)), strict=True))
        columns = {"first": premise, "second": hypothesis, "score": [2.5 - each for each in label]}
        toy.write_table(root / "data" / f"{split}.csv", columns)
    config.data.update({"text": ("first", "second"), "label": "score", "labels": (), "regression": True})
    for name in config.stages:
        config[name].update({"steps": 6, "eval_every": 6})
    config.reduce.layers = "0"
    return run(root, config)


@pytest.mark.slow
def test_a_run_of_one_stage_has_no_packed_sections_and_one_confusion_matrix(one_stage):
    page = (one_stage / "report.html").read_text()
    assert headings(page) == [HEADINGS[0], HEADINGS[1], HEADINGS[2], "Training", "Where the time went"]
    assert page.count("<table class=confusion>") == 1


@pytest.mark.slow
def test_a_regression_of_pairs_shows_predictions_over_labels_and_both_texts(regression_of_pairs):
    page = (regression_of_pairs / "report.html").read_text()
    assert 'alt="predictions over labels"' in page
    assert "<table class=confusion>" not in page
    assert re.search(r"<td>we saw the \w+ \. \| the \w+ was \w+ !</td><td>[012]\.50</td>", page)


PROBE = """<script>
window.addEventListener("load", () => {
  const images = [...document.images];
  const loaded = images.filter((image) => image.complete && image.naturalWidth > 0);
  document.body.setAttribute("data-loaded", loaded.length + "/" + images.length);
});
</script></body>"""


def look(page: Path, scratch: Path) -> tuple[str, str, list[str]]:
    """Open a page in headless Chromium: its title, "loaded/all pictures", and what the console has complained of.

    The page has no script; a copy of it gets one that counts its pictures.
    """
    probed = scratch / f"probed-{page.name}"
    probed.write_text(page.read_text().replace("</body>", PROBE))
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--virtual-time-budget=5000",
    ]
    done = subprocess.run([*command, "--dump-dom", probed.as_uri()], capture_output=True, text=True, check=True, timeout=120)
    complaints = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return re.search("<title>(.*?)</title>", done.stdout)[1], re.search('data-loaded="(.*?)"', done.stdout)[1], complaints


@pytest.mark.slow
@pytest.mark.chromium
@pytest.mark.parametrize("name", ["three", "one_stage", "regression_of_pairs"])
def test_a_browser_shows_title_and_all_pictures_and_complains_of_nothing(name, work, request, tmp_path):
    if name == "three":
        write_page([work], tmp_path / "report.html")
        page = tmp_path / "report.html"
    else:
        page = request.getfixturevalue(name) / "report.html"
    title, loaded, complaints = look(page, tmp_path)
    pictures = page.read_text().count("<img ")
    assert title.startswith("custom: ")
    assert title.endswith(": xtc_jax")
    assert (loaded, complaints) == (f"{pictures}/{pictures}", [])
