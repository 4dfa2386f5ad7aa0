"""``report.html``: one file that shows a run, or several, to somebody else; static, and complete in itself."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from xtc_jax.pipeline.plan import PACKED
from xtc_jax.report import pictures
from xtc_jax.report.baselines import read_baselines, verdicts
from xtc_jax.report.history import packed_account, read_histories, read_predictions, weight_summaries
from xtc_jax.report.outlook import outlook
from xtc_jax.report.runs import joint_rows, read_results, result_rows
from xtc_jax.report.style import STYLE
from xtc_jax.report.tables import table_cells

Result = dict[str, Any]


def write_page(workdirs: Sequence[Path], file: Path, examples: bool = True) -> None:
    """Write the page of one finished run, or of several together.

    Args:
      workdirs: their work directories.
      file: the page; replaced if it is there.
      examples: show texts of the validation data on which teacher and student disagree.

    Raises:
      UserError: a run is not finished.
    """
    rows = joint_rows(workdirs) if len(workdirs) > 1 else []
    titles = [_title(workdir) for workdir in workdirs]
    parts = [f"<h1>{escape(' · '.join(dict.fromkeys(titles)))}</h1>"]
    if rows:
        parts += [
            "<h2>All runs</h2>",
            _table(*table_cells(rows)),
            _picture(pictures.size_against_metric(rows), "metric, bytes"),
        ]
    for workdir, title in zip(workdirs, titles, strict=True):
        head = f"<h2 class=run>{escape(workdir.resolve().name)}: {escape(title)}</h2>" if len(workdirs) > 1 else ""
        parts += [head, *_run(workdir, examples)]
    body = "\n".join(filter(None, parts))
    page = f"<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n<title>{escape(titles[0])}: xtc_jax</title>\n"
    page += '<meta name=viewport content="width=device-width, initial-scale=1">\n'
    file.write_text(f"{page}<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n")


def _records(workdir: Path) -> dict[str, Result]:
    """``config.json`` of every stage, by the stage's directory, in the order in which they were made."""
    found = {file.parent.name: json.loads(file.read_text()) for file in workdir.glob("*/config.json")}
    stages = {name: record for name, record in found.items() if "built on" in record}
    return dict(sorted(stages.items(), key=lambda item: len(item[1]["built on"])))


def _title(workdir: Path) -> str:
    record: Result = next(iter(_records(workdir).values()), {})
    return f"{record.get('task', workdir.resolve().name)}: {record.get('model', 'a run of xtc_jax')}"


def _run(workdir: Path, examples: bool) -> Iterator[str]:
    """The sections of one run."""
    results = read_results(workdir)
    rows = result_rows(results)
    yield _summary(workdir, results)
    yield "<h3>Every stage</h3>"
    yield _table(*table_cells(rows))
    yield _picture(pictures.size_against_metric(rows), f"{rows[0].metric} over bytes")
    baselines = read_baselines(workdir)
    if baselines:
        yield "<h3>Simpler models on the same data</h3>"
        yield _baselines(baselines)
    yield from _answers(read_predictions(workdir), examples)
    yield from _training(workdir, results)
    packed = workdir / Path(results[PACKED]["path"]).name if PACKED in results else None
    if packed and packed.is_dir():
        yield from _packed(packed)
    yield from _configs(workdir)


def _summary(workdir: Path, results: Result) -> str:
    """What came out, in sentences."""
    rows = result_rows(results)
    first, last = rows[0], rows[-1]
    metric = first.metric
    sentences = [
        f"The teacher, {first.layers} layers and {first.bytes:,} bytes of weights, has {metric} {100 * first.value:.2f} on the "
        "validation data."
    ]
    if len(rows) > 1:
        share = f", {100 * last.value / first.value:.1f} % of it" if first.value > 0 else ""
        sentences.append(
            f"The {last.stage} model, {last.layers} layers at {last.bits} bit, has {100 * last.value:.2f}{share}, in "
            f"{last.bytes:,} bytes: {last.fp32_bytes / last.bytes:.1f} times fewer."
        )
    if PACKED in results:
        sentences.append(_equality(results[PACKED]))
    more = [*verdicts(results, read_baselines(workdir)), *outlook(results, workdir)]
    sentences += [line[:1].upper() + line[1:] for line in more]
    sentences.append(f"All stages took {sum(row.seconds for row in rows) / 60:.1f} minutes.")
    return f"<p class=summary>{escape(' '.join(sentences))}</p>"


def _equality(packed: Result) -> str:
    """How the packed model compares with the student that was trained."""
    if packed["max_logit_difference"] == 0:
        return "Loaded from its file, its logits equal the trained student's to the last bit."
    return (
        f"Loaded from its file, its logits differ from the trained student's by at most {packed['max_logit_difference']:.1e}, "
        f"and {100 * packed['prediction_agreement']:.2f} % of the answers are the same."
    )


