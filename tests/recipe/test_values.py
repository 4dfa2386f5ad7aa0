"""The table of types and ranges: it has every key, and a value that does not fit is refused with its key."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from xtc_jax.errors import UserError
from xtc_jax.recipe import base_config, make_recipe, stage_config
from xtc_jax.recipe.values import CONFIG_VALUES, STAGE_VALUES, Value, check_values


def keys_of(config):
    return [
        f"{name}.{key}" if isinstance(value, ConfigDict) else name
        for name, value in config.items()
        for key in (value if isinstance(value, ConfigDict) else [""])
    ]


def a_config():
    config = base_config(stages=("teacher",))
    config.teacher = stage_config()
    return config


def refusal(key, value):
    config = a_config()
    *blocks, last = key.split(".")
    with config.ignore_type():  # a config file can do this too
        node = config
        for name in blocks:
            node = node[name]
        node[last] = value
    with pytest.raises(UserError) as refused:
        make_recipe(config)
    return str(refused.value)


@pytest.mark.parametrize(
    ("config", "values"), [(base_config(), CONFIG_VALUES), (stage_config(), STAGE_VALUES)], ids=["base", "stage"]
)
def test_the_table_has_every_key_of_the_schema_and_its_default_fits(config, values):
    assert sorted(values) == sorted(keys_of(config))
    check_values(config, values, "config")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", -1, "config.seed=-1 must be at least 0"),
        ("seed", 2**32, "config.seed=4294967296 must be at most 4294967295"),
        ("seed", True, "config.seed=True must be a whole number"),
        ("seed", 1.5, "config.seed=1.5 must be a whole number"),
        ("data.labels", (0, 1), "config.data.labels=(0, 1): item 1 must be a text"),
        ("data.labels", "yes", "config.data.labels='yes' must be a sequence, in brackets: ('a', 'b'), or ('a',) of one"),
        ("data.text", ("a", None), "config.data.text=('a', None): item 2 must be a text"),
        ("data.missing", "skip", "config.data.missing='skip'; use one of refuse, drop"),
        ("data.buckets", (0, 16), "config.data.buckets=(0, 16): item 1 must be at least 1"),
        ("mesh", ("a", 1, 1), "config.mesh=('a', 1, 1): item 1 must be a whole number"),
        ("augment.probability", 1.5, "config.augment.probability=1.5 must be at most 1"),
        ("augment.candidates", 0, "config.augment.candidates=0 must be at least 1"),
        ("teacher.learning_rate", float("nan"), "config.teacher.learning_rate=nan must be finite"),
        ("teacher.epochs", float("inf"), "config.teacher.epochs=inf must be finite"),
        ("teacher.batch_size", 8.0, "config.teacher.batch_size=8.0 must be a whole number"),
        ("teacher.layers", 3, "config.teacher.layers=3 must be a text"),
        ("teacher.split", "no", "config.teacher.split='no' must be True or False"),
        ("teacher.loss.temperature", None, "config.teacher.loss.temperature=None must be a number"),
        ("data", None, "config.data=None must be a block of keys; make it with base_config and stage_config"),
        ("teacher.loss", 1.0, "config.teacher.loss=1.0 must be a block of keys; make it with base_config and stage_config"),
        ("stages", (1,), "config.stages=(1,): item 1 must be a text"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_key(key, value, message):
    assert refusal(key, value) == message


EVERY = [*CONFIG_VALUES, *(f"teacher.{key}" for key in STAGE_VALUES)]


NAMES = st.text().filter(lambda name: "." not in name)  # ConfigDict takes no others


@settings(max_examples=200, deadline=None)
@given(key=st.sampled_from(EVERY), value=st.none() | st.binary() | st.dictionaries(NAMES, st.integers(), max_size=1))
def test_no_key_takes_a_value_of_no_kind(key, value):
    message = refusal(key, value)
    assert message.startswith(f"config.{key}=")
    assert " must be " in message
    assert "\n" not in message


numbers = st.integers(-3, 3) | st.floats(-3, 3)


@given(value=numbers, least=st.integers(-2, 2), most=st.integers(-2, 2))
def test_bounds_are_what_a_number_may_reach_or_not(value, least, most):
    def fits(**bounds):
        try:
            check_values(ConfigDict({"x": value}), {"x": Value("number", **bounds)}, "config")
        except UserError:
            return False
        return True

    assert fits(least=least, most=most) == (least <= value <= most)
    assert fits(above=least, below=most) == (least < value < most)
    assert fits(least=5, also=value)
