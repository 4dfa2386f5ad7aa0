"""Programs that ``xtc compress`` compiled are kept: a second run of the same shapes compiles nothing."""

import os
import subprocess
import sys

import pytest
import toy
import training

from xtc_jax.formats import save_huggingface


@pytest.mark.slow
def test_a_second_run_in_a_new_work_directory_compiles_nothing(tmp_path):
    save_huggingface(tmp_path / "model", toy.FULL_SIZE, toy.params(toy.FULL_SIZE))
    toy.tokenizer().save(str(tmp_path / "model" / "tokenizer.json"))
    toy.write_sentiment(tmp_path / "data")
    (tmp_path / "config.py").write_text(f"import training\ndef get_config(): return training.recipe({str(tmp_path)!r})\n")
    environment = {**training.environment(1), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    for name in [name for name in environment if name.startswith(("JAX_COMPILATION", "JAX_PERSISTENT", "XTC_"))]:
        del environment[name]
    kept = []
    for workdir in ("first", "second"):
        command = [sys.executable, "-m", "xtc_jax.cli", "compress", "--config=config.py", f"--workdir={workdir}"]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
        kept.append({path.name for path in (tmp_path / "cache").rglob("compiled/*") if not path.name.endswith("-atime")})
    assert len(kept[0]) >= 2  # a training step and an evaluation
    # What compiles in less than a tenth of a second is not kept; on a busy machine it may take longer the second time.
    assert {name for name in kept[1] - kept[0] if name.startswith(("jit_step", "jit_teach"))} == set()
    assert kept[0] <= kept[1]
    assert os.path.exists(tmp_path / "second" / "results.json")
