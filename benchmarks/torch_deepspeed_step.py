"""XTC's one-stage distillation in its own software: PyTorch with the layers of DeepSpeed 0.16.4.

It times the step that ``xtc_jax/benchmark/train.py`` times, or, with ``--examples``, the steps over examples of real lengths
that ``xtc_jax/benchmark/epoch.py`` times: a BERT as teacher, the same BERT as student with the Linears of its
encoder and its word embeddings at 1 bit, 8-bit activations; losses on logits, attention scores and hidden states; clipping,
AdamW. DeepSpeed deleted these layers in 2026, hence the version. It needs an environment of its own, Python 3.11 or 3.12,
without a compiler and without xtc_jax::

    python3.11 -m venv ds
    ds/bin/pip install torch==2.13.0 transformers==5.23.0 setuptools wheel
    ds/bin/pip install einops hjson msgpack ninja packaging psutil py-cpuinfo pydantic tqdm
    DS_BUILD_OPS=0 ds/bin/pip install --no-build-isolation --no-deps deepspeed==0.16.4
    echo 12 | ds/bin/python benchmarks/torch_deepspeed_step.py --model=DIR

DIR is a Hugging Face directory with a classifier. Every line of standard input is a number of steps to run; the answer is one
line of JSON: the seconds of each step, the losses of the first and the last. So programs that are compared can take turns.
"""

# ruff: noqa: E402  (standard output is turned away before DeepSpeed, which writes to it, is imported)

import argparse
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Iterator

os.environ["DS_ACCELERATOR"] = "cpu"  # otherwise DeepSpeed searches, and warns
os.environ["HF_HUB_OFFLINE"] = "1"
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what DeepSpeed logs to standard output, from its import on

import deepspeed
import numpy as np
import torch
import transformers
from deepspeed.compression.basic_layer import Embedding_Compress, LinearLayer_Compress
from torch import nn


def quantized_linear(linear: nn.Linear) -> LinearLayer_Compress:
    """``linear`` with one scale per matrix and 8-bit symmetric activations per token: ``quantize_groups=1``, ``dynamic``."""
    made = LinearLayer_Compress(linear.in_features, linear.out_features)
    made.load_state_dict(linear.state_dict())
    made.enable_weight_quantization(1, 1, 0, True, "symmetric", 1)
    made.weight_quantization_enabled = True
    made.enable_activation_quantization(8, "symmetric", "dynamic")
    made.activation_quantization_enabled = True
    return made


def quantized_embedding(table: nn.Embedding) -> Embedding_Compress:
    """``table`` with one scale per row."""
    made = Embedding_Compress(table.num_embeddings, table.embedding_dim, table.padding_idx)
    made.load_state_dict(table.state_dict())
    made.enable_weight_quantization(1, 1, 0, True, "symmetric", 1)
    made.weight_quantization_enabled = True
    return made


def quantize(bert: nn.Module) -> None:
    """What XTC quantizes: the Linears of the encoder and the word embeddings."""
    for module in list(bert.encoder.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, quantized_linear(child))
    bert.embeddings.word_embeddings = quantized_embedding(bert.embeddings.word_embeddings)


