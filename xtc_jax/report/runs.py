"""What runs gave, as tables: the report of one work directory, and one table of several."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from xtc_jax.errors import UserError
from xtc_jax.pipeline.plan import PACKED
from xtc_jax.recipe.recipe import Recipe
from xtc_jax.report.baselines import baseline_table, read_baselines, verdicts
from xtc_jax.report.outlook import outlook
from xtc_jax.report.tables import Row, draw, markdown_table

Result = dict[str, Any]


def result_rows(results: Result, run: str = "") -> list[Row]:
    """The lines of a run's table; the first stage is the teacher. ``run`` is put before the names of the stages."""
    first = next(iter(results.values()))
    metric = next(iter(first["metrics"]))
    return [
        Row(
            stage=f"{run}: {name}" if run else name,
            layers=result["layers"],
            bits=result["weight_bits"],
            metric=metric,
            value=result["metrics"][metric],
            teacher=first["metrics"][metric],
            bytes=result["bytes"],
            fp32_bytes=first["bytes"],
            steps=result["steps"],
            seconds=result["seconds"],
        )
        for name, result in results.items()
    ]


def read_results(workdir: Path) -> Result:
    """``results.json`` of a finished run.

    Raises:
      UserError: the run is not finished, or there is none.
    """
    file = workdir / "results.json"
    try:
        results: Result = json.loads(file.read_text())
    except FileNotFoundError:
        raise UserError(f"{workdir}: no results.json; give the --workdir of a run of 'xtc compress' that has ended") from None
    except ValueError as error:
        raise UserError(f"{file}: not a JSON file ({error})") from None
    return results


def joint_rows(workdirs: Sequence[Path]) -> list[Row]:
    """The lines of several runs, one after another, each against its own teacher; runs are named by their directories.

    Runs that differ in the seed alone are followed by their means, a line for each stage.

    Raises:
      UserError: see :func:`read_results`.
    """
    named = {workdir: result_rows(read_results(workdir), workdir.resolve().name) for workdir in workdirs}
    groups: dict[str, dict[int, Path]] = {}
    for workdir in workdirs:
        key, seed = _but_for_the_seed(workdir)
        groups.setdefault(key, {}).setdefault(seed, workdir)
    means = [row for key, seeds in groups.items() if key and len(seeds) > 1 for row in _mean_rows(list(seeds.values()))]
    return [row for rows in named.values() for row in rows] + means


def _but_for_the_seed(workdir: Path) -> tuple[str, int]:
    """What the stages of a run were made with, as text, and the seed; ("", 0) where no stage has left a record of it."""
    records = {file.parent.name: json.loads(file.read_text()) for file in sorted(workdir.glob("*/config.json"))}
    stages = {name: record for name, record in records.items() if "built on" in record}
    if not stages:
        return "", 0
    seed = next(iter(stages.values()))["seed"]
    same = {name: {k: v for k, v in record.items() if k not in ("seed", "built on")} for name, record in stages.items()}
    return json.dumps(same, sort_keys=True), seed


def _mean_rows(workdirs: list[Path]) -> list[Row]:
    """One line for each stage: means over runs of the same recipe, and the standard deviation of the metric."""
    name = f"{workdirs[0].resolve().name} and {len(workdirs) - 1} more"
    runs = [result_rows(read_results(workdir)) for workdir in workdirs]
    return [
        replace(
            rows[0],
            stage=f"{name}: {rows[0].stage}, mean",
            value=statistics.fmean(row.value for row in rows),
            teacher=statistics.fmean(row.teacher for row in rows),
            seconds=statistics.fmean(row.seconds for row in rows),
            spread=statistics.stdev(row.value for row in rows),
        )
        for rows in zip(*runs, strict=True)
    ]


def write_report(results: Result, recipe: Recipe, workdir: Path) -> None:
    """Write ``report.md`` and its picture ``report.png``; :func:`xtc_jax.report.write_page` writes the same for a browser."""
    title = f"{recipe.config['task']}: {recipe.config['model']}"
    rows = result_rows(results)
    # A fake-quantized student is stored in float32 and has its packed model's metric: no bar of its own.
    packed = [name for name in results if name.endswith(PACKED)]
    drawn = [row for row in rows if row.bits == 32 or row.stage in packed or not packed]
    draw(drawn, workdir / "report.png", title)
    lines = [f"# {title}", "", markdown_table(rows), "![weights and metric of every stage](report.png)", ""]
    for name in packed:
        lines += [_packed_text(results[name]), ""]
    baselines = read_baselines(workdir) if recipe.config["baselines"] else []
    if baselines:
        lines += [baseline_table(baselines), *verdicts(results, baselines), ""]
    if told := outlook(results, workdir):
        lines += [" ".join(told), ""]
    lines += ["```json", json.dumps(recipe.config, indent=1), "```", ""]
    (workdir / "report.md").write_text("\n".join(lines))


def _packed_text(packed: Result) -> str:
    return (
        f"Packed model: `{packed['path']}`, {packed['bytes']:,} bytes of weights, {packed['ratio']:.2f} times fewer than "
        f"the teacher's {packed['fp32_bytes']:,} at four bytes each (tokenizer and config on neither side)."
        f"{_tokenizer_text(packed)}\n\n"
        f"Against the fake-quantized student: predictions agree on {100 * packed['prediction_agreement']:.2f} % of the "
        f"validation examples, logits differ by at most {packed['max_logit_difference']:.2e}."
    )


def _tokenizer_text(packed: Result) -> str:
    if "tokenizer_bytes" not in packed:  # of a run of before they were counted
        return ""
    return f" Its tokenizer of {packed['word_pieces']:,} word pieces takes {packed['tokenizer_bytes']:,} bytes more."