def _baselines(baselines: list[Result]) -> str:
    names = list(baselines[0]["metrics"])
    header = ("baseline", *names, "bytes")
    cells = [(b["name"], *(f"{100 * b['metrics'][name]:.2f}" for name in names), f"{b['bytes']:,}") for b in baselines]
    return _table(header, cells)


def _answers(found: Mapping[str, Any], examples: bool) -> Iterator[str]:
    """Confusion matrices, or predictions over labels; and the examples on which two models disagree."""
    if not found:
        return
    yield f"<h3>Answers on the validation data ({escape(found['split'])}, {len(found['labels']):,} examples)</h3>"
    if not found["classes"]:
        yield _picture(pictures.predicted_against_labels(found["labels"], found["answers"]), "predictions over labels")
    else:
        matrices = [_confusion(name, found["classes"], found["labels"], each) for name, each in found["answers"].items()]
        yield f"<div class=row>{''.join(matrices)}</div>"
    if examples and found["examples"]:
        names = list(found["answers"])
        yield f"<h3>Where {escape(names[0])} and {escape(names[-1])} differ most</h3>"
        yield "<p class=note>These texts are from the validation data. <code>--no-examples</code> leaves them out.</p>"
        yield _examples(found, names)


def _confusion(name: str, classes: Sequence[str], labels: Sequence[int], answers: Sequence[int]) -> str:
    """A table: rows are labels, columns answers; the darker, the larger the share of its row."""
    counts = [[0] * len(classes) for _ in classes]
    for label, answer in zip(labels, answers, strict=True):
        counts[label][answer] += 1
    head = "".join(f"<th>{escape(each)}</th>" for each in classes)
    lines = [f"<tr><th>label \\ answer</th>{head}</tr>"]
    for title, row in zip(classes, counts, strict=True):
        cells = "".join(_shaded(count, count / max(sum(row), 1)) for count in row)
        lines.append(f"<tr><th>{escape(title)}</th>{cells}</tr>")
    return f"<figure><figcaption>{escape(name)}</figcaption><table class=confusion>{''.join(lines)}</table></figure>"


def _shaded(count: int, share: float) -> str:
    color = "#fff" if share > 0.55 else "#102a2a"
    style = f"background:rgba(42,157,143,{share:.3f});color:{color}"
    return f'<td style="{style}">{count:,}<br><small>{100 * share:.0f} %</small></td>'


def _examples(found: Mapping[str, Any], names: Sequence[str]) -> str:
    classes = found["classes"]

    def answer(example: Mapping[str, Any], name: str) -> str:
        value, certainty = example[name]
        return f"{classes[value]} ({100 * certainty:.0f} %)" if classes else f"{value:.2f}"

    rows = [
        (
            " | ".join(example["texts"]),
            classes[example["label"]] if classes else f"{example['label']:.2f}",
            *(answer(example, name) for name in names),
        )
        for example in found["examples"]
    ]
    return _table(("text", "label", *names), rows, "examples")


def _training(workdir: Path, results: Result) -> Iterator[str]:
    """Curves of every stage, and where the time went."""
    stages = {name: record[name].get("result") or name for name, record in _records(workdir).items()}
    rates = {name: results[key].get("learning_rate", 0.0) for name, key in stages.items() if key in results}
    histories = read_histories(workdir, rates)
    if not histories:
        return
    yield "<h3>Training</h3>"
    for history in histories:
        if history.losses:
            yield f"<h4>{escape(history.name)}</h4>"
            yield _picture(pictures.learning_curves(history), f"learning curves of {history.name}")
    yield "<h3>Where the time went</h3>"
    yield _picture(pictures.seconds_by_stage(histories), "seconds of every stage by what they were spent on")


def _packed(packed: Path) -> Iterator[str]:
    """Bytes and weights of the packed model."""
    groups = packed_account(packed)
    if groups:
        yield "<h3>Where the bytes are</h3>"
        yield _picture(pictures.bytes_by_group(groups), "bytes by group of tensors")
    weights = weight_summaries(packed)
    if any(weight.layer >= 0 for weight in weights):
        yield "<h3>Scales and signs of the packed weights</h3>"
        yield _picture(pictures.scales_and_signs(weights), "scale and share of positive values by layer")


def _configs(workdir: Path) -> Iterator[str]:
    yield "<details><summary>What every stage was made with</summary>"
    for name, record in _records(workdir).items():
        yield f"<h4>{escape(name)}</h4><pre>{escape(json.dumps(record, indent=1))}</pre>"
    yield "</details>"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "numbers") -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class=scroll><table class={kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _picture(svg: str, text: str) -> str:
    data = base64.b64encode(svg.encode()).decode()
    return f'<img alt="{escape(text)}" src="data:image/svg+xml;base64,{data}">'
