"""What ``launch/bootstrap.sh`` does before it makes anything."""

import subprocess

import pytest
from launching import LAUNCH


def bootstrap(*arguments, **environment):
    command = ["sh", str(LAUNCH / "bootstrap.sh"), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", **environment})


@pytest.mark.parametrize("arguments", [(), ("everything",)])
def test_without_a_kind_that_it_knows_it_says_how_it_is_used(arguments):
    done = bootstrap(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "usage: launch/bootstrap.sh run|test|docs [PYTHON], or which 3.11\n"


def test_an_interpreter_that_is_none_is_refused_by_name(tmp_path):
    done = bootstrap("run", str(tmp_path / "python"), VENV=str(tmp_path / "venv"))
    assert done.returncode == 2
    assert done.stderr == f"bootstrap: PYTHON={tmp_path / 'python'} is no working Python 3.11 to 3.14 with venv\n"
