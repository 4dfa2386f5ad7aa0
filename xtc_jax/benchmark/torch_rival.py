"""The training step of XTC's own software, PyTorch with DeepSpeed's layers, in a process that waits for its turns."""

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xtc_jax.bert import BertConfig
from xtc_jax.errors import UserError
from xtc_jax.formats import save_huggingface
from xtc_jax.params import Params

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "torch_deepspeed_step.py"
TORCH = "PyTorch, DeepSpeed 0.16.4"
Turn = Callable[[], Any]


def check_torch(python: str) -> None:
    """Whether the script and the interpreter are there; "" needs none.

    Raises:
      UserError: one of them is not.
    """
    if python and not SCRIPT.is_file():
        raise UserError(f"--torch-python: {SCRIPT} is not there; run from a checkout of the repository")
    if python and not Path(python).is_file():
        raise UserError(f"--torch-python={python}: no such file; benchmarks/torch_deepspeed_step.py says how to make one")


@contextmanager
def torch_turn(python: str, config: BertConfig, params: Params, options: Sequence[str], steps: int) -> Iterator[Turn]:
    """A turn of so many steps, in a process of its own with the script's ``options``.

    Raises:
      UserError: the script ends before it answers.
    """
    with tempfile.TemporaryDirectory() as directory:
        save_huggingface(Path(directory) / "model", config, params)
        words = [python, str(SCRIPT), f"--model={directory}/model", *options]
        log = Path(directory) / "log"
        with (
            log.open("w") as stderr,
            subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
        ):

            def turn() -> Any:
                assert process.stdin is not None
                assert process.stdout is not None
                try:
                    process.stdin.write(f"{steps}\n")
                    process.stdin.flush()
                    return json.loads(process.stdout.readline())["last"]["logit"]
                except (BrokenPipeError, ValueError):
                    last = (log.read_text().strip().splitlines() or ["no message"])[-1]
                    raise UserError(f"--torch-python={python}: {SCRIPT.name} ended: {last}") from None

            yield turn
            process.terminate()
