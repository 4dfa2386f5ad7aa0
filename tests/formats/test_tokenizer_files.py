"""The files of a reduced tokenizer: complete, without copies, and read alike by transformers."""

import json

import pytest

from xtc_jax.compress import Vocabulary, choose_pieces, piece_counts, reduced_tokenizer
from xtc_jax.data import load_tokenizer, pinned_directory
from xtc_jax.formats import copy_tokenizer, save_tokenizer, tokenizer_bytes

TEXTS = ["a gripping, funny film", "antidisestablishmentarianism isn't e-mail@home", "短い 文", "Çafé Ünïcode"]


@pytest.fixture(scope="module")
def source():
    return pinned_directory("pinned:all-MiniLM-L6-v2")


@pytest.fixture(scope="module")
def vocabulary(source):
    original = load_tokenizer(source).to_str()
    keep = choose_pieces(original, piece_counts(original, [(text,) for text in TEXTS[:1]]), size=2100)
    return Vocabulary(tuple(keep.tolist()), reduced_tokenizer(original, keep))


@pytest.mark.pinned
def test_a_reduced_directory_has_the_settings_and_no_list_of_the_old_pieces(tmp_path, source, vocabulary):
    save_tokenizer(source, tmp_path / "new", vocabulary)
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    assert tokenizer_bytes(tmp_path / "new") == sum(path.stat().st_size for path in (tmp_path / "new").iterdir()) < 50_000
    assert json.loads((tmp_path / "new" / "tokenizer_config.json").read_text())["do_lower_case"] is True


@pytest.mark.pinned
def test_the_copy_for_a_packed_model_leaves_out_what_the_tokenizer_file_repeats(tmp_path, source):
    copy_tokenizer(source, tmp_path, lists=False)
    assert {path.name for path in tmp_path.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    assert tokenizer_bytes(source) - tokenizer_bytes(tmp_path) == 231_508, "bytes of vocab.txt"


@pytest.mark.pinned
def test_transformers_reads_the_reduced_tokenizer_as_this_package_does(tmp_path, source, vocabulary):
    from transformers import AutoTokenizer

    save_tokenizer(source, tmp_path, vocabulary)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    reference, own = AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path)
    own.no_padding()
    for text in TEXTS:
        assert reference(text)["input_ids"] == own.encode(text).ids
    assert len(reference) == 2100
    assert reference.pad_token_id == own.token_to_id("[PAD]") == 0
    assert reference.mask_token_id == own.token_to_id("[MASK]") < 100
