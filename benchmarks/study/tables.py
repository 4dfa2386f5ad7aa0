"""The tables of the study of claims, made of its results.

  python benchmarks/study/tables.py        # brings the tables of the README beside it, and its picture, up to date

A table stands in the text between two comments that name it, and is what :func:`tables` makes of ``claims.json`` and
``claims_deepspeed.json``, which lie with the other results: a test compares the two.
"""

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xtc_jax.report.pictures import named_curves

RESULTS = Path(__file__).resolve().parents[1] / "results"
PAGE = Path(__file__).with_name("README.md")
PICTURE = RESULTS / "claims.svg"
TASKS = {
    "cola": ("CoLA", ("matthews_correlation",)),
    "mrpc": ("MRPC", ("accuracy", "f1")),
    "stsb": ("STS-B", ("pearson",)),
    "sst2": ("SST-2", ("accuracy",)),
}
"""What a task is called, and the metrics whose mean is its number."""
BUDGETS = (1, 3, 9, 18)
"""Epochs of students."""
SMALL = ("cola", "mrpc", "stsb")
"""Tasks with the same budgets; one epoch of SST-2 is as many steps as eight of CoLA."""

Runs = Mapping[str, Mapping[str, Any]]
"""Work directory, such as ``cola-42``, then stage or packed file, then its result."""

STUDENTS = {
    "budgets": [
        ("2 bits, 1 epoch", "w2_1"),
        ("2 bits, 3 epochs", "w2_3"),
        ("2 bits, 9 epochs", "w2_9"),
        ("2 bits, 18 epochs", "w2_18"),
        ("1 bit, 1 epoch", "w1_1"),
        ("1 bit, 3 epochs", "w1_3"),
        ("1 bit, 9 epochs", "w1_9"),
        ("1 bit, 18 epochs", "w1_18"),
        ("1 bit, `plus` with all layers, 1 epoch", "deep_1"),
        ("1 bit, `plus` with all layers, 3 epochs", "deep_3"),
        ("1 bit, `plus` with all layers, 9 epochs", "deep_9"),
        ("1 bit, `plus` with all layers, 18 epochs", "deep_18"),
    ],
    "ways": [
        ("one stage", "w1_3"),
        ("two stages: attention and hidden states, then logits", "two_stages"),
        ("three stages: attention and hidden states, all, logits", "three_stages"),
        ("one stage at 2 bits, split, another at 1 bit", "split"),
    ],
    "depths": [("4 layers", "layers_4"), ("3 layers", "layers_3"), ("2 layers", "layers_2")],
    "half": [
        ("2 bits, `deepspeed`, 3 epochs", "half_w2_deepspeed"),
        ("2 bits, `paper-50x`, 3 epochs", "half_w2"),
        ("1 bit, `deepspeed`, 3 epochs", "half_w1_deepspeed"),
        ("1 bit, `paper-50x`, 3 epochs", "half_w1"),
        ("1 bit, `plus`, 1 epoch", "plus_1"),
        ("1 bit, `plus`, 3 epochs", "plus_3"),
        ("1 bit, `plus`, 9 epochs", "plus_9"),
        ("1 bit, `plus`, 18 epochs", "plus_18"),
    ],
    "instead": [
        ("the teacher", "teacher"),
        ("8 bits, without training", "int8"),
        *((f"{depth} layers in float16, 3 epochs", f"layers_{depth}_float16") for depth in (4, 3, 2)),
        ("2 bits, all layers, 3 epochs", "w2_3"),
        ("1 bit, all layers, 3 epochs", "w1_3"),
        ("1 bit, half of the layers, `plus`, 3 epochs", "plus_3"),
    ],
}
"""By table its rows: what a student is called, and its stage."""

