"""The folder that ``xtc export --to=web`` writes, in Node and in a browser."""

import json
import shutil

import browsing
import numpy as np
import packed_models
import pytest
import toy

from xtc_jax.data import load_tokenizer, tokenize
from xtc_jax.deploy import web
from xtc_jax.errors import UserError
from xtc_jax.formats import save_packed
from xtc_jax.inference import load_predictor, predict

SENTENCES = ("the lamp was bright and lovely .", "we saw a dull , dreary puppet .")


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """``(name of a maker) -> packed directory``."""

    def made(kind):
        base = tmp_path_factory.mktemp("web")
        toy.tokenizer().save(str(base / "tokenizer.json"))
        save_packed(base / "packed", packed_models.MAKERS[kind](), base)
        return base / "packed"

    return made


@pytest.fixture(scope="module")
def exported(write):
    """``(name of a maker) -> packed directory, folder of the page``; each is made once."""
    known = {}

    def made(kind):
        if kind not in known:
            packed = write(kind)
            web.export_web(packed, packed.parent / "page", "", lambda line: None)
            known[kind] = packed, packed.parent / "page"
        return known[kind]

    return made


@pytest.mark.slow
@pytest.mark.onnx
@pytest.mark.browser
def test_the_page_names_the_label_of_what_is_typed_and_nothing_leaves_the_machine(exported):
    packed, folder = exported("one text")
    with browsing.visiting(folder) as visit:
        browsing.ready(visit)
        for sentence, expected in zip(SENTENCES, predict(load_predictor(packed), [(text,) for text in SENTENCES]), strict=True):
            visit.page.fill("textarea", sentence)
            visit.page.wait_for_selector(".bars")
            assert visit.page.inner_text(".best .label") == expected.label
            assert visit.page.inner_text(".best .percent") == f"{100 * expected.value:.1f} %"
            visit.page.fill("textarea", "")
            visit.page.wait_for_selector(".empty")
        assert visit.messages == []
        assert visit.elsewhere == []
        assert {address.rsplit("/", 1)[-1] for address in visit.requests} >= {
            "onnxruntime.wasm",
            "model.onnx",
            "tokenizer.json",
        }


@pytest.mark.slow
@pytest.mark.onnx
@pytest.mark.browser
def test_a_model_that_rates_pairs_has_two_text_boxes_and_shows_a_number(exported):
    packed, folder = exported("regression of pairs")
    (expected,) = predict(load_predictor(packed), [SENTENCES])
    with browsing.visiting(folder, viewport={"width": 320, "height": 640}) as visit:
        browsing.ready(visit)
        first, second = visit.page.locator("textarea").all()
        first.fill(SENTENCES[0])
        second.fill(SENTENCES[1])
        visit.page.wait_for_selector(".number")
        assert abs(float(visit.page.inner_text(".number")) - expected.value) <= 0.0051
        assert "cut to 16" in visit.page.inner_text("#timing")
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 320
        assert visit.messages == []


@pytest.mark.slow
@pytest.mark.onnx
@pytest.mark.browser
def test_a_browser_refuses_what_a_changed_page_would_send_elsewhere(exported):
    _, folder = exported("one text")
    with browsing.visiting(folder) as visit:
        browsing.ready(visit)
        failed = visit.page.evaluate("fetch('http://localhost:9/', {mode: 'no-cors'}).then(() => '', error => error.message)")
        assert failed == "Failed to fetch"
        assert "Content Security Policy" in " ".join(visit.messages)


@pytest.mark.slow
@pytest.mark.onnx
@pytest.mark.browser
@pytest.mark.parametrize("kind", ["one text", "regression of pairs"])
def test_the_page_cuts_long_texts_and_pairs_into_the_tokens_that_training_saw(exported, kind):
    packed, folder = exported(kind)
    rng = np.random.default_rng(0)
    count = 2 if kind == "regression of pairs" else 1
    words = [*toy.VOCABULARY[5:], "Bright", "unheard", "café", "漢字", "it's"]
    texts = [tuple(" ".join(rng.choice(words, rng.integers(0, 20))) for _ in range(count)) for _ in range(200)]
    found, _ = web.run_in_node(folder, texts, [])
    tokens = tokenize(load_tokenizer(packed), texts, 16)
    assert [each["ids"] for each in found] == [ids.tolist() for ids in tokens.input_ids]
    assert [each["types"] for each in found] == [types.tolist() for types in tokens.token_type_ids]
    longest = {len(each["ids"]) for each in found}
    assert max(longest) == 16
    assert not (folder / "package.json").exists()


@pytest.mark.slow
@pytest.mark.onnx
@pytest.mark.browser
def test_a_package_that_is_not_the_pinned_one_is_refused_and_nothing_is_kept(write, monkeypatch, tmp_path):
    page = shutil.copytree(web.PAGE, tmp_path / "page")
    lock = json.loads((page / "package-lock.json").read_text())
    lock["packages"]["node_modules/@huggingface/tokenizers"]["integrity"] = "sha512-" + "A" * 86 + "=="
    (page / "package-lock.json").write_text(json.dumps(lock))
    monkeypatch.setattr(web, "PAGE", page)
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    packed = write("one text")
    with pytest.raises(UserError, match=r"npm cannot install the packages of the page: .*sha512"):
        web.export_web(packed, packed.parent / "page", "", lambda line: None)
    assert not (packed.parent / "page").exists()


def test_without_npm_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"node and npm not installed.*: apt-get install npm$"):
        web.export_web(tmp_path, tmp_path / "out", "", lambda line: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.onnx
def test_a_tokenizer_that_frames_texts_in_another_way_is_named_and_nothing_is_kept(write, monkeypatch, tmp_path):
    monkeypatch.setattr(web, "require_npm", lambda: None)
    packed = write("one text")
    tokenizer = json.loads((packed / "tokenizer.json").read_text())
    (packed / "tokenizer.json").write_text(json.dumps({**tokenizer, "post_processor": None}))
    with pytest.raises(UserError, match=r"tokenizer\.json: does not frame a text as BERT does"):
        web.export_web(packed, tmp_path / "out", "", lambda line: None)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_refused(tmp_path):
    with pytest.raises(UserError, match="exists already; choose a new directory"):
        web.export_web(tmp_path / "packed", tmp_path, "", lambda line: None)


def test_every_package_is_pinned_by_version_and_hash_and_no_address_is_written_down():
    lock = json.loads((web.PAGE / "package-lock.json").read_text())["packages"]
    asked = json.loads((web.PAGE / "package.json").read_text())["dependencies"]
    assert {name: lock[f"node_modules/{name}"]["version"] for name in asked} == asked
    for name, entry in lock.items():
        assert name == "" or entry["integrity"].startswith("sha512-")
        assert "resolved" not in entry


def test_every_file_of_the_page_is_copied_or_is_a_tool_of_the_export():
    known = {*web.STATIC, "package.json", "package-lock.json", "check.js"}
    assert {path.name for path in web.PAGE.iterdir()} == known
