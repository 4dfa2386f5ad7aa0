"""XTC's one-stage distillation to 1 bit in its own software, from a job file: the rival of a stage of ``xtc compress``.

PyTorch with the layers, the losses and the normalisations of ``torch_deepspeed_step.py``, in an environment as described there;
``benchmarks/study/deepspeed.py`` writes the job and reads the answers::

    ds/bin/python benchmarks/torch_deepspeed_train.py job.json

The job is a JSON object: ``model``, a Hugging Face directory, teacher and initial student; ``train`` and ``validation``, each
with ``ids`` and ``types``, lists of lists; ``batches``, the rows of each step; ``rates``, its learning rate; ``eval_every``;
``pad``, tokens of every batch, or 0 for the longest of each; ``dropout``. Every evaluation is answered by a line of JSON:
``step``, ``seconds`` of training and evaluation so far, and the ``logits`` of the validation examples.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from torch import nn
from torch_deepspeed_step import ANSWERS, adamw, forward, losses_of, quantize

Rows = dict[str, list[list[int]]]


def batch_of(rows: Rows, chosen: list[int], pad: int) -> dict[str, torch.Tensor]:
    """Some examples, padded to ``pad`` tokens or to the longest of them."""
    ids, types = ([rows[key][i] for i in chosen] for key in ("ids", "types"))
    width = pad or max(map(len, ids))

    def padded(lists: list[list[int]]) -> torch.Tensor:
        return torch.tensor([each + [0] * (width - len(each)) for each in lists])

    return {
        "input_ids": padded(ids),
        "token_type_ids": padded(types),
        "attention_mask": padded([[1] * len(each) for each in ids]),
    }


@torch.no_grad()
def logits_of(student: nn.Module, rows: Rows, pad: int) -> list[list[float]]:
    """Of every example, in order; 128 at a time."""
    student.eval()
    count = len(rows["ids"])
    starts = range(0, count, 128)
    made = [forward(student, batch_of(rows, list(range(at, min(at + 128, count))), pad))[0] for at in starts]
    student.train()
    return torch.cat(made).tolist()


def training(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """An answer for each evaluation; the last step evaluates."""

    def load(rate: float) -> nn.Module:
        rates = {"hidden_dropout_prob": rate, "attention_probs_dropout_prob": rate}
        return transformers.BertForSequenceClassification.from_pretrained(job["model"], **rates)

    teacher, student = load(0.0).eval(), load(job["dropout"]).train()
    quantize(student.bert)
    optimizer = adamw(student)
    begun, steps = time.perf_counter(), len(job["batches"])
    for step, (rows, rate) in enumerate(zip(job["batches"], job["rates"], strict=True), 1):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        losses = losses_of(student, teacher, batch_of(job["train"], rows, job["pad"]))
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        if step % job["eval_every"] == 0 or step == steps:
            logits = logits_of(student, job["validation"], job["pad"])
            yield {"step": step, "seconds": time.perf_counter() - begun, "logits": logits}


def main() -> None:
    """Train, and answer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    with open(args.job, encoding="utf-8") as source:
        job = json.load(source)
    for answer in training(job):
        print(json.dumps(answer), file=ANSWERS, flush=True)


if __name__ == "__main__":
    main()
