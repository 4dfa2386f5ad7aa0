"""A stage of the study, trained from the same teacher by XTC's own software: PyTorch with the layers of DeepSpeed 0.16.4.

  python benchmarks/study/deepspeed.py cola-42 --torch-python=ds/bin/python            # padded to the longest of each batch
  python benchmarks/study/deepspeed.py cola-42 --torch-python=ds/bin/python --pad=128  # as DeepSpeed's examples do

The 1-bit student of full depth and three epochs, ``w1_3``, of a work directory that has its teacher: the same batches in the
same order, the same steps and learning rates, evaluated as often, the best evaluation kept. Losses are DeepSpeed's, and so are
their normalisations. The result is written beside claims.json; with ``--beside=DIR`` the seconds of training and evaluation,
too, beside those of ours, trained at the same time on as many cores: DIR is a work directory with a copy of the teacher, in
which ``xtc compress --config=study/claims:cola,epochs=3 --config.stages="('teacher','w1_3')"`` runs. Each has a core by
``taskset``, and ours compiles anew where ``JAX_COMPILATION_CACHE_DIR`` is an empty directory. Seconds of a run alone compare
with nothing, and are not kept.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from study import RESULTS, commands, recipe_of, value

from xtc_jax.benchmark.device import environment
from xtc_jax.data import Dataset, compute_metrics, rank
from xtc_jax.errors import UserError
from xtc_jax.formats import load_flax, save_huggingface
from xtc_jax.pipeline.inputs import Inputs, load_inputs
from xtc_jax.pipeline.plan import StagePlan, make_plans
from xtc_jax.pipeline.stage import train_set_of
from xtc_jax.pipeline.workdir import finished, write_json
from xtc_jax.train.optimizer import OptimizerSpec, learning_rates

SCRIPT = Path(__file__).resolve().parents[1] / "torch_deepspeed_train.py"
FILE = RESULTS.with_name("claims_deepspeed.json")
STAGE = "w1_3"


def plan_of(run: str) -> tuple[StagePlan, Inputs]:
    """The stage of a run of the study, and its data.

    Raises:
      UserError: no such run, a task whose losses DeepSpeed's script lacks, or no teacher yet.
    """
    found = {Path(value(each, "workdir")).name: each for each in commands()}
    if run not in found:
        raise UserError(f"{run} is no run of the study; use one of {', '.join(found)}")
    recipe, workdir = recipe_of(found[run]), Path(value(found[run], "workdir"))
    if finished(workdir / "teacher") is None:
        raise UserError(f"{workdir / 'teacher'} has not ended; run its line of benchmarks/study/runs.txt first")
    inputs = load_inputs(recipe, print)
    if inputs.task.regression:
        raise UserError(f"{run}: DeepSpeed's loss on logits is one of classes; use cola or mrpc")
    plans = {plan.stage.name: plan for plan in make_plans(recipe, inputs, workdir)}
    return plans[STAGE], inputs


def job_of(plan: StagePlan, inputs: Inputs, pad: int, steps: int = 0) -> dict[str, Any]:
    """What the script is to do, but for the model; ``steps`` stops it earlier."""
    stage, seed = plan.stage, plan.fingerprint["seed"]
    data = train_set_of(plan, inputs, str)
    count, warmup = stage.counts(data.batches_per_epoch)
    epochs = range(-(-count // data.batches_per_epoch))
    batches = [planned.indices.tolist() for epoch in epochs for planned in data.plan(seed, epoch)]
    rates = learning_rates(OptimizerSpec(stage.learning_rate, count, warmup)).tolist()
    last = steps or count
    return {
        "train": _rows(data),
        "validation": _rows(_validation(inputs)),
        "batches": batches[:last],
        "rates": rates[:last],
        "eval_every": stage.eval_every,
        "pad": pad,
        "dropout": max(stage.dropout, 0.0),
    }


def _validation(inputs: Inputs) -> Dataset:
    return next(iter(inputs.validation.values()))


def _rows(data: Dataset) -> dict[str, list[list[int]]]:
    return {
        "ids": [np.asarray(each).tolist() for each in data.tokens.input_ids],
        "types": [np.asarray(each).tolist() for each in data.tokens.token_type_ids],
    }


def trained(python: str, job: dict[str, Any], plan: StagePlan, inputs: Inputs) -> dict[str, Any]:
    """The best evaluation's metrics, and the seconds of all.

    Raises:
      UserError: the script ended before its last step.
    """
    task, labels = inputs.task, _validation(inputs).labels
    assert plan.teacher is not None
    with tempfile.TemporaryDirectory() as scratch:
        save_huggingface(Path(scratch) / "model", *load_flax(plan.teacher.directory / "model"))
        file = Path(scratch) / "job.json"
        file.write_text(json.dumps({**job, "model": str(Path(scratch) / "model")}))
        answers = []
        with subprocess.Popen([python, str(SCRIPT), str(file)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                answer = json.loads(line)
                metrics = compute_metrics(task, np.asarray(answer.pop("logits"), np.float32), labels)
                answers.append({**answer, "metrics": metrics})
                print(f"step {answer['step']}/{len(job['batches'])}  {metrics}  {answer['seconds']:.0f} s", flush=True)
    if not answers or answers[-1]["step"] != len(job["batches"]):
        raise UserError(f"{SCRIPT.name} ended early, with status {process.returncode}; what it wrote stands above")
    best = max(answers, key=lambda each: rank(each["metrics"][task.metrics[0]]))
    return {
        "metrics": best["metrics"],
        "best step": best["step"],
        "steps": answers[-1]["step"],
        "seconds": answers[-1]["seconds"],
    }


def _ours(stage: Path) -> dict[str, Any]:
    """Metrics and seconds of a stage, which may still have to end."""
    while (done := finished(stage)) is None:
        time.sleep(10)
    return {key: done[key] for key in ("metrics", "steps", "seconds")}


def main() -> None:
    """Train one, and record it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", help="name of a work directory of the study, such as cola-42")
    parser.add_argument("--torch-python", required=True)
    parser.add_argument("--pad", type=int, default=0)
    parser.add_argument("--beside", type=Path, help="a work directory in which xtc trains the same student at the same time")
    parser.add_argument("--steps", type=int, default=0, help="stop after so many, to try it; nothing is recorded")
    args = parser.parse_args()
    try:
        plan, inputs = plan_of(args.run)
        result = trained(args.torch_python, job_of(plan, inputs, args.pad, args.steps), plan, inputs)
    except UserError as error:
        parser.error(str(error))
    if args.steps:
        return
    if args.beside:
        result["ours"] = _ours(args.beside / STAGE)
    else:
        del result["seconds"]
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    known[f"{args.run}, {f'padded to {args.pad}' if args.pad else 'padded to the longest'}"] = {
        **result,
        "environment": environment(jax.devices()[0]),
    }
    write_json(FILE, known)
    print(f"{FILE}: {len(known)} results")


if __name__ == "__main__":
    main()