CHOICES = [
    ("the teacher", "teacher"),
    ("1 bit, a scale for each matrix", "matrix"),
    ("1 bit, a scale for each row", "row"),
    ("1 bit, a scale for 64 weights", "group_64"),
    ("rows, 2 bits for 40 % of the steps, then 1", "row_2_1"),
    ("the same, scales learned", "row_2_1_learned"),
    ("rows, 8 bits for 15 % of the steps, 2 for 25 %, then 1", "row_8_2_1"),
    ("rows, 2 bits, then 1, in 70 % of the steps; before them the layers alone", "layers_first"),
    ("rows, 2 bits, then 1; new pairs", "row_2_1_pairs"),
]
"""What a student of the study of choices is called, and its stage."""

AIMS = {
    "w2": ("2 bits", 99),
    "w1": ("1 bit", 98),
    "deep": ("1 bit, `plus` with all layers", 98),
    "plus": ("1 bit, half of the layers, `plus`", 97),
}
"""By kind of student: what it is called, and the share of its teacher that this study aimed at before it began, in per cent."""


def score(task: str, metrics: Mapping[str, float]) -> float:
    """A task's number, in hundredths."""
    return 100 * statistics.fmean(metrics[name] for name in TASKS[task][1])


def having(runs: Runs, task: str, stage: str) -> list[Mapping[str, Any]]:
    """A task's runs that have a stage, by seed."""
    return [runs[name] for name in sorted(runs) if name.startswith(f"{task}-") and stage in runs[name]]


def scores(runs: Runs, task: str, stage: str) -> list[float]:
    """Of every seed that has the stage; of a teacher that several seeds share, and of it in 8 bits, one."""
    found = [score(task, run[stage]["metrics"]) for run in having(runs, task, stage)]
    return list(dict.fromkeys(found)) if stage in ("teacher", "int8") else found


def spread(values: Sequence[float]) -> str:
    """``83.1 ± 0.4`` of at least three values, the deviation that of a sample; else the values; ``""`` of none."""
    if len(values) < 3:
        return ", ".join(f"{value:.2f}" for value in values)
    return f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}"


def shares(runs: Runs, stage: str) -> dict[str, float]:
    """Of each task that has the stage: the mean over its seeds, each in per cent of its own teacher."""
    found = {
        task: [
            100 * score(task, run[stage]["metrics"]) / score(task, run["teacher"]["metrics"])
            for run in having(runs, task, stage)
        ]
        for task in TASKS
    }
    return {task: statistics.fmean(values) for task, values in found.items() if values}


def mean_share(share: Mapping[str, float]) -> float | None:
    """The mean over the small tasks; None where one is missing."""
    return statistics.fmean(share[task] for task in SMALL) if set(SMALL) <= set(share) else None


def smaller(runs: Runs, stage: str) -> str:
    """How many times smaller a stage's packed file is than the teacher in float32; of a stage in full precision its weights.

    From task to task the vocabulary differs. Of few bits that are not packed yet it says nothing.
    """
    file = "packed" if stage in ("int8", "layers_first") else f"packed-{stage}"  # of the last stage of a run
    packed = [(run["teacher"], run[file]) for run in runs.values() if {file, stage} <= set(run)]
    full = [(run["teacher"], run[stage]) for run in runs.values() if run.get(stage, {}).get("weight_bits") == 32]
    ratios = [large["bytes"] / small["bytes"] for large, small in packed or full]
    return " to ".join(dict.fromkeys(f"{ratio:.1f}" for ratio in (min(ratios), max(ratios)))) if ratios else ""


def number_cells(runs: Runs, stage: str, share: Mapping[str, float], tasks: Sequence[str]) -> list[str]:
    """A stage's number by task, with its share of the teacher's behind it; of a teacher the number alone."""
    shown = {} if stage == "teacher" else {task: f" ({value:.1f} %)" for task, value in share.items()}
    return [spread(scores(runs, task, stage)) + shown.get(task, "") for task in tasks]


def student_row(runs: Runs, name: str, stage: str) -> list[str]:
    """A student's size, its numbers by task, and its mean share of the teacher where every small task has it."""
    share = shares(runs, stage)
    mean = mean_share(share)
    cells = number_cells(runs, stage, share, tuple(TASKS))
    return [name, smaller(runs, stage), *cells, "" if mean is None else f"{mean:.1f} %"]


