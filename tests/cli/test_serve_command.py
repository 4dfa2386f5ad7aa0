"""``xtc serve``: bad input, and what is not installed."""

import importlib.util
import socket

import pytest

from xtc_jax.cli.main import main


def test_without_the_extra_the_command_that_installs_it_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["serve", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        "xtc: error: fastapi and uvicorn and prometheus_client not installed; run: pip install 'xtc_jax[serve]'\n"
    )


@pytest.mark.serve
def test_a_directory_that_is_no_model_is_refused(tmp_path, capsys):
    assert main(["serve", str(tmp_path / "none"), "--port=0"]) == 2
    assert capsys.readouterr().err == f"xtc: error: {tmp_path / 'none'}: no such model directory\n"


@pytest.mark.serve
def test_a_port_that_is_taken_is_refused(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["serve", str(tmp_path), f"--port={port}"]) == 2
    assert f"127.0.0.1:{port}: cannot listen there" in capsys.readouterr().err


def test_limits_are_positive(tmp_path, capsys):
    assert main(["serve", str(tmp_path), "--max-batch=0"]) == 2
    assert capsys.readouterr().err == "xtc: error: --max-batch=0: give a number of 1 or more\n"
