"""What tests of packed directories begin with."""

from pathlib import Path

import pytest
import toy
from packed_files import make_model

from xtc_jax.formats import save_packed


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A directory with a ``tokenizer.json``."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    toy.tokenizer().save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def directory(tmp_path: Path, tokenizer: Path) -> Path:
    """A packed model of 2 bits."""
    save_packed(tmp_path / "packed", make_model(), tokenizer)
    return tmp_path / "packed"
