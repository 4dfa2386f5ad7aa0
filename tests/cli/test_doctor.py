"""``xtc doctor``: what it finds on this machine."""

import json

import jax
import pytest

import xtc_jax
from xtc_jax.cli.main import main
from xtc_jax.kernels.packed_matmul import cpu


@pytest.fixture
def doctor(capsys, monkeypatch, tmp_path):
    (tmp_path / "cache" / "compiled").mkdir(parents=True)
    (tmp_path / "cache" / "compiled" / "program").write_bytes(bytes(2_500_000))
    monkeypatch.setenv("XTC_CACHE", str(tmp_path / "cache"))

    def run(*words: str) -> str:
        assert main(["doctor", *words]) == 0
        return capsys.readouterr().out

    return run


def test_it_names_version_devices_kernels_with_reasons_extras_and_the_sizes_of_caches(doctor, tmp_path):
    found = json.loads(doctor("--json"))
    assert found["this machine"]["xtc_jax"] == xtc_jax.__version__
    assert found["devices"] == {"cpu": f"{len(jax.devices())} x cpu"}
    assert all(found["kernels"][f"{bits}-bit weights"].split(": ")[0] in ("xla", "native_cpu") for bits in (1, 2, 4))
    assert len(found["kernels"]["1-bit weights"].split(": ", 1)[1]) > 20  # a reason
    assert found["caches"][str(tmp_path / "cache" / "compiled")] == "2.5 MB"


def test_a_native_library_that_is_missing_is_named_with_the_command_that_builds_it(doctor, monkeypatch):
    monkeypatch.setattr(cpu, "library", lambda: "the native library is not built (python -m build it)")
    assert json.loads(doctor("--json"))["kernels"]["native_cpu"] == "the native library is not built (python -m build it)"


def test_without_json_it_prints_a_section_for_each_subject(doctor):
    lines = doctor().splitlines()
    assert [line for line in lines if not line.startswith(" ")] == ["this machine", "devices", "kernels", "extras", "caches"]
