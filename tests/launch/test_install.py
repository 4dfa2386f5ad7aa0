"""``launch/install.sh``: uv installs, from where pip would; pip does where uv fails."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "launch" / "install.sh"
# Stands for an interpreter: notes what it is called with, has the settings of pip it is given, fails where it is told to.
FAKE = """#!/bin/sh
case "$*" in
  "-m pip config list") printf '%s\\n' "$SETTINGS"; exit 0 ;;
esac
echo "$* | $UV_DEFAULT_INDEX | $UV_INDEX | $SSL_CERT_FILE | $UV_INDEX_STRATEGY" >>"$CALLS"
case "$*" in "$FAILS"*) exit 1 ;; esac
"""


@pytest.fixture
def calls(tmp_path):
    """Runs the script; gives its status, what it says, and what the interpreter was called with."""
    fake, log = tmp_path / "python", tmp_path / "calls"
    fake.write_text(FAKE)
    fake.chmod(0o755)

    def run(fails="nothing", settings="", **environment):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "SSL_"))}
        env = kept | {"SETTINGS": settings, "FAILS": fails, "CALLS": str(log)} | environment
        done = subprocess.run(["sh", SCRIPT, fake, "-e", ".[test]"], env=env, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr, [line.split(" | ") for line in log.read_text().splitlines()]

    return run


def test_uv_installs_at_the_versions_of_the_constraints(calls):
    status, said, (first, second) = calls()
    assert (status, said) == (0, "")
    assert first[0].startswith("-m pip install")
    assert first[0].endswith(" uv")
    assert second[0].startswith("-m uv pip install -q --python ")
    assert second[0].endswith("/python -c constraints.txt -e .[test]")
    assert second[1:] == ["", "", "", "unsafe-best-match"]


def test_other_versions_are_taken_where_there_are_no_constraints(calls):
    assert "-c" not in calls(CONSTRAINTS="")[2][1][0].split()


def test_uv_is_told_the_indexes_and_certificates_of_pip_s_files_and_variables(calls):
    settings = "global.index-url='file:///a'\nglobal.extra-index-url='file:///b file:///c'\nglobal.timeout='9'"
    found = calls(settings=settings, PIP_CERT="/certificates")[2][1]
    assert found[1:4] == ["file:///a", "file:///b file:///c", "/certificates"]
    assert calls(settings=settings, PIP_INDEX_URL="file:///d")[2][-1][1] == "file:///d"


def test_what_uv_is_already_told_stays(calls):
    assert calls(settings="global.index-url='file:///a'", UV_DEFAULT_INDEX="file:///mine")[2][1][1] == "file:///mine"


@pytest.mark.parametrize(
    ("fails", "before"),
    [("-m uv", 2), ("-m pip install -qq --no-compile --disable-pip-version-check --no-warn-script-location uv", 1)],
)
def test_pip_installs_where_uv_fails_or_cannot_be_had(calls, fails, before):
    status, said, made = calls(fails=fails)
    assert status == 0
    assert said == "install: uv cannot install it here; pip does, which takes longer\n"
    assert len(made) == before + 1
    assert made[-1][0].startswith("-m pip install -qq")
    assert made[-1][0].endswith("-c constraints.txt -e .[test]")


def test_the_status_is_that_of_pip_where_both_fail(calls):
    assert calls(fails="-m ")[0] == 1