def student_table(runs: Runs, rows: Sequence[tuple[str, str]]) -> str:
    """The students that there are."""
    header = ["", "times smaller", *(name for name, _ in TASKS.values()), "of the teacher, mean of the first three"]
    return markdown(header, [student_row(runs, *row) for row in rows if any(row[1] in run for run in runs.values())])


def choices_table(runs: Runs) -> str:
    """Ways to half of the layers and 1 bit: their sizes, numbers and shares of the teachers."""
    found, tasks = {name.removeprefix("choices-"): run for name, run in runs.items()}, ("stsb", "sst2")
    rows = [
        [name, smaller(found, stage), *number_cells(found, stage, shares(found, stage), tasks)]
        for name, stage in CHOICES
        if any(stage in run for run in found.values())
    ]
    return markdown(["", "times smaller", *(TASKS[task][0] for task in tasks)], rows)


def longest(runs: Runs, task: str, stem: str) -> int:
    """The most epochs that three seeds of a task's student of a kind, as ``w1`` in ``w1_9``, have had; of fewer seeds, any.

    0 where there is no such student.
    """
    seeds = {epochs: len(having(runs, task, f"{stem}_{epochs}")) for epochs in BUDGETS}
    return max((epochs for epochs, count in seeds.items() if count), key=lambda each: (seeds[each] >= 3, each), default=0)


def aims_table(runs: Runs) -> str:
    """By kind of student the share of its teacher, of each task after its :func:`longest` training, and its seeds; the aim."""
    rows = []
    for stem, (name, aim) in AIMS.items():
        most = {task: epochs for task in TASKS if (epochs := longest(runs, task, stem))}
        if not most:
            continue
        share = {task: shares(runs, f"{stem}_{epochs}")[task] for task, epochs in most.items()}
        seeds = {task: len(having(runs, task, f"{stem}_{epochs}")) for task, epochs in most.items()}
        cells = [f"{share[task]:.1f} % ({most[task]}, {seeds[task]})" if task in most else "" for task in TASKS]
        rows.append([name, *cells, f"{statistics.fmean(share.values()):.1f} %" if len(share) == len(TASKS) else "", f"{aim} %"])
    return markdown(["", *(f"{name} (epochs, seeds)" for name, _ in TASKS.values()), "mean", "aim"], rows)


def baseline_row(runs: Runs) -> list[str]:
    """TF-IDF with logistic regression, or ridge regression for numbers."""
    found = {task: runs[f"{task}-42"]["baselines"][1] for task in TASKS if "baselines" in runs.get(f"{task}-42", {})}
    ratios = [runs[f"{task}-42"]["teacher"]["bytes"] / each["bytes"] for task, each in found.items()]
    cells = [f"{score(task, found[task]['metrics']):.2f}" if task in found else "" for task in TASKS]
    return ["TF-IDF with a linear model", f"{min(ratios):.0f} to {max(ratios):.0f}", *cells, ""]


def deepspeed_table(runs: Runs, rivals: Mapping[str, Any]) -> str:
    """The same student of the same teacher in the same steps, by DeepSpeed's layers and by ours.

    The seconds are of those pairs that were trained side by side.
    """
    header = ["", "DeepSpeed", "ours", "seconds, DeepSpeed", "seconds, ours", "times"]
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for name in sorted(rivals):
        run, _, padding = name.partition(", ")
        groups.setdefault((run.partition("-")[0], padding), {})[run] = rivals[name]
    rows = []
    for (task, padding), group in groups.items():
        theirs = list(group.values())
        ours = {run: runs[run] if "w1_3" in runs.get(run, {}) else {"w1_3": each["ours"]} for run, each in group.items()}
        pairs = [(each["seconds"], each["ours"]["seconds"]) for each in theirs if "ours" in each]
        scored = [spread(side) for side in ([score(task, each["metrics"]) for each in theirs], scores(ours, task, "w1_3"))]
        taken = [" / ".join(f"{pair[k]:.0f}" for pair in pairs) for k in (0, 1)]
        times = " / ".join(f"{slow / fast:.2f}" for slow, fast in pairs)
        rows.append([f"{TASKS[task][0]}, {padding}", *scored, *taken, times])
    return markdown(header, rows)


