"""A PyTorch BERT to JAX, compressed, and out again as ONNX.

  pip install torch ".[deploy]"
  python examples/from_pytorch.py [--small]

Any directory that ``save_pretrained`` of transformers has written can stand in the place of the one that is made here.
"""

import argparse
from pathlib import Path

import jax
import numpy as np

from xtc_jax.bert import apply
from xtc_jax.cli.main import main as xtc
from xtc_jax.formats import copy_tokenizer, load_huggingface, resolve_model


def save_from_torch(directory: Path) -> np.ndarray:
    """Write a ``BertForSequenceClassification`` of torch as safetensors; returns its logits for :func:`token_ids`."""
    import torch
    from transformers import BertForSequenceClassification

    source = resolve_model("pinned:all-MiniLM-L6-v2")
    torch.manual_seed(0)
    model = BertForSequenceClassification.from_pretrained(source, num_labels=2).eval()
    model.save_pretrained(directory)
    copy_tokenizer(source, directory)
    with torch.no_grad():
        return model(torch.tensor(token_ids())).logits.numpy()


def token_ids() -> np.ndarray:
    """Some ids of word pieces, int64 ``(2, 8)``, to compare logits on."""
    return np.random.default_rng(0).integers(1000, 20000, (2, 8))


def logits_in_jax(directory: Path) -> np.ndarray:
    """The logits of the same ids by this package."""
    config, params = load_huggingface(directory)
    ids = token_ids().astype(np.int32)
    return np.asarray(jax.jit(lambda *args: apply(config, *args).logits)(params, ids, np.zeros_like(ids), np.ones_like(ids)))


def command(*words: str) -> None:
    """Run ``xtc``; what is wrong stands on the screen in one line."""
    if status := xtc(words):
        raise SystemExit(status)


def main() -> None:
    """The whole way; prints how far PyTorch, JAX and ONNX Runtime agree."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", type=Path, default=Path("runs/from_pytorch"))
    parser.add_argument("--small", action="store_true", help="a minute, to see it run")
    arguments = parser.parse_args()
    root = arguments.workdir.resolve()
    root.mkdir(parents=True, exist_ok=True)

    difference = np.abs(save_from_torch(root / "torch") - logits_in_jax(root / "torch")).max()
    print(f"PyTorch and JAX: logits differ by at most {difference:.1e}")

    recipe = "quickstart:runlocal" if arguments.small else "quickstart"
    command("compress", f"--config={recipe}", f"--config.model={root / 'torch'}", f"--workdir={root / 'run'}")
    command("export", str(root / "run" / "packed"), str(root / "onnx"), "--to=onnx")


if __name__ == "__main__":
    main()