def forward(model: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """Logits, L + 1 hidden states, L attention scores before the softmax: those of DeepSpeedExamples' ``modeling_bert``."""
    bert = model.bert
    x = bert.embeddings(input_ids=batch["input_ids"], token_type_ids=batch["token_type_ids"])
    mask = (1.0 - batch["attention_mask"][:, None, None, :]) * -10000.0
    hidden, scores = [x], []
    for layer in bert.encoder.layer:
        attention = layer.attention.self
        shape = (*x.shape[:2], attention.num_attention_heads, attention.attention_head_size)
        query, key, value = (part(x).view(shape).transpose(1, 2) for part in (attention.query, attention.key, attention.value))
        scores.append(query @ key.transpose(2, 3) / math.sqrt(shape[-1]) + mask)
        weights = attention.dropout(nn.functional.softmax(scores[-1], dim=-1))
        context = (weights @ value).transpose(1, 2).reshape(x.shape)
        x = layer.attention.output(context, x)
        x = layer.output(layer.intermediate(x), x)
        hidden.append(x)
    return model.classifier(model.dropout(bert.pooler(x))), hidden, scores


def losses_of(student: nn.Module, teacher: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The three terms of DeepSpeedExamples' ``compression/bert/util.py``, weights 1."""
    with torch.no_grad():
        known = forward(teacher, batch)
    made = forward(student, batch)
    logit = -(nn.functional.softmax(known[0], dim=-1) * nn.functional.log_softmax(made[0], dim=-1)).mean()
    mse = nn.functional.mse_loss
    return {
        "logit": logit,
        "attention": torch.stack([mse(a, b) for a, b in zip(made[2], known[2], strict=True)]).sum(),
        "hidden": torch.stack([mse(a, b) for a, b in zip(made[1], known[1], strict=True)]).sum(),
    }


def adamw(student: nn.Module) -> torch.optim.AdamW:
    """With the decay of XTC's, of everything but biases and LayerNorm."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in student.named_parameters():
        groups[not (name.endswith("bias") or "LayerNorm" in name)].append(parameter)
    decays = [{"params": groups[True], "weight_decay": 0.01}, {"params": groups[False], "weight_decay": 0.0}]
    # Fused is the quickest AdamW that PyTorch has; the one of transformers 4.15, which XTC used, is a loop in Python.
    return torch.optim.AdamW(decays, lr=1e-5, eps=1e-6, fused=True)


def a_batch(rows: int, length: int, vocabulary: int) -> dict[str, torch.Tensor]:
    """Random tokens, no padding; the same as those of ``xtc benchmark train``."""
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, vocabulary, (rows, length)))
    return {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": torch.ones_like(ids)}


def real_batches(file: str, rows: int, pad: int) -> list[dict[str, torch.Tensor]]:
    """The examples of a JSON file, lists of token ids, in order; padded to ``pad`` tokens, or, if 0, to the batch's longest."""
    with open(file, encoding="utf-8") as source:
        examples = json.load(source)
    made = []
    for start in range(0, len(examples), rows):
        chosen = examples[start : start + rows]
        width = pad or max(map(len, chosen))
        ids = torch.tensor([each + [0] * (width - len(each)) for each in chosen])
        mask = torch.tensor([[1] * len(each) + [0] * (width - len(each)) for each in chosen])
        made.append({"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": mask})
    return made


def steps(args: argparse.Namespace) -> Iterator[tuple[float, dict[str, float]]]:
    """Endless training on the same batches: seconds and losses of each step."""

    def load(rate: float) -> nn.Module:
        rates = {"hidden_dropout_prob": rate, "attention_probs_dropout_prob": rate}
        return transformers.BertForSequenceClassification.from_pretrained(args.model, **rates)

    teacher, student = load(0.0).eval(), load(args.dropout).train()
    quantize(student.bert)
    if args.examples:
        batches = real_batches(args.examples, args.rows, args.pad)
    else:
        batches = [a_batch(args.rows, args.length, student.config.vocab_size)]
    optimizer = adamw(student)
    for batch in itertools.cycle(batches):
        begun = time.perf_counter()
        optimizer.zero_grad()
        losses = losses_of(student, teacher, batch)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        yield time.perf_counter() - begun, {name: float(loss.detach()) for name, loss in losses.items()}


def main() -> None:
    """Answer every line of standard input."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--examples", default="", help="JSON file of lists of token ids, instead of one random batch")
    parser.add_argument("--pad", type=int, default=0, help="of --examples: tokens of every batch; 0 is the longest of each")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    versions = {module.__name__: module.__version__ for module in (torch, deepspeed, transformers)}
    endless = steps(args)
    for line in sys.stdin:
        done = [next(endless) for _ in range(int(line))]
        answer = {"seconds": [seconds for seconds, _ in done], "first": done[0][1], "last": done[-1][1]}
        print(json.dumps({**answer, "threads": args.threads, "versions": versions}), file=ANSWERS, flush=True)


if __name__ == "__main__":
    main()