def machines_table(runs: Runs, rivals: Mapping[str, Any]) -> str:
    """The processors, versions, commits and dates of the records, and the runs with results of each."""
    keys = ("processor", "int8 instructions", "jax", "commit", "date")
    found: dict[tuple[str, ...], set[str]] = {}
    ours = [(run, each) for run, results in runs.items() for name, each in results.items() if name != "baselines"]
    for run, result in [*ours, *((f"{name.partition(',')[0]} by DeepSpeed", each) for name, each in rivals.items())]:
        found.setdefault(tuple(result["environment"][key] for key in keys), set()).add(run)
    rows = [[", ".join(sorted(found[where])), *where] for where in sorted(found)]
    return markdown(["runs", "processor", "instructions", "JAX", "commit", "date"], rows)


def rates_table(measured: Mapping[str, Any]) -> str:
    """The learning rates that were tried on held-out training data."""
    teacher_row = ["the teacher", "", "", "", f"{100 * measured['teacher']['pearson']:.2f}"]
    rows = [
        [f"{row['bits']}", f"{row['epochs']}", f"{row['rate']:g}", f"{row['loss']:.2f}", f"{100 * row['pearson']:.2f}"]
        for row in measured["rows"]
    ]
    return markdown(["bits", "epochs", "rate", "loss at the end", "Pearson"], [*rows, teacher_row])


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; all columns but the first are numbers. Of no rows it says so."""
    if not rows:
        return "None of these runs has ended yet.\n"
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def tables(runs: Runs, rivals: Mapping[str, Any]) -> dict[str, str]:
    """Every table of the page, by name."""
    made = {name: student_table(runs, rows) for name, rows in STUDENTS.items()}
    if any("baselines" in run for run in runs.values()):
        made["instead"] += "| " + " | ".join(baseline_row(runs)) + " |\n"
    return {
        **made,
        "aims": aims_table(runs),
        "choices": choices_table(read("choices.json").get("runs", {})),
        "deepspeed": deepspeed_table(runs, rivals),
        "machines": machines_table(runs, rivals),
        "rates": rates_table(read("claims_rates.json")),
    }


def picture(runs: Runs) -> str:
    """The mean share of the teacher against the budget, and against the size, as SVG: of students that every small task has."""
    names = {stage: name for rows in STUDENTS.values() for name, stage in rows}
    share = {stage: mean for stage in names if (mean := mean_share(shares(runs, stage))) is not None}
    budgets = {
        name: [(epochs, share[f"{stem}_{epochs}"]) for epochs in BUDGETS if f"{stem}_{epochs}" in share]
        for stem, name in (("w2", "2 bits"), ("w1", "1 bit"), ("plus", "1 bit, half of the layers, plus"))
    }
    sizes = {
        names[stage].replace("`", ""): [(float(size.split(" to ")[0]), share[stage])]
        for _, stage in STUDENTS["instead"]
        if stage in share and (size := smaller(runs, stage))
    }
    return named_curves({"epochs": budgets, "times smaller": sizes}, "of the teacher, %")


def with_tables(page: str, made: Mapping[str, str]) -> str:
    """The page with every table between its comments replaced."""
    for name, table in made.items():
        begin, end = f"<!-- table: {name} -->\n", "<!-- end -->"
        page = re.sub(f"{re.escape(begin)}.*?{end}", lambda _, t=begin + table + end: t, page, flags=re.DOTALL)
    return page


def read(name: str) -> Any:
    """A file of results; empty where there is none yet."""
    file = RESULTS / name
    return json.loads(file.read_text()) if file.exists() else {}


def main() -> None:
    """Bring the page up to date."""
    runs = read("claims.json").get("runs", {})
    made = tables(runs, read("claims_deepspeed.json"))
    PAGE.write_text(with_tables(PAGE.read_text(), made))
    PICTURE.write_text(picture(runs))


if __name__ == "__main__":
    main()
