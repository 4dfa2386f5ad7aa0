import pytest

from xtc_jax.errors import UserError
from xtc_jax.recipe.files import read_config_file

CONFIG = """
from xtc_jax.recipe import base_config, parse_arg, stage_config

def get_config(arg=""):
    arg = parse_arg(arg, task="sst2", bits=1)
    config = base_config(task=arg.task, stages=("teacher",))
    config.teacher = stage_config(weight_bits=arg.bits)
    return config
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> str:
        (tmp_path / "recipe.py").write_text(text)
        return "recipe.py"

    return write


def test_the_argument_follows_a_colon(write):
    config = read_config_file(write(CONFIG) + ":cola,bits=2", ())
    assert (config.task, config.teacher.weight_bits) == ("cola", 2)


def test_overrides_are_read_as_the_type_of_their_key(write):
    overrides = (
        "--config.seed=7",
        "--config.runlocal=true",
        "--config.teacher.learning_rate=1",
        "--config.teacher.layers=1,3",
        "--config.teacher.bit_schedule=8@0>1@10",
        "--config.teacher.grid=(1e-5,5e-5)",
        "--config.teacher.loss.hidden=2",
        "--config.data.path=some/where",
    )
    config = read_config_file(write(CONFIG), overrides)
    assert (config.seed, config.runlocal, config.teacher.layers) == (7, True, "1,3")
    assert (config.teacher.bit_schedule, config.teacher.grid) == ("8@0>1@10", (1e-5, 5e-5))
    assert config.teacher.loss.hidden == 2.0
    assert type(config.teacher.learning_rate) is float
    assert config.data.path == "some/where"


def test_the_last_of_equal_overrides_wins(write):
    assert read_config_file(write(CONFIG), ("--config.seed=1", "--config.seed=2")).seed == 2


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (("--config.typo=1",), "typo"),
        (("--config.teacher.typo=1",), "typo"),
        (("--config.teacher.loss.typo=1",), "typo"),
        (("--config.seed=many",), "many"),
        (("--config.seed=1.5",), "1.5"),
        (("--config.runlocal=maybe",), "maybe"),
        (("--config.teacher=1",), "teacher"),
        (("--config.seed",), "--config.KEY=VALUE"),
        (("--seed=1",), "--config.KEY=VALUE"),
    ],
)
def test_a_wrong_override_is_named_in_one_line(write, overrides, named):
    with pytest.raises(UserError, match=named) as error:
        read_config_file(write(CONFIG), overrides)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named():
    with pytest.raises(
        UserError,
        match=r"^no/such\.py: no such config file, nor one of the recipes .*: binarybert, glue, hundred, own, plus,",
    ):
        read_config_file("no/such.py:arg", ())


def test_a_wrong_argument_keeps_its_own_message(write):
    with pytest.raises(UserError, match=r"^config argument 'bits=two': 'two' is not a int$"):
        read_config_file(write(CONFIG) + ":bits=two", ())


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("def get_config(arg=''):\n    raise ValueError('layers=7;\\n use 12')\n", "layers=7; use 12"),
        ("def get_config(arg=''):\n    return nonsense\n", "nonsense"),
        ("def get_config(arg=''):\n    return 1 / 0\n", "division by zero"),
        ("def get_config(arg=''):\n    open('/no/such/file')\n", "/no/such/file"),
        ("import no_such_module\n", "no_such_module"),
        ("def get_config(:\n", "invalid syntax"),
        ("x = 1\n", "get_config"),
        ("def get_config(arg=''):\n    pass\n", "get_config"),
        ("def get_config(arg=''):\n    return {'seed': 1}\n", "get_config"),
    ],
    ids=["value", "name", "arithmetic", "file", "import", "syntax", "missing", "nothing", "dict"],
)
def test_an_error_inside_the_file_is_one_line_that_names_file_and_cause(write, text, named):
    with pytest.raises(UserError, match=named) as error:
        read_config_file(write(text), ())
    assert str(error.value).startswith("recipe.py: ")
    assert "\n" not in str(error.value)
    assert "Traceback" not in str(error.value)
