"""What is asserted is the kernel's own count of page faults."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import training

from xtc_jax.cli.malloc import keep_memory

HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is not glibc's")

FAULTS = """
import resource, sys
from xtc_jax.cli.malloc import keep_memory
kept = keep_memory()
import jax, jax.numpy as jnp
step = jax.jit(lambda x: (jnp.outer(x, x) @ jnp.stack([x] * 8, 1), jnp.outer(x, x + 1)))  # 64 MiB on the way, 64 MiB of result
x = jnp.ones(4096)
for _ in range(2):
    jax.block_until_ready(step(x))
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
for _ in range(5):
    jax.block_until_ready(step(x))
print(int(kept), faults() - before)
"""


def undecided() -> dict[str, str]:
    """The environment of a process that has no setting of malloc."""
    return {k: v for k, v in training.environment(1).items() if k != "GLIBC_TUNABLES" and not k.startswith("MALLOC_")}


def run(**changes: str) -> tuple[int, int]:
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(command, env={**undecided(), **changes}, capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    return int(kept), int(faults)


@pytest.mark.slow
@glibc
def test_memory_that_is_kept_is_not_faulted_in_again():
    decided, many = run(GLIBC_TUNABLES="glibc.malloc.hugetlb=0")
    kept, few = run()
    assert (decided, kept) == (0, 1)
    page = 2**21 if HUGE.exists() and "[always]" in HUGE.read_text() else 2**12
    assert many > 5 * 2**26 // page
    assert few < many / 3  # none, but where a small block got in the way of a large one


@glibc
@pytest.mark.skipif(not HUGE.exists(), reason="the kernel has no huge pages")
@pytest.mark.parametrize(("changes", "advised"), [({}, "True\n"), ({"MALLOC_ARENA_MAX": "8"}, "False\n")])
def test_huge_pages_are_asked_for(changes: dict[str, str], advised: str):
    flags = 'print(any(line.startswith("VmFlags") and " hg" in line for line in open("/proc/self/smaps")))'
    command = [sys.executable, "-c", FAULTS.partition("import jax")[0] + flags]
    assert subprocess.check_output(command, env={**undecided(), **changes}, text=True) == advised


@pytest.mark.parametrize(
    "words", ["compress --config=nowhere.py --workdir=nowhere", "benchmark train --torch-python=nowhere --out=nowhere"]
)
def test_commands_that_train_keep_memory_before_any_thread_starts(tmp_path: Path, words: str):
    """Threads of numpy and JAX have arenas of their own, and what a step allocates there is faulted in again."""
    program = f"""
import sys
from pathlib import Path
from xtc_jax.cli import main as cli, malloc
def record_call():
    status = Path("/proc/self/status")
    threads = status.read_text().split("Threads:")[1].split()[0] if status.exists() else "1"
    print(threads, "numpy" in sys.modules, "jax" in sys.modules)
    raise cli.UserError("seen enough")
malloc.keep_memory = record_call
assert cli.main({words.split()!r}) == 2
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=undecided(), capture_output=True, text=True, check=False
    )
    assert done.stdout == "1 False False\n", done.stderr


@glibc
def test_a_limit_of_the_address_space_is_no_obstacle():
    limited = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))\n"
    command = [sys.executable, "-c", limited + FAULTS.partition("import jax")[0] + "print(kept, bytes(2**28)[-1])"]
    assert subprocess.check_output(command, env=undecided(), text=True) == "True 0\n"


@pytest.mark.parametrize("name", ["GLIBC_TUNABLES", "MALLOC_ARENA_MAX"])
def test_whoever_has_decided_about_malloc_is_left_alone(name: str):
    assert not keep_memory({"JAX_PLATFORMS": "cpu", name: "1"})


@pytest.mark.parametrize("file", ["nvidia0", "kfd", "accel3", "vfio/0"])
def test_nothing_is_changed_beside_an_accelerator(tmp_path: Path, file: str):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    assert not keep_memory({}, tmp_path)
