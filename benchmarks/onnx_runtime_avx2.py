"""AVX2 on a processor that has more: ours beside ONNX Runtime's dynamic int8, with AVX-512 and VNNI hidden from both.

python benchmarks/onnx_runtime_avx2.py --size 1x16 1x32 1x128 --rounds=9

Ours is told so by XTC_CPU_ISA. ONNX Runtime asks the processor: a copy of its library gets, in place of each ``cpuid``, an
instruction that does not exist, and a handler of the signal that follows answers without those bits. Linux on x86-64 with gcc
and objdump. Each has a process of its own; rounds take turns.
"""

import argparse
import importlib.util
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HANDLER = r"""
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <ucontext.h>
static void answer(int number, siginfo_t *info, void *context) {
  greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
  const unsigned char *at = (const unsigned char *)r[REG_RIP];
  if (at[0] != 0x0f || at[1] != 0x0b) { signal(SIGILL, SIG_DFL); return; }
  unsigned leaf = r[REG_RAX], sub = r[REG_RCX], a, b, c, d;
  __cpuid_count(leaf, sub, a, b, c, d);
  if (leaf == 7 && sub == 0) b &= ~0xdc230000u, c &= ~0x5842u, d &= ~0x03c0010cu;  /* AVX-512, AMX */
  if (leaf == 7 && sub == 1) a &= ~0x30u;                                          /* AVX-VNNI, bfloat16 */
  r[REG_RAX] = a, r[REG_RBX] = b, r[REG_RCX] = c, r[REG_RDX] = d, r[REG_RIP] += 2;
}
__attribute__((constructor)) static void begin(void) {
  struct sigaction how = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
  sigaction(SIGILL, &how, 0);
}
"""


def masked_copy(directory: Path) -> int:
    """A copy of ONNX Runtime that asks no ``cpuid``, and ``answer.so``, in ``directory``; how many places were changed."""
    found = importlib.util.find_spec("onnxruntime")
    assert found is not None
    assert found.origin is not None
    shutil.copytree(Path(found.origin).parent, directory / "onnxruntime")
    (library,) = (directory / "onnxruntime" / "capi").glob("onnxruntime_pybind11_state*.so")
    text = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", str(library)], capture_output=True, text=True, check=True
    ).stdout
    places = [int(address, 16) for address in re.findall(r"^\s*([0-9a-f]+):\s+cpuid\b", text, re.MULTILINE)]
    headers = subprocess.run(["objdump", "-h", str(library)], capture_output=True, text=True, check=True).stdout
    sections = [
        [int(each, 16) for each in row] for row in re.findall(r"^\s*\d+ \S+\s+(\w{8,}) +(\w+) +\w+ +(\w+)", headers, re.M)
    ]
    code = bytearray(library.read_bytes())
    for place in places:
        size, begins, offset = next(row for row in sections if row[1] <= place < row[1] + row[0] and row[1])
        assert 0 <= place - begins < size
        assert code[offset + place - begins :][:2] == b"\x0f\xa2"
        code[offset + place - begins + 1] = 0x0B
    library.write_bytes(code)
    subprocess.run(
        ["gcc", "-O1", "-shared", "-fPIC", "-xc", "-", "-o", str(directory / "answer.so")], input=HANDLER.encode(), check=True
    )
    return len(places)


def serve(which: str) -> None:
    """Answer each line ``BATCH LENGTH`` with the seconds of one forward pass."""
    forward = _ours() if which == "ours" else _onnx_runtime()
    for line in sys.stdin:
        batch, length = map(int, line.split())
        begun = time.perf_counter()
        forward(batch, length)
        sys.stdout.write(f"{time.perf_counter() - begun}\n")
        sys.stdout.flush()


def _texts(batch: int, length: int) -> tuple[Any, Any, Any]:
    import numpy as np

    ids = np.random.default_rng(0).integers(0, 30522, (batch, length)).astype(np.int32)
    return ids, np.zeros_like(ids), np.ones_like(ids)


def _params() -> tuple[Any, Any]:
    import jax

    from xtc_jax.bert import BertConfig, init

    config = BertConfig()
    return config, jax.jit(lambda key: init(config, key))(jax.random.key(0))


def _ours() -> Callable[[int, int], Any]:
    import jax

    from xtc_jax.bert import apply
    from xtc_jax.compress import pack, ready
    from xtc_jax.quantize import named_rules

    config, params = _params()
    packed = ready(pack(params, named_rules("paper-50x", 1)), backend="native_cpu")
    run = jax.jit(lambda params, *each: apply(config, params, *each).logits)
    return lambda batch, length: run(packed, *_texts(batch, length)).block_until_ready()


def _onnx_runtime() -> Callable[[int, int], Any]:
    import jax
    import numpy as np

    from xtc_jax.benchmark.onnx_encoder import dynamic_int8, onnx_model, session

    config, params = _params()
    run = session(dynamic_int8(onnx_model(config, jax.tree.map(np.asarray, params))))
    return lambda batch, length: run(*_texts(batch, length))


def main() -> None:
    """Print a table: medians in milliseconds, and the median of the ratios of paired rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", default=["1x16", "1x32", "1x128", "8x128"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--serve", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    with tempfile.TemporaryDirectory() as scratch:
        sys.stdout.write(f"cpuid answered in {masked_copy(Path(scratch))} places\n")
        root = Path(__file__).resolve().parents[1]
        common = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
        settings = {
            "ours": common | {"XTC_CPU_ISA": "avx2", "XLA_FLAGS": "--xla_cpu_max_isa=AVX2"},
            "onnx": common | {"LD_PRELOAD": f"{scratch}/answer.so", "PYTHONPATH": f"{scratch}:{root}"},
        }
        workers = {
            name: subprocess.Popen(
                [sys.executable, __file__, f"--serve={name}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for name, environment in settings.items()
        }
        for size in arguments.size:
            _measure(workers, size, arguments.rounds)
        for worker in workers.values():
            worker.communicate()


def _measure(workers: dict[str, "subprocess.Popen[str]"], size: str, rounds: int) -> None:
    def ask(name: str) -> float:
        worker = workers[name]
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(size.replace("x", " ") + "\n")
        worker.stdin.flush()
        return float(worker.stdout.readline())

    for name in workers:
        for _ in range(3):
            ask(name)
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name in workers:
            seconds[name].append(statistics.median(ask(name) for _ in range(3)))
    ratio = statistics.median(b / a for a, b in zip(seconds["ours"], seconds["onnx"], strict=True))
    told = ", ".join(f"{name} {1e3 * statistics.median(each):.1f} ms" for name, each in seconds.items())
    sys.stdout.write(f"{size}: {told}, onnx / ours {ratio:.2f}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
