"""The public way to an answer, and what it does not import."""

import subprocess
import sys

import pytest
import toy

import xtc_jax
from xtc_jax.errors import UserError
from xtc_jax.inference import load_predictor, predict

HEAVY = (
    "datasets",
    "transformers",
    "orbax",
    "optax",
    "sklearn",
    "scipy",
    "matplotlib",
    "grain",
    "tensorboardX",
    "huggingface_hub",
)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return toy.finished_run(tmp_path_factory.mktemp) / "work" / "packed"


def test_a_text_has_one_answer_and_a_list_has_as_many_as_it_has_texts(packed):
    model = xtc_jax.load(packed)
    texts = ["a good film", "a bad film"]
    (expected, other) = predict(load_predictor(packed), [(text,) for text in texts])
    assert model("a good film") == model(("a good film",)) == expected
    assert model(texts) == [expected, other]
    assert model([]) == []
    assert expected.label in model.labels


def test_a_pair_for_a_model_of_single_texts_is_refused_with_its_place(packed):
    with pytest.raises(UserError, match=r"^input 2 has 2 text\(s\); this model takes 1"):
        xtc_jax.load(str(packed))(["a good film", ("a", "b")])


def test_what_is_no_text_is_refused(packed):
    with pytest.raises(UserError, match=r"^input 1 is \(3,\); give a string"):
        xtc_jax.load(packed)([(3,)])


def test_loading_and_running_imports_nothing_that_only_training_needs(packed):
    program = f"""
import sys, xtc_jax
assert not [name for name in ("jax", "numpy") if name in sys.modules], "import xtc_jax must stay light"
xtc_jax.load({str(packed)!r})("a good film")
print([name for name in (*{HEAVY!r}, "jax.experimental.pallas.tpu") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_is_there_and_no_other():
    assert [name for name in xtc_jax.__all__ if not callable(getattr(xtc_jax, name))] == ["compress"]
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = xtc_jax.nonsense
