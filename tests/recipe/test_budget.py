import pytest

from xtc_jax.errors import UserError
from xtc_jax.recipe.budget import parse_budget


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("auto", None),
        ("off", 0),
        ("2GB", 2 * 10**9),
        ("1.5 gb", 15 * 10**8),
        ("64KB", 64_000),
        ("100B", 100),
        ("3TB", 3 * 10**12),
    ],
)
def test_a_budget_is_auto_off_or_a_size(text, size):
    assert parse_budget(text) == size


@pytest.mark.parametrize("text", ["", "2", "lots", "-1GB", "2GiB", "GB", "0MB", "1e3GB", "2GB 3", "on"])
def test_what_is_no_size_is_refused_with_the_key_and_the_forms_there_are(text):
    with pytest.raises(UserError) as refused:
        parse_budget(text)
    assert str(refused.value) == f"config.teacher_cache={text!r} is no size; use auto, off or a size such as 2GB or 500MB"
